"""`hinge train --method lbfgs` and `--method smoothed`, run as commands."""

import csv
import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from numpy.typing import NDArray

from flows.runs.directory import RunDirectory
from pipeline.cluster.map_shards import MapShards
from pipeline.journals.journal import Journal
from pipeline.training import quasi_newton
from pipeline.training.replay import Evaluations
from storage.dataset import open_dataset
from storage.schema import SPLITS
from tests.flows.conftest import Command, Finished, User, until
from tests.flows.test_command import loss_in_numpy, read

METHODS: dict[str, list[object]] = {
    "lbfgs": ["--reg", 100, "--steps", 8],
    "smoothed": ["--reg", 1e4, "--reg-bias", "--gap", 0.01],
}
EACH = pytest.mark.parametrize("method", METHODS)


def trained(
    hinge: Command, user: User, store: Path, method: str, *more: object, json: bool = True
) -> Finished:
    finished = hinge(
        *("train", "--store", store, "--method", method, *METHODS[method], *more),
        *("--scheduler", user.scheduler, *(["--json"] if json else [])),
    )
    assert finished.status == 0, finished.err
    return finished


def columns(run: Path) -> dict[str, NDArray[np.float64]]:
    with (run / "loss.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def loss_of(W: NDArray[np.float64], store: Path, result: dict[str, Any], split: Any) -> float:
    """Return the loss by its formula in float64; with `reg_bias`, regularise the bias too."""
    X, y = read(open_dataset(str(store)), split)
    parameters = result["parameters"]
    bias = parameters["reg"] * float(np.sum(W[:, -1] ** 2)) if parameters["reg_bias"] else 0.0
    return loss_in_numpy(W, X, y, parameters["reg"]) + bias


@pytest.mark.slow
@EACH
def test_record_and_files_match_the_formulas(
    user: User, hinge: Command, store: Path, tmp_path: Path, method: str
) -> None:
    result = trained(hinge, user, store, method).result
    run = tmp_path / "runs" / result["run"]
    assert json.loads((run / "result.json").read_text()) == result
    W = np.load(run / "weights.npy")
    assert hashlib.sha256(W.tobytes()).hexdigest() == result["weights_sha256"]
    rel = 1e-12 if method == "smoothed" else 1e-5
    for split, name in zip(SPLITS, ("loss", "test_loss"), strict=True):
        assert result[name] == pytest.approx(loss_of(W, store, result, split), rel=rel)
        X, y = read(open_dataset(str(store)), split)
        assert result[f"{split}_accuracy"] == np.mean((X @ W.T).argmax(axis=1) == y)
    curve = columns(run)
    assert curve["pass"].tolist() == list(range(result["passes"]))
    assert curve["loss"][0] == 9.0
    assert curve["loss"].min() == pytest.approx(result["loss"], rel=1e-6)
    assert result["status"] == "done"
    assert result["steps_per_second"] > 0
    assert {path.name for path in run.iterdir()} == {  # the journal was deleted
        *("result.json", "weights.npy", "loss.csv", "loss.png", ".lock")
    }


@pytest.mark.slow
def test_smoothed_run_reports_a_valid_lower_bound(
    user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    result = trained(hinge, user, store, "smoothed").result
    assert result["gap_reached"] is True
    assert 0 < result["lower_bound"] < result["loss"]
    assert result["gap"] == (result["loss"] - result["lower_bound"]) / result["loss"] <= 0.01
    assert result["steps"] == result["passes"] < 40
    curve = columns(tmp_path / "runs" / result["run"])
    assert curve["lower_bound"][-1] == result["lower_bound"]
    other = trained(hinge, user, store, "lbfgs", "--reg-bias", "--reg", 1e4, "--steps", 60).result
    assert other["loss"] >= result["lower_bound"]  # the bound holds for any weights
    assert not {"lower_bound", "gap", "gap_reached"} & other.keys()


@pytest.mark.slow
def test_text_summary_states_the_gap(user: User, hinge: Command, store: Path) -> None:
    said = dict(
        line.split(maxsplit=1)
        for line in trained(hinge, user, store, "smoothed", json=False).out.splitlines()
    )
    assert said["status"].startswith("done after ")
    assert " passes, " in said["status"]
    assert said["gap"].startswith("at most 0.")
    assert "not reached" not in said["gap"]
    short = trained(hinge, user, store, "smoothed", "--steps", 6, json=False).out
    assert "the requested gap of 1.000% was not reached" in short
    shorter = trained(hinge, user, store, "smoothed", "--steps", 1, json=False).out
    assert (
        "no lower bound above 0 was found; the requested gap of 1.000% was not reached" in shorter
    )
    plain = trained(hinge, user, store, "lbfgs", json=False).out
    assert "done after 8 iterations in " in plain
    lines = (short + shorter + plain).splitlines()
    assert max(len(line) for line in lines if str(store.anchor) not in line) < 140


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--method", "smoothed"], ["--reg above 0", "--reg-bias"]),
        (["--method", "smoothed", "--reg", 1], ["--reg-bias"]),
        (["--method", "smoothed", "--reg-bias"], ["--reg above 0"]),
        (["--method", "smoothed", "--reg", 1, "--reg-bias", "--gap", 0], ["gap", "0"]),
        (["--method", "smoothed", "--reg", 1, "--reg-bias", "--gap", 1], ["gap", "below 1"]),
        (["--method", "smoothed", "--reg", 1, "--reg-bias", "--tolerance", 0.1], ["tolerance"]),
        (["--method", "lbfgs", "--gap", 0.1], ["gap", "smoothed"]),
        (["--method", "gd", "--gap", 0.1], ["gap", "smoothed"]),
        (["--method", "lbfgs", "--step-size", 1e-6], ["--step-size", "lbfgs takes no step size"]),
        (["--method", "lbfgs", "--batch-size", 64], ["--batch-size", "lbfgs takes no batch size"]),
        (["--method", "lbfgs", "--momentum", 0.9], ["--momentum", "lbfgs takes no momentum"]),
        (["--method", "lbfgs", "--epochs", 3], ["--epochs", "lbfgs takes no epochs"]),
        (["--method", "lbfgs", "--placement", "one-worker"], ["--placement", "lbfgs takes no"]),
        (["--method", "lbfgs", "--checkpoint-every", 5], ["lbfgs", "checkpoints"]),
        (["--method", "gd", "--batch-size", 255], ["only to minibatch", "gd takes no batch size"]),
    ],
)
def test_options_of_other_methods_are_rejected(
    hinge: Command, store: Path, tmp_path: Path, given: list[object], words: list[str]
) -> None:
    refused = hinge("train", "--store", store, *given)
    assert (refused.status, refused.out) == (2, "")
    [line] = refused.err.splitlines()
    assert all(word in line for word in words), line
    assert not (tmp_path / "runs").exists()


