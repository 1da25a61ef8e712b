"""Whole runs of `hinge check` and `hinge check-step`, compared with NumPy formulas."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from prefect.client.orchestration import get_client

from flows.check.flow import compute_gradient
from flows.runs.directory import RunDirectory
from kernels.partial import Evaluation
from pipeline.check import black_box
from storage.dataset import open_dataset
from storage.schema import CLASSES
from tests.flows.conftest import Command, Finished, User
from tests.flows.test_command import loss_in_numpy, read
from tests.flows.test_flows import artifacts_of, flow_run_of, task_runs_of
from tests.flows.test_refusals import left, refused
from tests.flows.test_sweep import gradient_in_numpy

Floats = NDArray[np.float64]
CHANNELS = ("red", "green", "blue")
PICTURES = ("errors", "histogram", "crossings")


@pytest.fixture
def check(user: User, hinge: Command, store: Path) -> Any:
    """Return a function that runs `hinge check` on the small store."""
    return runner("check", user, hinge, store)


@pytest.fixture
def check_step(user: User, hinge: Command, store: Path) -> Any:
    """Return a function that runs `hinge check-step` on the small store."""
    return runner("check-step", user, hinge, store)


def runner(command: str, user: User, hinge: Command, store: Path) -> Any:
    def run(*given: object, status: int = 0) -> Finished:
        finished = hinge(command, "--store", store, "--scheduler", user.scheduler, *given)
        assert finished.status == status, finished.err
        return finished

    return run


def normal(seed: int = 0, scale: float = 1e-3) -> Floats:
    """Return the weights of `normal:SCALE`, drawn with NumPy's documented Philox stream."""
    sequence = np.random.SeedSequence(seed, spawn_key=(1, 0))
    return scale * np.random.Generator(np.random.Philox(sequence)).standard_normal((10, 3073))


