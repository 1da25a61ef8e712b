"""`hinge sweep`: the notes' table, the figure, and the losses compared with the formulas."""

import csv
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings

from flows.runs.directory import RunDirectory
from flows.runs.record import plain
from flows.sweep.flow import sweep_flow
from pipeline.inputs.errors import PipelineError
from pipeline.sweep.parameters import Sweep
from storage.dataset import open_dataset
from tests.flows.conftest import Command, Finished, User
from tests.flows.test_command import loss_in_numpy, read
from tests.flows.test_flows import artifacts_of, flow_run_of, task_runs_of
from tests.flows.test_refusals import late, refused

Floats = NDArray[np.float64]
DECADES = [float(f"1e{exponent}") for exponent in range(-10, 0)]


@pytest.fixture
def sweep(user: User, hinge: Command, store: Path) -> Any:
    """Return a function that runs a sweep on the small store."""

    def run(*given: object) -> Finished:
        finished = hinge("sweep", "--store", store, "--scheduler", user.scheduler, *given)
        assert finished.status == 0, finished.err
        return finished

    return run


def gradient_in_numpy(W: Floats, X: Floats, y: NDArray[np.uint8], reg: float) -> Floats:
    scores = X @ W.T
    rows = np.arange(len(y))
    indicators = (scores - scores[rows, y][:, None] + 1 > 0).astype(float)
    indicators[rows, y] = 0
    indicators[rows, y] = -indicators.sum(axis=1)
    gradient = indicators.T @ X / len(y)
    gradient[:, :-1] += 2 * reg * W[:, :-1]
    return np.asarray(gradient)


def check_numbers(result: dict[str, Any], W: Floats, store: Path, reg: float = 0.0) -> None:
    """Compare each loss with the formula at the weights after that step."""
    X, y = read(open_dataset(str(store)), "train")
    gradient = gradient_in_numpy(W, X, y, reg)
    exact = result["exact_minimum"]
    steps = {0.0: result["initial_loss"], exact["step_size"]: exact["loss"]}
    steps |= {each["step_size"]: each["loss"] for each in result["losses"]}
    for step_size, loss in steps.items():
        expected = loss_in_numpy(W - step_size * gradient, X, y, reg)
        assert loss == pytest.approx(expected, rel=1e-9), step_size
    best = min(result["losses"], key=lambda each: each["loss"])
    assert (result["best_step_size"], result["best_loss"]) == (best["step_size"], best["loss"])
    assert exact["loss"] <= min(steps.values())
    margins, gains = X @ W.T, -X @ gradient.T
    wrong = np.arange(10) != y[:, None]
    margins, gains = ((s - s[~wrong][:, None])[wrong] for s in (margins, gains))
    assert exact["breakpoints"] == np.count_nonzero(-(margins + 1) / gains > 0)


def uniform(seed: int, scale: float = 1e-3) -> Floats:
    """Return the weights of `uniform:SCALE`, drawn directly from NumPy's Philox stream."""
    sequence = np.random.SeedSequence(seed, spawn_key=(1, 0))
    return scale * np.random.Generator(np.random.Philox(sequence)).random((10, 3073))


def test_losses_match_the_formulas(sweep: Any, store: Path) -> None:
    plain = sweep("--json").result
    assert [each["step_size"] for each in plain["losses"]] == DECADES
    check_numbers(plain, uniform(0), store)
    given = ("--reg", "1e4", "--seed", 7, "--init", "uniform:1e-2", "--exponents", "-7:-5")
    bent = sweep("--json", *given, "--points-per-decade", 3).result
    steps = [each["step_size"] for each in bent["losses"]]
    assert steps == pytest.approx(np.geomspace(1e-7, 1e-5, 7), rel=1e-14)
    assert (steps[0], steps[3], steps[6]) == (1e-7, 1e-6, 1e-5)
    check_numbers(bent, uniform(7, 1e-2), store, 1e4)
    assert len({plain["initial_loss"], bent["initial_loss"]}) == 2


def test_output_is_the_notes_table(sweep: Any, tmp_path: Path) -> None:
    finished = sweep()
    [path] = (tmp_path / "runs").iterdir()
    record = json.loads((path / "result.json").read_text())
    table, said = finished.out.splitlines()[:11], finished.out.splitlines()[11:]
    assert table[0] == "original loss: %f" % record["initial_loss"]  # noqa: UP031 (as in the notes)
    assert table[1:] == [
        "for step size %e new loss: %f" % (each["step_size"], each["loss"])  # noqa: UP031
        for each in record["losses"]
    ]
    assert table[5].startswith("for step size 1.000000e-06 new loss: ")
    words = {line[:13].strip(): line[13:].strip() for line in said}
    exact = record["exact_minimum"]
    assert words["best"].startswith(f"step size {record['best_step_size']:e}, loss ")
    assert f"{exact['step_size']:e}, loss {exact['loss']:f}" in words["exact minimum"]
    assert f"({exact['breakpoints']:,} breakpoints)" in words["exact minimum"]
    assert words["run"] == record["run"] == path.name
    for name in ("steps.png", "steps.csv", "result.json"):
        assert name in words["files"]
        assert (path / name).is_file()
    [line] = finished.err.splitlines()
    assert line.startswith("Dask dashboard: ")


