"""Commands as a user types them: the output, the files written, and the correctness of numbers."""

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
from prefect import Flow

from flows.cli import hinge as command_group
from flows.command_line import defaults
from flows.runs.lifecycle import RunKind
from flows.train.flow import train_flow
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
    """A training command that has ended, with the files that it wrote."""

    finished: Finished
    path: Path
    record: dict[str, Any]
    W: NDArray[np.float64]
    losses: NDArray[np.float64]


def read_trained(finished: Finished, runs: Path) -> Trained:
    [path] = runs.glob("train-*")
    with (path / "loss.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    record = json.loads((path / "result.json").read_text())
    return Trained(finished, path, record, np.load(path / "weights.npy"), np.array(losses))


@pytest.fixture(scope="module")
def both(
    user: User, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trained, Trained]:
    """Two concurrent commands, each with its own cluster: one prints text, the other JSON."""
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
        read_trained(finished[0], directories[0] / "runs"),
        read_trained(finished[1], directories[1] / "kept"),
    )


@pytest.fixture(scope="module")
def human(both: tuple[Trained, Trained]) -> Trained:
    return both[0]


@pytest.fixture(scope="module")
def program(both: tuple[Trained, Trained]) -> Trained:
    return both[1]


def read(dataset: Dataset, split: Split) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return all rows (N, D + 1), centred and with a last column of ones, and their labels."""
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


def test_ingest_reports_the_content_of_the_store(ingested: Finished, store: Path) -> None:
    result = ingested.result
    assert ingested.status == 0
    assert result["status"] == "done"
    assert result["data"]["rows"] == {"train": 600, "test": 120}
    assert result["shards"] == {"written": 5, "reused": 0}
    assert "synthetic" in result["data"]["source"]
    record = store.parent / "runs" / result["run"] / "result.json"
    assert json.loads(record.read_text()) == result
    assert open_dataset(str(store)).fingerprint == result["data"]["fingerprint"]


def test_standard_error_contains_only_the_dashboard_address(
    ingested: Finished, human: Trained, program: Trained
) -> None:
    for finished in (ingested, human.finished, program.finished):
        [line] = finished.err.splitlines()
        assert line.startswith("Dask dashboard: http://127.0.0.1:")
    # two concurrent commands have different dashboards
    assert human.finished.err != program.finished.err


def test_text_summary_matches_the_record(human: Trained) -> None:
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


def test_json_output_is_the_record(program: Trained) -> None:
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


def test_run_writes_weights_loss_curve_and_figure(human: Trained, program: Trained) -> None:
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
        assert len(colours) > 20  # axes, text and a curve, so not a blank figure


def test_losses_and_accuracies_match_the_formulas(
    human: Trained, program: Trained, store: Path
) -> None:
    dataset = open_dataset(str(store))
    for run, reg in ((human, 0.0), (program, 100.0)):
        for split, loss in zip(SPLITS, ("loss", "test_loss"), strict=True):
            X, y = read(dataset, split)
            assert run.record[loss] == pytest.approx(loss_in_numpy(run.W, X, y, reg), rel=1e-5)
            accuracy = np.mean((X @ run.W.T).argmax(axis=1) == y)
            assert run.record[f"{split}_accuracy"] == pytest.approx(accuracy, abs=1e-9)
    X, y = read(dataset, "test")  # the formula above agrees with the reference implementation
    expected = reference.loss(program.W.tolist(), X[:2].tolist(), y[:2].tolist(), reg=100.0)
    assert loss_in_numpy(program.W, X[:2], y[:2], 100.0) == pytest.approx(expected, rel=1e-12)


def test_loss_curve_begins_at_nine_and_follows_gradient_descent(
    human: Trained, store: Path
) -> None:
    X, y = read(open_dataset(str(store)), "train")
    assert human.losses[0] == 9.0  # with zero weights every margin is delta, 1
    W = np.zeros((10, 3073))
    indicators = np.ones((len(y), 10))
    indicators[np.arange(len(y)), y] = -9
    W -= 1e-7 * indicators.T @ X / len(y)
    assert human.losses[1] == pytest.approx(loss_in_numpy(W, X, y), rel=1e-5)
    assert np.all(np.diff(human.losses) < 0)


def test_info_describes_the_store(hinge: Command, store: Path) -> None:
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


def test_second_ingest_finds_the_store_complete(
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
def test_diverged_run_exits_with_status_1_and_is_recorded(
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
    shown = hinge("train", "--store", store, "--resume", path.name)  # prints the stored record
    assert (shown.status, shown.err) == (1, "")
    assert "diverged after" in shown.out


def test_converged_run_stops_early(user: User, hinge: Command, store: Path) -> None:
    given = ("train", "--store", store, "--steps", 100, "--scheduler", user.scheduler, "--json")
    converged = hinge(*given, "--tolerance", "0.9")
    assert converged.status == 0, converged.err
    assert converged.result["status"] == "converged"
    assert converged.result["steps"] < 30


def test_result_is_bit_identical_for_every_placement_and_cluster(
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


def test_command_plans_its_run_once(
    user: User, hinge: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command also draws the initial weights once."""
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


