"""Training runs and grids of version 0, whose records have no `record_version`.

The records were written by that version for the store that the tests use. Only times and
machine-specific paths were edited.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.grid.flow import GRID
from flows.grid.results import TrialResult
from flows.runs.directory import RunDirectory
from flows.runs.record import FinishedRecord
from flows.train.flow import TRAIN
from pipeline.journals.journal import Journal
from pipeline.training.grid import TrainingGrid
from pipeline.training.parameters import GradientDescent, SmoothedHinge, TrainingParameters
from storage.dataset import open_dataset
from tests.flows.conftest import Command, User
from tests.flows.test_refusals import refused

HEADER: dict[str, Any] = {
    "status": "done",
    "seed": 0,
    "data": {
        "url": "small.zarr",
        "name": "synthetic",
        "source": "synthetic images (seed 0), not CIFAR-10",
        "fingerprint": "533dbd6518c2adc460bf5eab1f4b97e24a4d8c2bc01a3a8b2b45f50439a77bb8",
        "format_version": 1,
        "classes": [
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ],
        "rows": {"train": 600, "test": 120},
        "shards": {"train": 4, "test": 1},
        "shard_rows": 150,
        "chunk_rows": 150,
    },
    "started": "2026-11-26T19:09:10+00:00",
    "finished": "2026-11-26T19:09:21+00:00",
    "versions": {"python": "3.11.7", "hinge": "0.1.0", "numpy": "2.4.6"},
    "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
}
PARAMETERS: dict[str, Any] = {
    "method": "gd",
    "steps": 4,
    "epochs": None,
    "batch_size": 256,
    "step_size": 1e-07,
    "schedule": "constant",
    "momentum": 0.0,
    "nesterov": False,
    "reg": 10.0,
    "reg_bias": False,
    "init": "normal:1e-3",
    "seed": 0,
    "dtype": "float32",
    "tolerance": 0.0,
    "gap": 0.001,
    "placement": "auto",
}
GRADIENT_DESCENT = HEADER | {
    "run": "train-20261126-190910-04ca57a2",
    "command": "train",
    "parameters": PARAMETERS,
    "cluster": {"workers": 1, "threads": 1, "placement": "all-workers"},
    "steps": 4,
    "loss": 15.60544036703095,
    "test_loss": 18.362124121852567,
    "train_accuracy": 0.12333333333333334,
    "test_accuracy": 0.1,
    "weights_sha256": "d2bdf0e52c50e0b4e62d56f7288ee9594940395f8704aeb974e53ecb3de4885a",
    "steps_per_second": 5.016039004167773,
    "timings": {"loading": 7.99449576, "training": 0.79744196, "seconds": 10.59289245},
}
SMOOTHED = HEADER | {
    "run": "train-20261126-190941-e15b83f1",
    "command": "train",
    "parameters": PARAMETERS
    | {
        "method": "smoothed",
        "steps": 6,
        "reg": 10000.0,
        "reg_bias": True,
        "init": "zeros",
        "gap": 0.01,
    },
    "cluster": {"workers": 1, "threads": 1, "placement": "all-workers"},
    "steps": 6,
    "loss": 3.043399885256219,
    "test_loss": 5.4604427710868695,
    "train_accuracy": 0.7033333333333334,
    "test_accuracy": 0.4,
    "weights_sha256": "b0e59ad25a19629c4bdb0bbe2185e9406091287dd1a8849a9c288529911e8049",
    "steps_per_second": 5.911716669705809,
    "passes": 6,
    "lower_bound": 2.8769726020546944,
    "gap": 0.05468465843341297,
    "gap_reached": False,
    "timings": {"loading": 2.44420277, "training": 1.0149336, "seconds": 4.55696936},
}
BEST: dict[str, Any] = {
    "step_size": 1e-06,
    "batch_size": 32,
    "reg": 0.0,
    "status": "done",
    "steps": 30,
    "loss": 7.766613474190235,
    "test_loss": 10.59673262188832,
    "train_accuracy": 0.27,
    "test_accuracy": 0.19166666666666668,
    "weights_sha256": "222bbc478b76218a13b0b044d75e5022cd990e84121d83c41003879b30ef8baf",
}
DIVERGED: dict[str, Any] = {
    "step_size": 0.01,
    "batch_size": 32,
    "reg": 0.0,
    "status": "diverged",
    "steps": 1,
    "loss": None,  # an infinite loss was written as null
    "test_loss": 128198.82915140787,
    "train_accuracy": 0.15666666666666668,
    "test_accuracy": 0.13333333333333333,
    "weights_sha256": "577187d6ead1c51c6266a88d67e40572f38bbf8469f778956b918c1021ccfad0",
}
OLD_GRID = HEADER | {
    "run": "sweep-train-20261126-190808-80287da0",
    "command": "sweep --train",
    "parameters": {
        "step_sizes": [1e-06, 0.01],
        "batch_sizes": [32],
        "regs": [0.0],
        "steps": 30,
        "init": "normal:1e-3",
        "seed": 3,
    },
    "cluster": {"workers": 1, "threads": 1},
    "trials": [BEST, DIVERGED],
    "best": BEST,
    "timings": {"training": 3.27112999, "seconds": 4.99588153},
}
RESULT = {"steps", "loss", "test_loss", "train_accuracy", "test_accuracy", "weights_sha256"}


def old_run(runs: Path, record: dict[str, Any], status: str = "done") -> RunDirectory:
    """Write the record of a version 0 run, with a result only if `status` is `done`."""
    directory = runs / record["run"]
    directory.mkdir(parents=True)
    unfinished = {name: record[name] for name in (*HEADER, "run", "command", "parameters")}
    held = record if status == "done" else unfinished | {"status": status}
    (directory / "result.json").write_text(json.dumps(held))
    return RunDirectory(directory)


def test_version_0_records_have_the_fingerprint_of_the_test_store(store: Path) -> None:
    assert open_dataset(str(store)).fingerprint == HEADER["data"]["fingerprint"]


@pytest.mark.parametrize(
    ("old", "parameters"),
    [
        (GRADIENT_DESCENT, GradientDescent(steps=4, reg=10.0, init="normal:1e-3")),
        (SMOOTHED, SmoothedHinge(steps=6, reg=1e4, gap=0.01)),
    ],
    ids=["gd", "smoothed"],
)
def test_version_0_training_record_opens(
    tmp_path: Path, old: dict[str, Any], parameters: TrainingParameters
) -> None:
    record = TRAIN.read(old_run(tmp_path, old))
    assert isinstance(record, FinishedRecord)
    assert (record.record_version, record.status) == (0, "done")
    assert record.parameters == parameters
    for name in RESULT | ({"passes", "lower_bound", "gap", "gap_reached"} & old.keys()):
        assert getattr(record.result, name) == old[name], name
    assert record.seconds == old["timings"]["seconds"]
    assert record.cluster is not None
    assert record.cluster.placement == "all-workers"


def test_version_0_grid_record_opens(tmp_path: Path) -> None:
    record = GRID.read(old_run(tmp_path, OLD_GRID))
    assert isinstance(record, FinishedRecord)
    assert record.command == "grid"
    assert record.parameters == TrainingGrid((1e-6, 1e-2), (32,), (0.0,), 30, "normal:1e-3", 3)
    best, diverged = record.result.trials
    assert best == record.result.best == TrialResult(**BEST)
    assert (diverged.loss, diverged.diverged) == (np.inf, True)


def test_finished_version_0_run_is_shown_again(hinge: Command, store: Path, tmp_path: Path) -> None:
    old_run(tmp_path / "runs", SMOOTHED)
    old_run(tmp_path / "runs", OLD_GRID)
    shown = hinge("train", "--store", store, "--resume", SMOOTHED["run"])
    assert (shown.status, shown.err) == (0, "")
    assert "at most 5.468% of the loss; the lowest possible loss is at least" in shown.out
    assert "the requested gap of 1.000% was not reached" in shown.out
    shown = hinge("grid", "--store", store, "--resume", OLD_GRID["run"])
    assert (shown.status, shown.err) == (0, "")
    assert "2, of which 1 diverged" in shown.out


@pytest.mark.slow
def test_version_0_gd_run_resumes_to_a_bit_identical_result(
    user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    """The checkpoint has version 0's layout. The weights must equal those that version 0 found."""
    run = old_run(tmp_path / "runs", GRADIENT_DESCENT, "interrupted")
    given = ("train", "--store", store, "--scheduler", user.scheduler, "--json")
    half = hinge(
        *(*given, "--steps", 2, "--reg", 10, "--init", "normal:1e-3"),
        *("--runs", tmp_path / "half"),
    ).result
    left = tmp_path / "half" / half["run"]
    losses = np.loadtxt(left / "loss.csv", delimiter=",", skiprows=1)[:, 1]
    np.savez(
        run.checkpoint,
        status="running",
        step=2,
        W=np.load(left / "weights.npy"),
        losses=losses,
        memory_0=2,
    )
    resumed = hinge(*given, "--resume", run.path).result
    assert {name: resumed[name] for name in RESULT} == {
        name: GRADIENT_DESCENT[name] for name in RESULT
    }
    assert (run.path / "loss.csv").read_text().splitlines()[1] == f"0,{losses[0]}"
    assert resumed["started"] == HEADER["started"]