def started(runs: Path, record: dict[str, Any]) -> Path:
    """Write a run that was killed before its first pass, with the header of `record`."""
    run = runs / "train-started"
    run.mkdir(parents=True)
    header = ("record_version", "command", "parameters", "data", "started", "versions", "machine")
    held = {name: record[name] for name in header} | {"run": run.name, "status": "running"}
    (run / "result.json").write_text(json.dumps(held))
    return run


@pytest.mark.slow
def test_damaged_journal_and_journal_of_another_run_are_rejected(
    user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    run = started(tmp_path / "runs", trained(hinge, user, store, "lbfgs").result)
    journal = RunDirectory(run).passes
    for content in (b"no journal at all" * 500, None):
        if content:
            journal.write_bytes(content)
        else:
            journal.unlink()
            with Journal(journal) as other:
                other.append(run="another")
        refused = hinge("train", "--store", store, "--resume", run.name)
        assert refused.status == 2
        assert "journal" in refused.err
        assert "start a new run" in refused.err
    journal.unlink()
    resumed = hinge("train", "--store", store, "--resume", run, "--scheduler", user.scheduler)
    assert resumed.status == 0, resumed.err


def count_passes_while_running(journal: Path) -> int:
    """Return the number of passes in a journal that another process is writing."""
    if not journal.exists():
        return 0
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=30)) as database:
        try:
            [[number]] = database.execute("SELECT count(*) FROM entries")
        except sqlite3.OperationalError:  # its table does not exist yet
            return 0
    return int(number)