def test_epochs_are_converted_to_steps(user: User, hinge: Command, store: Path) -> None:
    run = hinge(
        *("train", "--store", store, "--epochs", 2, "--method", "minibatch"),
        *("--batch-size", 256, "--scheduler", user.scheduler, "--json"),
    )
    assert run.status == 0, run.err
    assert run.result["steps"] == 6  # an epoch is two batches of 256 images and one of 88


@pytest.mark.parametrize(
    "given",
    [
        *([], ["--help"], ["train", "-h"]),
        *([command, "--help"] for command in command_group.commands),
        *(["search", kind, "--help"] for kind in ("random", "local")),
    ],
)
def test_help_imports_no_heavy_packages(given: list[str]) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", HELP, *given], capture_output=True, text=True, check=True
    )
    assert shown.stderr == "0 []\n"
    assert shown.stdout.startswith("Usage: hinge ")
    assert "--help" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80


@pytest.mark.parametrize("room", ["sweep", "train", "check"])
def test_flow_is_imported_and_called_without_packages_that_it_does_not_need(room: str) -> None:
    code = (
        f"import sys\nfrom flows.{room}.flow import {room}_flow as flow\n"
        "flow.serialize_parameters({'store': 'c.zarr', 'workers': 2})\n"
        "print(sorted({'matplotlib', 'bokeh', 'fastapi', 'pooch'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_parameters_of_flow_runs_are_those_that_prefect_would_send() -> None:
    for method in METHODS.values():
        given: dict[str, Any] = {"store": "c.zarr", "parameters": method(), "workers": 0}
        assert train_flow.serialize_parameters(given) == Flow.serialize_parameters(
            train_flow, given
        )


def test_command_and_flow_have_the_same_defaults() -> None:
    options = command_group.commands["train"].make_context("train", ["--store", "any"]).params
    assert options["steps"] is None
    for method, kind in METHODS.items():
        fields = asdict(kind())
        assert fields.pop("method") == method
        assert fields.pop("steps") == defaults.STEPS[method]
        if method == "smoothed":  # the command requires the user to choose a regulariser
            assert (fields.pop("reg"), fields.pop("reg_bias")) == (1e3, True)
        assert {name: options[name] for name in fields} == fields
        if issubclass(kind, StepParameters):
            assert defaults.CHECKPOINT_EVERY[method] == kind.CHECKPOINT_EVERY
        else:
            assert method not in defaults.CHECKPOINT_EVERY
    assert options["checkpoint_every"] is None
    assert defaults.STEPS.keys() == METHODS.keys()


def test_train_help_lists_every_option(hinge: Command) -> None:
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