def drawn(purpose: int, size: int, number: int, seed: int = 0) -> NDArray[np.int64]:
    """Return a sample, drawn with NumPy's documented Philox stream.

    `purpose` is 2 for mini-batches, 6 for examples, and 7 for coordinates.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, 0))
    random = np.random.Generator(np.random.Philox(sequence))
    return np.sort(random.choice(size, number, replace=False, shuffle=False))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_table(
    rows: list[dict[str, str]],
    W: Floats,
    store: Path,
    step: float = 1e-5,
    reg: float = 0.0,
    examples: NDArray[np.int64] | None = None,
) -> None:
    """Compare the gradient and the centred difference with NumPy formulas in a few coordinates."""
    X, y = read(open_dataset(str(store)), "train")
    X, y = (X, y) if examples is None else (X[examples], y[examples])
    gradient = gradient_in_numpy(W, X, y, reg)
    for row in [*rows[:: len(rows) // 4], rows[-1]]:
        place = CLASSES.index(row["class"]), int(row["pixel"])
        assert float(row["analytic"]) == pytest.approx(gradient[place], rel=1e-9, abs=1e-11)
        up, down = W.copy(), W.copy()
        up[place] += step
        down[place] -= step
        losses = [loss_in_numpy(each, X, y, reg) for each in (up, down)]
        expected = (losses[0] - losses[1]) / (up[place] - down[place])
        # rounding may change each loss by several units in the last place
        bound = 100 * np.spacing(losses[0]) / step
        assert float(row["numerical"]) == pytest.approx(expected, rel=0, abs=bound)
        off = float(row["analytic"]) - (float(row["numerical"]) - float(row["kinks"]))
        assert abs(off) <= float(row["roundoff_bound"])


def test_check_of_a_correct_gradient_writes_record_tables_and_figures(
    check: Any, store: Path, tmp_path: Path
) -> None:
    finished = check("--json")
    result = finished.result
    [path] = (tmp_path / "runs").iterdir()
    assert json.loads((path / "result.json").read_text()) == result
    assert (result["command"], result["status"]) == ("check", "done")
    assert (result["coordinates"], result["examples"]) == (30730, 600)
    verdicts = result["verdicts"]
    assert verdicts.keys() == {"pass", "kink", "roundoff", "wrong"}
    assert sum(verdicts.values()) == 30730
    assert verdicts["wrong"] == 0 < verdicts["kink"]
    assert result["max_error_after_kinks"] <= result["largest_roundoff_bound"] < 1e-8
    assert result["max_error"] > 1e-4  # because of kinks
    assert result["max_relative_error"] >= result["max_relative_error_after_kinks"]
    assert 0 < result["seconds"] < result["timings"]["seconds"]
    assert len(result["worst"]) == 10
    W = normal()
    assert result["weights_sha256"] == hashlib.sha256(W.tobytes()).hexdigest()
    X, y = read(open_dataset(str(store)), "train")
    assert result["loss"] == pytest.approx(loss_in_numpy(W, X, y), rel=1e-12)

    rows = table(path / "coordinates.csv")
    places = [(row["class"], row["pixel"]) for row in rows]
    assert places == [(name, str(pixel)) for name in CLASSES for pixel in range(3073)]
    check_table(rows, W, store)
    assert sum(int(row["crossings"]) for row in rows) == result["kink_crossings"] > 0
    for name, number in verdicts.items():
        assert sum(row["verdict"] == name for row in rows) == number
    errors = [abs(float(row["analytic"]) - float(row["numerical"])) for row in rows]
    assert max(errors) == pytest.approx(result["max_error"], rel=1e-12)
    worst = table(path / "worst.csv")
    assert [row["class"] for row in worst] == [each["class"] for each in result["worst"]]
    for each in result["worst"]:  # each entry equals its row in the table of coordinates
        pixel = 3072
        if each["channel"] != "bias":
            pixel = CHANNELS.index(each["channel"]) * 1024 + each["row"] * 32 + each["column"]
        row = rows[CLASSES.index(each["class"]) * 3073 + pixel]
        assert float(row["analytic"]) == each["analytic"]
    for name in PICTURES:
        with Image.open(path / f"{name}.png") as picture:
            colours = picture.convert("RGB").getcolors(2**24)
        assert colours is not None
        assert len(colours) > 20
    assert not (path / "journal.sqlite").exists()


def test_check_prints_a_summary_and_resume_prints_it_again(check: Any, tmp_path: Path) -> None:
    finished = check("--coordinates", 50, "--examples", "first:40")
    [path] = (tmp_path / "runs").iterdir()
    record = json.loads((path / "result.json").read_text())
    words = {line[:16].strip(): line[16:] for line in finished.out.splitlines()}
    assert words["run"] == path.name
    assert words["checked"] == "50 coordinates over 40 images"
    assert words["verdicts"].endswith(", 0 wrong")
    assert f"{record['verdicts']['pass']} pass" in words["verdicts"]
    for name in ("errors.png", "histogram.png", "worst.csv", "result.json"):
        assert name in words["files"]
    [line] = finished.err.splitlines()
    assert line.startswith("Dask dashboard: ")
    before = left(path)
    for again in (check("--resume", path.name), check("--resume", path, "--runs", tmp_path / "b")):
        assert (again.out, again.err) == (finished.out, "")
    assert left(path) == before
    assert left(tmp_path) == {"runs"}


@pytest.fixture
def trained(user: User, hinge: Command, store: Path) -> dict[str, Any]:
    given = ("train", "--store", store, "--scheduler", user.scheduler, "--json", "--steps", 5)
    return hinge(*given, "--init", "normal:1e-3").result


@pytest.mark.slow
def test_check_at_the_weights_of_a_training_run_matches_numpy(
    check: Any, trained: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    result = check("--json", "--at", trained["run"], "--reg", 50, "--step", 1e-4).result
    path = tmp_path / "runs" / trained["run"]
    assert result["weights_sha256"] == trained["weights_sha256"]
    assert result["verdicts"]["wrong"] == 0
    rows = table(tmp_path / "runs" / result["run"] / "coordinates.csv")
    check_table(rows, np.load(path / "weights.npy"), store, 1e-4, 50)


@pytest.mark.slow
def test_finished_check_is_shown_again_without_its_training_run(
    check: Any, trained: dict[str, Any], tmp_path: Path
) -> None:
    given = ("--json", "--at", trained["run"], "--coordinates", 5, "--examples", 5)
    result = check(*given).result
    (tmp_path / "runs" / trained["run"] / "weights.npy").unlink()
    assert check("--json", "--resume", result["run"]).result == result


@pytest.mark.slow
def test_check_of_a_mini_batch_gradient_matches_numpy(
    check: Any, store: Path, tmp_path: Path
) -> None:
    given = ("--gradient", "minibatch", "--batch-size", 64, "--seed", 3, "--dtype", "float32")
    result = check("--json", *given, "--coordinates", 60).result
    assert (result["examples"], result["coordinates"]) == (64, 60)
    assert result["verdicts"]["wrong"] == 0
    rows = table(tmp_path / "runs" / result["run"] / "coordinates.csv")
    flat = [CLASSES.index(row["class"]) * 3073 + int(row["pixel"]) for row in rows]
    assert flat == drawn(7, 30730, 60, 3).tolist()
    check_table(rows, normal(3), store, examples=drawn(2, 600, 64, 3))


@pytest.mark.slow
def test_check_of_the_gradient_in_the_pixels_matches_numpy(
    check: Any, store: Path, tmp_path: Path
) -> None:
    result = check("--json", "--gradient", "data", "--examples", 30).result
    path = tmp_path / "runs" / result["run"]
    assert result["parameters"]["step"] == 1e-2
    assert (result["coordinates"], result["examples"]) == (30 * 3072, 30)
    assert sum(result["verdicts"].values()) == 30 * 3072
    assert result["verdicts"]["wrong"] == 0
    examples, W = drawn(6, 600, 30), normal()
    X, y = read(open_dataset(str(store)), "train")
    margins = (X[examples] @ W.T) - (X[examples] * W[y[examples]]).sum(1)[:, None] + 1
    expected = np.maximum(margins, 0).sum(1).mean() - 1  # the correct class's margin is 1
    assert result["loss"] == pytest.approx(expected, rel=1e-12)
    for each in result["worst"]:
        row = each["example"]
        assert row in examples
        scores = W @ X[row]
        active = scores - scores[y[row]] + 1 > 0
        active[y[row]] = False
        pixel = CHANNELS.index(each["channel"]) * 1024 + each["row"] * 32 + each["column"]
        expected = (W[active, pixel] - W[y[row], pixel]).sum()
        assert each["analytic"] == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert {file.name for file in path.iterdir()} >= {"errors.png", "histogram.png", "worst.csv"}
    assert not (path / "coordinates.csv").exists()


def test_check_locates_a_faulty_coordinate_of_the_gradient(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = (6, 2 * 1024 + 5 * 32 + 7)

    def faulty_gradient(*given: Any) -> Evaluation:
        value: Evaluation = compute_gradient(*given)
        gradient = value.gradient.copy()
        gradient[place] *= 1.001
        return replace(value, gradient=gradient)

    monkeypatch.setattr("flows.check.flow.compute_gradient", faulty_gradient)
    finished = check("--examples", 100, status=1)
    [path] = (tmp_path / "runs").iterdir()
    record = json.loads((path / "result.json").read_text())
    assert (record["status"], record["verdicts"]["wrong"]) == ("done", 1)
    worst = record["worst"][0]
    at = [worst[name] for name in ("class", "channel", "row", "column", "verdict")]
    assert at == [CLASSES[6], "blue", 5, 7, "wrong"]
    assert worst["analytic"] / 1.001 == pytest.approx(worst["numerical"], rel=1e-2)
    assert "1 wrong" in finished.out
    lines = map(str.split, finished.out.splitlines())
    [line] = [each for each in lines if each[0] != "verdicts" and each[-1] == "wrong"]
    assert line[:4] == [CLASSES[6], "blue", "5", "7"]
    again = check("--resume", path.name, status=1)
    assert (again.out, again.err) == (finished.out, "")


@pytest.mark.slow
def test_black_box_agrees_with_structured_differences(
    check: Any, store: Path, tmp_path: Path
) -> None:
    given = ("--method", "black-box", "--coordinates", 8, "--examples", 100)
    result = check("--json", *given).result
    assert (result["coordinates"], result["examples"]) == (8, 100)
    assert 0 < result["max_difference_to_structured"] < 1e-8
    assert result["verdicts"]["wrong"] == 0
    rows = table(tmp_path / "runs" / result["run"] / "coordinates.csv")
    check_table(rows, normal(), store, examples=drawn(6, 600, 100))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_plan_prints_an_estimate_and_starts_no_run(
    user: User, hinge: Command, store: Path, tmp_path: Path, elsewhere: bool
) -> None:
    where = ("--scheduler", user.scheduler) if elsewhere else ("--workers", 3)
    given = ("check", "--store", store, "--method", "black-box", "--coordinates", 40, "--plan")
    finished = hinge(*given, *where)
    assert (finished.status, finished.err) == (0, "")
    assert "80 of the loss" in finished.out
    estimate = hinge(*given, *where, "--scheme", "forward", "--json").result
    assert estimate["evaluations"] == 41
    assert estimate["tasks"] == 4 * (estimate["shards"] + 1)
    assert estimate["threads"] == (2 if elsewhere else 3)
    assert estimate["seconds"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_check_step_compares_both_schemes_and_can_be_rerun(check_step: Any, tmp_path: Path) -> None:
    given = ("--steps", "1e-2:1e-8", "--points-per-decade", 1, "--examples", 100)
    finished = check_step("--json", *given, "--seed", 5)
    result, [path] = finished.result, (tmp_path / "runs").iterdir()
    assert json.loads((path / "result.json").read_text()) == result
    rows = table(path / "steps.csv")
    wanted = [(s, k) for s in range(-2, -9, -1) for k in ("centred", "forward")]
    assert [(round(np.log10(float(row["step"]))), row["scheme"]) for row in rows] == wanted
    for scheme in ("centred", "forward"):
        own = [each for each in result["steps"] if each["scheme"] == scheme]
        best = min(own, key=lambda each: float(each["error"]))
        assert result["best_step"][scheme] == best["step"]
        assert result["least_error"][scheme] == best["error"]
        assert own[0]["crossings"] > own[2]["crossings"] > own[4]["crossings"]
        for each in own[:2]:  # with many kinks, the theory predicts the error
            assert each["truncation"] == pytest.approx(each["error"], rel=0.5)
        assert all(each["error_after_kinks"] <= each["rounding_bound"] * 1.01 for each in own)
    with Image.open(path / "steps.png") as picture:
        assert picture.format == "PNG"
    again = check_step("--json", "--resume", path.name)
    assert (again.result, again.err) == (result, "")
    kept = ("run", "command", "parameters", "data", "started", "versions", "machine")
    interrupted = {name: result[name] for name in kept} | {"status": "interrupted"}
    RunDirectory(path).write_document(interrupted)
    (path / "steps.csv").unlink()
    resumed = check_step("--json", "--resume", path.name).result
    assert (resumed["steps"], resumed["best_step"]) == (result["steps"], result["best_step"])
    assert table(path / "steps.csv") == rows


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The blocks of coordinates that this process has evaluated.

    If a test inserts an empty block first, the check is interrupted after the next block.
    """
    taken: list[list[int]] = []
    whole = black_box.difference_quotients

    def noted(client: Any, placed: Any, inputs: Any, given: Any) -> Any:
        for block, values in zip(given, whole(client, placed, inputs, given), strict=True):
            if taken[:1] == [[]] and len(taken) == 2:
                raise KeyboardInterrupt
            taken.append(block.tolist())
            yield values

    monkeypatch.setattr(black_box, "difference_quotients", noted)
    return taken