@pytest.mark.parametrize(
    ("command", "old", "journal", "entry"),
    [
        ("train", SMOOTHED, "passes.sqlite", {"run": "TrainingParameters(method=..."}),
        ("grid", OLD_GRID, "journal.sqlite", {"trial": "TrainingParameters(method=..."}),
    ],
    ids=["train", "grid"],
)
def test_version_0_journal_is_rejected_with_the_reason(
    user: User,
    hinge: Command,
    store: Path,
    tmp_path: Path,
    command: str,
    old: dict[str, Any],
    journal: str,
    entry: dict[str, str],
) -> None:
    run = old_run(tmp_path / "runs", old, "interrupted")
    before = (run.path / "result.json").read_text()
    with Journal(run.path / journal) as opened:
        opened.append(number=0, **entry)
    refused(
        hinge(command, "--store", store, "--resume", run.id),
        *(run.id, "started by an earlier version", journal, "start a new run"),
    )
    assert (run.path / "result.json").read_text() == before


@pytest.mark.slow
def test_version_0_smoothed_run_with_an_empty_journal_resumes(
    user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    run = old_run(tmp_path / "runs", SMOOTHED, "interrupted")
    with Journal(run.passes):
        pass
    given = ("train", "--store", store, "--scheduler", user.scheduler, "--json")
    resumed = hinge(*given, "--resume", run.id).result
    # SciPy's linear algebra rounds differently on other processors, so the weights have no fixed
    # hash, and the losses differ in their last digits.
    for name in ("loss", "test_loss", "lower_bound", "gap"):
        assert resumed[name] == pytest.approx(SMOOTHED[name], rel=1e-9), name
    for name in ("steps", "train_accuracy", "test_accuracy", "passes", "gap_reached"):
        assert resumed[name] == SMOOTHED[name], name
