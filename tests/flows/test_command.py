"""The command as a user types it: what it prints, what it leaves, and that the numbers are true."""

import csv
import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flows.cli import hinge as command_group
from flows.command_line import defaults
from flows.runs.lifecycle import RunKind
from kernels import reference
from pipeline.inputs.weights import InitialWeights
from pipeline.training.parameters import METHODS, StepParameters
from storage.dataset import Dataset, open_dataset
from storage.schema import CLASSES, SPLITS, Split
from tests.flows.conftest import Command, Finished, User, end

STEPS = 12

HELP = """
import sys
from flows.cli import run_command
status = run_command(sys.argv[1:])
heavy = {"numpy", "prefect", "dask", "distributed", "numba", "zarr", "rich", "matplotlib"}
print(status, sorted(heavy & sys.modules.keys()), file=sys.stderr)
"""


@dataclass(frozen=True)
class Trained:
    """A training command that has ended, with what it left."""

    finished: Finished
    path: Path
    record: dict[str, Any]
    W: NDArray[np.float64]
    losses: NDArray[np.float64]


def left_by(finished: Finished, runs: Path) -> Trained:
    [path] = runs.glob("train-*")
    with (path / "loss.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    record = json.loads((path / "result.json").read_text())
    return Trained(finished, path, record, np.load(path / "weights.npy"), np.array(losses))


@pytest.fixture(scope="module")
def both(
    user: User, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trained, Trained]:
    """Two commands at once, each with a cluster of its own: for a person, and for a program."""
    directories = [tmp_path_factory.mktemp(name) for name in ("human", "program")]
    common = ("train", "--store", store, "--steps", STEPS, "--workers", 1)
    human = user.start(*common, cwd=directories[0])
    program = user.start(
        *(*common, "--json", "--runs", directories[1] / "kept", "--reg", 100),
        *("--init", "normal:1e-3", "--seed", 5, "--method", "minibatch", "--batch-size", 64),
        cwd=directories[1],
    )
    finished = [end(human), end(program)]
    assert [each.status for each in finished] == [0, 0], [each.err for each in finished]
    return (
        left_by(finished[0], directories[0] / "runs"),
        left_by(finished[1], directories[1] / "kept"),
    )


@pytest.fixture(scope="module")
def human(both: tuple[Trained, Trained]) -> Trained:
    return both[0]


@pytest.fixture(scope="module")
def program(both: tuple[Trained, Trained]) -> Trained:
    return both[1]


def read(dataset: Dataset, split: Split) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """All rows as the formulas have them: centred, with the 1 of the bias."""
    images, labels = dataset.read(split, 0, dataset.rows(split))
    return np.column_stack([images - dataset.mean, np.ones(len(labels))]), labels


def loss_in_numpy(
    W: NDArray[np.float64], X: NDArray[np.float64], y: NDArray[np.uint8], reg: float = 0
) -> float:
    scores = X @ W.T
    rows = np.arange(len(y))
    margins = np.maximum(0, scores - scores[rows, y][:, None] + 1)
    margins[rows, y] = 0
    return float(margins.sum(axis=1).mean() + reg * (W[:, :-1] ** 2).sum())


def test_the_ingest_says_what_is_in_the_store(ingested: Finished, store: Path) -> None:
    result = ingested.result
    assert ingested.status == 0
    assert result["status"] == "done"
    assert result["data"]["rows"] == {"train": 600, "test": 120}
    assert result["shards"] == {"written": 5, "reused": 0}
    assert "synthetic" in result["data"]["source"]
    record = store.parent / "runs" / result["run"] / "result.json"
    assert json.loads(record.read_text()) == result
    assert open_dataset(str(store)).fingerprint == result["data"]["fingerprint"]


def test_standard_error_holds_the_dashboard_and_nothing_of_a_library(
    ingested: Finished, human: Trained, program: Trained
) -> None:
    for finished in (ingested, human.finished, program.finished):
        [line] = finished.err.splitlines()
        assert line.startswith("Dask dashboard: http://127.0.0.1:")
    # two at once cannot have the same one
    assert human.finished.err != program.finished.err


def test_a_person_reads_the_numbers_of_the_record(human: Trained) -> None:
    out, record = human.finished.out, human.record
    assert record["run"] == human.path.name
    said = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert said["run"] == record["run"]
    assert "not CIFAR-10" in said["data"]
    assert said["status"].startswith(f"done after {STEPS} steps, ")
    assert said["loss"] == f"{record['loss']:.4f}"
    assert f"{record['test_accuracy']:.2%} of the test images" in said["accuracy"]
    assert record["weights_sha256"][:16] in said["weights"]
    for name in ("weights.npy", "loss.png", "result.json"):
        assert str(Path("runs", record["run"], name)) in out
    assert max(map(len, out.splitlines())) < 140


def test_json_is_one_object_and_the_record_is_the_same(program: Trained) -> None:
    assert program.finished.result == program.record
    assert {
        *("run", "steps", "loss", "train_accuracy", "test_accuracy", "weights_sha256"),
        *("steps_per_second", "status", "parameters", "data", "versions", "seed", "timings"),
    } <= program.record.keys()
    assert program.record["parameters"] == {
        "method": "minibatch",
        "steps": STEPS,
        "epochs": None,
        "batch_size": 64,
        "step_size": 1e-7,
        "schedule": "constant",
        "momentum": 0.0,
        "nesterov": False,
        "reg": 100.0,
        "reg_bias": False,
        "init": "normal:1e-3",
        "seed": 5,
        "dtype": "float32",
        "tolerance": 0.0,
        "placement": "auto",
    }
    assert program.record["status"] == "done"
    assert program.record["cluster"]["workers"] == 1
    assert program.record["steps_per_second"] > 0


def test_a_run_leaves_weights_curve_and_picture(human: Trained, program: Trained) -> None:
    for run in (human, program):
        assert run.record["steps"] == STEPS
        assert run.W.shape == (10, 3073)
        packed = run.W.astype("<f8").tobytes(order="C")
        assert hashlib.sha256(packed).hexdigest() == run.record["weights_sha256"]
        assert len(run.losses) == STEPS
        with Image.open(run.path / "loss.png") as picture:
            assert picture.format == "PNG"
            colours = picture.convert("RGB").getcolors(2**24)
        assert colours is not None
        assert len(colours) > 20  # axes, words and a curve, not a blank sheet


def test_the_numbers_are_those_of_the_formulas(
    human: Trained, program: Trained, store: Path
) -> None:
    dataset = open_dataset(str(store))
    for run, reg in ((human, 0.0), (program, 100.0)):
        for split, loss in zip(SPLITS, ("loss", "test_loss"), strict=True):
            X, y = read(dataset, split)
            assert run.record[loss] == pytest.approx(loss_in_numpy(run.W, X, y, reg), rel=1e-5)
            accuracy = np.mean((X @ run.W.T).argmax(axis=1) == y)
            assert run.record[f"{split}_accuracy"] == pytest.approx(accuracy, abs=1e-9)
    X, y = read(dataset, "test")  # and the formula above is the notes'
    expected = reference.loss(program.W.tolist(), X[:2].tolist(), y[:2].tolist(), reg=100.0)
    assert loss_in_numpy(program.W, X[:2], y[:2], 100.0) == pytest.approx(expected, rel=1e-12)


def test_the_curve_begins_at_nine_and_falls_as_the_notes_step_does(
    human: Trained, store: Path
) -> None:
    X, y = read(open_dataset(str(store)), "train")
    assert human.losses[0] == 9.0  # from zeros every margin is delta
    W = np.zeros((10, 3073))
    indicators = np.ones((len(y), 10))
    indicators[np.arange(len(y)), y] = -9
    W -= 1e-7 * indicators.T @ X / len(y)
    assert human.losses[1] == pytest.approx(loss_in_numpy(W, X, y), rel=1e-5)
    assert np.all(np.diff(human.losses) < 0)


def test_info_says_what_a_store_holds(hinge: Command, store: Path) -> None:
    asked = hinge("info", "--store", store)
    assert (asked.status, asked.err) == (0, "")
    assert "600 + 120 images" in asked.out
    assert all(name in asked.out for name in CLASSES)
    described = hinge("info", "--store", store, "--json")
    assert (described.status, described.err) == (0, "")
    dataset = open_dataset(str(store))
    assert described.result["fingerprint"] == dataset.fingerprint
    for split in SPLITS:
        counts = [int((dataset.labels(split) == label).sum()) for label in range(10)]
        assert described.result["class_counts"][split] == counts
    assert list(store.parent.glob("train-*")) == []


def test_an_ingest_again_finds_the_store_complete(
    user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    given = ("ingest", "synthetic:600", "--store", store, "--scheduler", user.scheduler)
    again = hinge(*given)
    assert again.status == 0, again.err
    assert "complete already" in again.out
    limited = hinge(
        *("ingest", "synthetic:600", "--store", tmp_path / "limited.zarr", "--limit", 40),
        *("--scheduler", user.scheduler, "--json"),
    )
    assert limited.status == 0, limited.err
    assert limited.result["data"]["rows"] == {"train": 40, "test": 40}


@pytest.mark.parametrize("step_size", ["1e-2", pytest.param("1e300", marks=pytest.mark.slow)])
def test_a_run_that_diverges_fails_and_its_record_says_so(
    user: User, hinge: Command, store: Path, step_size: str, tmp_path: Path
) -> None:
    given = ("train", "--store", store, "--steps", 30, "--scheduler", user.scheduler)
    diverged = hinge(*given, "--step-size", step_size, "--json")
    assert diverged.status == 1
    assert diverged.result["status"] == "diverged"
    assert diverged.result["steps"] < 30
    [path] = (tmp_path / "runs").iterdir()
    assert json.loads((path / "result.json").read_text(), parse_constant=pytest.fail) == (
        diverged.result
    )
    for name in ("weights.npy", "loss.csv", "loss.png"):
        assert (path / name).stat().st_size > 0
    shown = hinge("train", "--store", store, "--resume", path.name)  # its record, at once
    assert (shown.status, shown.err) == (1, "")
    assert "diverged after" in shown.out


def test_a_converged_run_is_done_early(user: User, hinge: Command, store: Path) -> None:
    given = ("train", "--store", store, "--steps", 100, "--scheduler", user.scheduler, "--json")
    converged = hinge(*given, "--tolerance", "0.9")
    assert converged.status == 0, converged.err
    assert converged.result["status"] == "converged"
    assert converged.result["steps"] < 30


def test_placement_and_cluster_change_no_bit(
    user: User, hinge: Command, store: Path, program: Trained
) -> None:
    for placement in ("all-workers", "one-worker"):
        run = hinge(
            *("train", "--store", store, "--steps", STEPS, "--method", "minibatch"),
            *("--batch-size", 64, "--init", "normal:1e-3", "--seed", 5, "--reg", 100),
            *("--placement", placement, "--scheduler", user.scheduler, "--json"),
        )
        assert run.status == 0, run.err
        assert run.result["cluster"]["placement"] == placement
        assert run.result["cluster"]["workers"] == 2
        assert run.result["weights_sha256"] == program.record["weights_sha256"]
        assert run.result["loss"] == program.record["loss"]


def test_a_command_plans_its_run_once(
    user: User, hinge: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also its first weights are drawn once."""
    planned, plan = list[str](), RunKind.plan
    drawn, draw = list[int](), InitialWeights.weights

    def counted(kind: RunKind[Any, Any, Any], *given: Any, **options: Any) -> Any:
        planned.append(kind.command)
        return plan(kind, *given, **options)

    def counted_draw(init: InitialWeights, classes: int, seed: int) -> Any:
        drawn.append(seed)
        return draw(init, classes, seed)

    monkeypatch.setattr(RunKind, "plan", counted)
    monkeypatch.setattr(InitialWeights, "weights", counted_draw)
    given = ("train", "--store", store, "--steps", 2, "--seed", 7, "--scheduler", user.scheduler)
    assert hinge(*given).status == 0
    assert (planned, drawn) == (["train"], [7])


def test_epochs_are_counted_in_steps(user: User, hinge: Command, store: Path) -> None:
    run = hinge(
        *("train", "--store", store, "--epochs", 2, "--method", "minibatch"),
        *("--batch-size", 256, "--scheduler", user.scheduler, "--json"),
    )
    assert run.status == 0, run.err
    assert run.result["steps"] == 6  # 600 images are two batches of 256 and one of 88


@pytest.mark.parametrize(
    "given",
    [
        *([], ["--help"], ["train", "-h"]),
        *([command, "--help"] for command in command_group.commands),
        *(["search", kind, "--help"] for kind in ("random", "local")),
    ],
)
def test_help_imports_nothing_heavy(given: list[str]) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", HELP, *given], capture_output=True, text=True, check=True
    )
    assert shown.stderr == "0 []\n"
    assert shown.stdout.startswith("Usage: hinge ")
    assert "--help" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_what_is_not_said_is_for_the_command_what_it_is_for_the_flow() -> None:
    options = command_group.commands["train"].make_context("train", ["--store", "any"]).params
    assert options["steps"] is None
    for method, kind in METHODS.items():
        fields = asdict(kind())
        assert fields.pop("method") == method
        assert fields.pop("steps") == defaults.STEPS[method]
        if method == "smoothed":  # a person is asked to choose a regulariser
            assert (fields.pop("reg"), fields.pop("reg_bias")) == (1e3, True)
        assert {name: options[name] for name in fields} == fields
        if issubclass(kind, StepParameters):
            assert defaults.CHECKPOINT_EVERY[method] == kind.CHECKPOINT_EVERY
        else:
            assert method not in defaults.CHECKPOINT_EVERY
    assert options["checkpoint_every"] is None
    assert defaults.STEPS.keys() == METHODS.keys()


def test_help_of_train_names_every_option_of_the_issue(hinge: Command) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", HELP, "train", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in (
        *("store", "method", "steps", "epochs", "batch-size", "step-size", "reg", "init", "seed"),
        *("placement", "dtype", "workers", "scheduler", "checkpoint-every", "resume", "json"),
        *("runs", "tolerance", "schedule", "momentum", "nesterov", "reg-bias", "gap"),
    ):
        [line] = [line for line in shown.splitlines() if line.startswith(f"  --{option} ")] or [
            line for line in shown.splitlines() if line == f"  --{option}"
        ]
        assert line