@pytest.mark.slow
def test_interrupted_black_box_check_resumes_to_the_same_results(
    check: Any, blocks: list[list[int]], tmp_path: Path
) -> None:
    given = ("--method", "black-box", "--coordinates", 40, "--examples", 60, "--reg", 3)
    expected = check("--json", *given, "--runs", tmp_path / "undisturbed").result
    coordinates = drawn(7, 30730, 40).tolist()
    assert [place for block in blocks for place in block] == coordinates
    blocks[:] = [[]]
    check(*given, status=130)
    [path] = (tmp_path / "runs").iterdir()
    assert json.loads((path / "result.json").read_text())["status"] == "interrupted"
    assert (path / "journal.sqlite").exists()
    record = json.loads((path / "result.json").read_text()) | {"status": "running"}
    (path / "result.json").write_text(json.dumps(record))  # as if the process had been killed
    damaged = (path / "journal.sqlite").read_bytes()
    (path / "journal.sqlite").write_bytes(b"nonsense" * 1000)
    finished = check("--resume", path.name, status=2)
    refused(finished, "journal.sqlite is not a journal of this run", "start a new run")
    (path / "journal.sqlite").write_bytes(damaged)
    blocks[:] = []
    resumed = check("--json", "--resume", path.name)
    assert [place for block in blocks for place in block] == coordinates[16:]
    assert "16 of 40 coordinates are already in the journal" in resumed.err
    same = ("verdicts", "worst", "loss", "max_error", "max_difference_to_structured", "parameters")
    assert [resumed.result[name] for name in same] == [expected[name] for name in same]
    other = tmp_path / "undisturbed" / expected["run"]
    for name in ("coordinates.csv", "worst.csv"):
        assert (path / name).read_text() == (other / name).read_text()
    assert not (path / "journal.sqlite").exists()