def count_passes(journal: Path) -> int:
    """Return the number of passes in a journal; opening it rolls back an unfinished write."""
    with Journal(journal) as opened:
        return len(list(opened))


LONG: dict[str, list[object]] = {
    "lbfgs": ["--reg", 100, "--steps", 150],
    "smoothed": ["--reg", 100, "--reg-bias", "--gap", 1e-5, "--steps", 150],
}


@pytest.mark.slow
@EACH
def test_killed_run_resumes_without_repeating_passes_and_is_bit_identical(
    user: User,
    hinge: Command,
    store: Path,
    tmp_path: Path,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = ("train", "--store", store, "--method", method, *LONG[method])
    driver = user.start(*given, "--workers", 2, cwd=tmp_path)
    with driver:
        [run] = until(lambda: list((tmp_path / "runs").glob("train-*")), "a run")
        until(lambda: count_passes_while_running(RunDirectory(run).passes) >= 5, "five passes")
        workers = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.communicate()
    until(lambda: not any(map(psutil.Process.is_running, workers)), "the workers to end", 20)
    kept = count_passes(RunDirectory(run).passes)
    assert 5 <= kept < 150

    live, minimise = 0, quasi_newton.minimise

    def counted(map_shards: MapShards, *more: Any) -> Any:
        def counting(function: Any, inputs: Any, /) -> Any:
            nonlocal live
            live += 1
            return map_shards(function, inputs)

        return minimise(counting, *more)

    monkeypatch.setattr("flows.train.passes.minimise", counted)
    together = ("--scheduler", user.scheduler, "--json")
    resumed = hinge("train", "--store", store, "--resume", run, *together)
    assert resumed.status == 0, resumed.err
    assert kept + live == resumed.result["passes"]
    assert not RunDirectory(run).passes.exists()
    whole = hinge(*given, *together, "--runs", tmp_path / "uninterrupted")
    same = ("steps", "passes", "loss", "test_loss", "weights_sha256", "parameters")
    assert [resumed.result[name] for name in same] == [whole.result[name] for name in same]
    other = tmp_path / "uninterrupted" / whole.result["run"]
    assert (run / "loss.csv").read_text() == (other / "loss.csv").read_text()


@pytest.mark.slow
def test_interrupted_run_keeps_its_passes_and_resumes(
    user: User, hinge: Command, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Evaluations.__call__

    def interrupted(evaluations: Evaluations, *given: Any) -> Any:
        if evaluations.passes == 4:
            raise KeyboardInterrupt
        return evaluate(evaluations, *given)

    given = ("train", "--store", store, "--method", "lbfgs", *METHODS["lbfgs"])
    with monkeypatch.context() as patched:
        patched.setattr(Evaluations, "__call__", interrupted)
        stopped = hinge(*given, "--scheduler", user.scheduler)
    assert stopped.status == 130
    [run] = (tmp_path / "runs").iterdir()
    assert f"--resume {run}` resumes it" in stopped.err
    assert count_passes(RunDirectory(run).passes) == 4
    resumed = hinge("train", "--store", store, "--resume", run, "--scheduler", user.scheduler)
    assert resumed.status == 0, resumed.err
    whole = trained(hinge, user, store, "lbfgs", "--runs", tmp_path / "whole").result
    record = json.loads((run / "result.json").read_text())
    assert record["weights_sha256"] == whole["weights_sha256"]