def test_json_output_and_files_match_the_record(sweep: Any, tmp_path: Path) -> None:
    finished = sweep("--json", "--exponents", "-8:-4")
    [path] = (tmp_path / "runs").iterdir()
    assert json.loads((path / "result.json").read_text()) == finished.result
    assert finished.result["command"] == "sweep"
    assert finished.result["parameters"]["exponents"] == "-8:-4"
    with (path / "steps.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows == finished.result["losses"]
    with Image.open(path / "steps.png") as picture:
        assert picture.format == "PNG"
        colours = picture.convert("RGB").getcolors(2**24)
    assert colours is not None
    assert len(colours) > 20


@pytest.fixture
def trained(user: User, hinge: Command, store: Path) -> dict[str, Any]:
    """The result of a training run whose weights the sweep uses."""
    given = ("train", "--store", store, "--scheduler", user.scheduler, "--json", "--steps", 5)
    return hinge(*given, "--init", "normal:1e-3").result


@pytest.mark.slow
def test_sweep_at_the_weights_of_a_run_matches_the_formulas(
    sweep: Any, trained: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    path = tmp_path / "runs" / trained["run"]
    by_name = sweep("--json", "--at", trained["run"]).result
    W = np.load(path / "weights.npy")
    assert by_name["weights_sha256"] == trained["weights_sha256"]
    assert by_name["weights_sha256"] == hashlib.sha256(W.tobytes()).hexdigest()
    assert by_name["initial_loss"] == pytest.approx(trained["loss"], rel=1e-5)
    check_numbers(by_name, W, store)
    by_path = sweep("--json", "--at", path, "--runs", tmp_path / "elsewhere").result
    assert by_path["losses"] == by_name["losses"]


@pytest.mark.parametrize(
    ("W", "words"),
    [
        (None, ["has no weights"]),  # no file
        (np.zeros((3, 3073)), ["(3, 3073)", "(10, 3073)"]),
        (np.zeros((10, 3073), np.float32), ["float32"]),
        (np.full((10, 3073), math.nan), ["finite"]),
        (np.array([{}]), ["has no weights"]),  # an object array, which is pickled
        (b"nonsense", ["has no weights"]),
        (b"", ["has no weights"]),
    ],
)
def test_unusable_weights_of_a_run_are_rejected(
    hinge: Command, store: Path, tmp_path: Path, W: Any, words: list[str]
) -> None:
    run = tmp_path / "runs" / "train-other"
    run.mkdir(parents=True)
    RunDirectory(run).write_document({"run": run.name, "command": "train", "status": "done"})
    if isinstance(W, bytes):
        (run / "weights.npy").write_bytes(W)
    elif W is not None:
        np.save(run / "weights.npy", W)
    refused(hinge("sweep", "--store", store, "--at", run.name), "train-other", *words)
    assert [path.name for path in run.parent.iterdir()] == [run.name]


@pytest.mark.parametrize("name", ["train-1970", "normal:1e-3"])  # --at takes no distribution
def test_unknown_run_is_rejected(hinge: Command, store: Path, tmp_path: Path, name: str) -> None:
    refused(hinge("sweep", "--store", store, "--at", name), f"no run '{name}'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--init", "uniform:1e200"], "the loss at these weights is not finite"),
        (["--reg", "1e300"], "the loss has no exact minimum along this gradient: "),
    ],
)
def test_numbers_out_of_range_are_reported_in_one_line(
    user: User, hinge: Command, store: Path, tmp_path: Path, given: list[str], words: str
) -> None:
    finished = hinge("sweep", "--store", store, "--scheduler", user.scheduler, *given)
    late(finished, words)
    [path] = (tmp_path / "runs").iterdir()
    assert json.loads((path / "result.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_huge_step_sizes_have_an_infinite_loss(sweep: Any, tmp_path: Path) -> None:
    """A loss out of range is printed as inf, also when the record is read again."""
    finished = sweep("--exponents", "-7:100", "--points-per-decade", 1)
    assert "for step size 1.000000e+100 new loss: inf" in finished.out
    [path] = (tmp_path / "runs").iterdir()
    again = sweep("--resume", path.name)
    assert (again.out, again.err) == (finished.out, "")


@pytest.mark.slow
def test_interrupted_sweep_resumes_to_the_same_result(
    sweep: Any, trained: dict[str, Any], tmp_path: Path
) -> None:
    whole = sweep("--json", "--at", trained["run"], "--exponents", "-8:-6").result
    run = RunDirectory(tmp_path / "runs" / whole["run"])
    for name in ("steps.csv", "steps.png"):
        (run.path / name).unlink()
    kept = ("run", "command", "parameters", "data", "started", "versions", "machine")
    run.write_document({name: whole[name] for name in kept} | {"status": "interrupted"})
    again = sweep("--json", "--resume", run.path, "--runs", tmp_path / "elsewhere").result
    same = ("losses", "exact_minimum", "best_step_size", "weights_sha256", "started", "parameters")
    assert [again[name] for name in same] == [whole[name] for name in same]
    assert (run.path / "steps.png").is_file()


@pytest.mark.slow
def test_sweep_creates_a_flow_run_with_tasks_and_artifacts(
    sweep: Any, user: User, store: Path, tmp_path: Path
) -> None:
    result = sweep("--json", "--points-per-decade", 100).result
    assert len(result["losses"]) == 901
    with user.settings(), get_client(sync_client=True) as client:
        flow_run = flow_run_of(client, tmp_path / "runs")
        name = "sweep 1e-10..1e-1 x 100 at W0"
        assert (flow_run.name, flow_run.state.type) == (name, "COMPLETED")
        tasks = ["gradient", "losses", "exact minimum", "save results"]
        assert task_runs_of(client, flow_run, 4) == dict.fromkeys(tasks, "COMPLETED")
        shown = artifacts_of(client, flow_run)
    series = "sweep-synthetic"
    assert shown.keys() == {f"{series}-{name}" for name in ("run", "result", "step-sizes", "loss")}
    assert all(result["run"] in artifact.description for artifact in shown.values())
    rows = json.loads(shown[f"{series}-step-sizes"].data)
    assert rows == result["losses"][::10]  # the artifact has at most 100 rows
    assert shown[f"{series}-step-sizes"].description.startswith("Loss by step size, one in 10;")
    found = {row["result"]: row["value"] for row in json.loads(shown[f"{series}-result"].data)}
    assert found["exact minimum: breakpoints"] == result["exact_minimum"]["breakpoints"]
    assert shown[f"{series}-loss"].data.startswith("![")


@pytest.mark.slow
def test_flow_with_json_parameters_matches_the_command(
    sweep: Any, user: User, store: Path, tmp_path: Path
) -> None:
    sent: Any = {"exponents": "-7:-6", "seed": 3}
    with user.settings(), temporary_settings({"flows.heartbeat_frequency": None}):
        record = sweep_flow(
            str(store), sent, runs=str(tmp_path / "scheduled"), scheduler=user.scheduler
        )
    typed = sweep("--json", "--exponents", "-7:-6", "--seed", 3).result
    assert typed["losses"] == list(plain(record.result.losses))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exponents": "1:2:3"}, "FIRST:LAST"),
        ({"exponents": "-101:0"}, "-100 to 100"),
        ({"points_per_decade": 0}, "points per decade must be at least 1, not 0"),
        ({"points_per_decade": 2223}, "20,008 step sizes are too many; take at most 20,000"),
        ({"reg": math.inf}, "not inf"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_invalid_parameters_raise_pipeline_error(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PipelineError, match=words):
        Sweep(**changes)


@pytest.mark.slow
@pytest.mark.real
def test_sweep_of_the_real_images_agrees_with_the_notes(
    user: User, hinge: Command, real_cifar10: Path, tmp_path: Path
) -> None:
    store = tmp_path / "cifar10.zarr"
    scheduler = ("--scheduler", user.scheduler)
    assert hinge("ingest", real_cifar10, "--store", store, *scheduler).status == 0
    given = ("sweep", "--store", store, *scheduler, "--json")
    result = hinge(*given).result
    assert result["best_step_size"] == 1e-6
    losses = [each["loss"] for each in result["losses"]]
    assert losses[7:] == pytest.approx([10 * loss for loss in losses[6:-1]], rel=0.05)
    many = hinge(*given, "--points-per-decade", 1111).result
    assert many["exact_minimum"] == result["exact_minimum"]
    assert len(many["losses"]) == 10_000
    assert many["exact_minimum"]["loss"] <= min(each["loss"] for each in many["losses"])