@pytest.mark.slow
def test_check_flow_run_has_its_tasks_and_artifacts(check: Any, user: User, tmp_path: Path) -> None:
    given = ("--method", "black-box", "--coordinates", 20, "--examples", 20)
    result = check("--json", *given).result
    with user.settings(), get_client(sync_client=True) as client:
        flow_run = flow_run_of(client, tmp_path / "runs")
        name = "check full black-box 20 coordinates at normal:1e-3"
        assert (flow_run.name, flow_run.state.type) == (name, "COMPLETED")
        tasks = ["gradient", "differences", "black box", "save results"]
        assert task_runs_of(client, flow_run, 4) == dict.fromkeys(tasks, "COMPLETED")
        shown = artifacts_of(client, flow_run)
    series = "check-full-black-box-synthetic"
    pictures = {f"{series}-{name}" for name in PICTURES}
    assert shown.keys() == {f"{series}-{name}" for name in ("run", "result", "worst")} | pictures
    assert all(result["run"] in artifact.description for artifact in shown.values())
    found = {row["result"]: row["value"] for row in json.loads(shown[f"{series}-result"].data)}
    assert {name: found[name] for name in result["verdicts"]} == result["verdicts"]
    assert (found["coordinates"], found["examples"]) == (20, 20)
    assert all(shown[name].data.startswith("![") for name in pictures)
    named = [row["analytic"] for row in json.loads(shown[f"{series}-worst"].data)]
    assert named == [each["analytic"] for each in result["worst"]]
