"""`hinge grid`: trials equal runs of `hinge train`, are ranked and drawn, and resume."""

import csv
import json
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings

from flows.cli import hinge as command_group
from flows.grid.flow import grid_flow
from flows.runs.directory import RunDirectory
from flows.runs.lifecycle import RunKind
from flows.runs.record import plain
from flows.runs.weights import weights_sha256
from pipeline.journals.journal import Journal
from pipeline.sweep.parameters import Sweep
from pipeline.training.grid import TrainingGrid
from tests.flows.conftest import Command, Finished, User, until
from tests.flows.test_flows import artifacts_of, flow_run_of, task_runs_of
from tests.flows.test_refusals import refused

GIVEN = (
    *("--step-sizes", "1e-8,1e-6,1e-2", "--batch-sizes", "32,all", "--regs", "0,1e3"),
    *("--steps", 30, "--seed", 3),
)
OF_A_TRIAL = {
    *("step_size", "batch_size", "reg", "status", "loss", "train_accuracy", "test_accuracy"),
    *("weights_sha256", "steps", "test_loss"),
}


@pytest.fixture
def grid(user: User, hinge: Command, store: Path) -> Any:
    """Return a function that trains a grid on the small store."""

    def run(*given: object) -> Finished:
        scheduler = ("--scheduler", user.scheduler)
        return hinge("grid", "--store", store, *scheduler, *given)

    return run


@pytest.mark.slow
def test_every_trial_equals_a_run_of_hinge_train(
    grid: Any, user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    finished = grid(*GIVEN, "--json")
    assert finished.status == 0, finished.err
    result = finished.result
    trials = result["trials"]
    assert len(trials) == 12
    assert all(trial.keys() == OF_A_TRIAL for trial in trials)
    some = {(trial["batch_size"], trial["step_size"]): trial for trial in trials}
    assert len(some) == 6  # each with one of the two regularisers
    for trial in some.values():
        method = ("gd",) if trial["batch_size"] == "all" else ("minibatch", "--batch-size", 32)
        alone = hinge(
            *("train", "--store", store, "--scheduler", user.scheduler, "--json"),
            *("--method", *method, "--steps", 30, "--step-size", trial["step_size"]),
            *("--reg", trial["reg"], "--init", "normal:1e-3", "--seed", 3),
            *("--runs", tmp_path / "alone"),
        ).result
        same = OF_A_TRIAL - {"step_size", "batch_size", "reg"}
        assert {name: trial[name] for name in same} == {name: alone[name] for name in same}
    ranked = [(t["status"] == "diverged", -t["test_accuracy"]) for t in trials]
    assert ranked == sorted(ranked)
    assert result["best"] == trials[0]
    assert sum(trial["status"] == "diverged" for trial in trials) == 4
    path = tmp_path / "runs" / result["run"]
    assert json.loads((path / "result.json").read_text()) == result
    check_files(path, result)


def check_files(path: Path, result: dict[str, Any]) -> None:
    """Compare the table, the best weights and the figure with the record."""
    with (path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["weights_sha256"] for row in rows] == [
        trial["weights_sha256"] for trial in result["trials"]
    ]
    assert rows[0].keys() == OF_A_TRIAL
    W = np.load(path / "weights.npy")
    assert weights_sha256(W) == result["best"]["weights_sha256"]
    assert W.shape == (10, 3073)
    with Image.open(path / "curves.png") as picture:
        assert picture.format == "PNG"
        colours = picture.convert("RGB").getcolors(2**24)
    assert colours is not None
    assert len(colours) > 20


def test_output_has_one_line_per_trial_and_the_best(grid: Any, tmp_path: Path) -> None:
    finished = grid(*GIVEN)
    assert finished.status == 0, finished.err
    [path] = (tmp_path / "runs").iterdir()
    assert path.name.startswith("grid-2")
    record = json.loads((path / "result.json").read_text())
    dashboard, *lines = finished.err.splitlines()
    assert dashboard.startswith("Dask dashboard: ")
    assert len(lines) == 12
    best = record["best"]
    assert (
        f"step size {best['step_size']:e}, batch size {best['batch_size']}, reg {best['reg']:g}: "
        f"loss {best['loss']:f}, test accuracy {best['test_accuracy']:.2%}"
    ) in lines
    assert sum("diverged at step" in line for line in lines) == 4
    header, *rows = finished.out.splitlines()
    assert header.split() == [
        "step",
        "size",
        "batch",
        "size",
        *["reg", "loss", "train", "test", "status"],
    ]
    assert rows[0].split()[:3] == [
        f"{best['step_size']:g}",
        str(best["batch_size"]),
        f"{best['reg']:g}",
    ]
    assert [row for row in rows if row.endswith(tuple("0123456789")) and "diverged at" in row]
    assert "12, of which 4 diverged" in finished.out
    assert f"test accuracy {best['test_accuracy']:.2%}" in finished.out
    assert max(map(len, rows[:10])) < 100


@pytest.mark.slow
def test_grid_whose_trials_all_diverge_has_no_best_trial(grid: Any, tmp_path: Path) -> None:
    finished = grid("--step-sizes", "1e-2,1e300", "--steps", 40)
    assert finished.status == 1, finished.err
    assert "none; all trials diverged" in finished.out
    [path] = (tmp_path / "runs").iterdir()
    record = json.loads((path / "result.json").read_text())
    assert (record["status"], record["best"]) == ("diverged", None)
    assert not (path / "weights.npy").exists()
    again = grid("--resume", path.name)
    assert (again.status, again.out, again.err) == (1, finished.out, "")


@pytest.mark.slow
def test_best_weights_can_be_used_by_sweep(
    grid: Any, user: User, hinge: Command, store: Path
) -> None:
    result = grid("--step-sizes", "1e-7", "--batch-sizes", 32, "--steps", 5, "--json").result
    given = ("--at", result["run"], "--store", store, "--scheduler", user.scheduler, "--json")
    swept = hinge("sweep", *given).result
    assert swept["weights_sha256"] == result["best"]["weights_sha256"]
    assert swept["initial_loss"] == pytest.approx(result["best"]["loss"], rel=1e-5)


@pytest.mark.slow
def test_grid_creates_a_flow_run_with_one_task_per_group(
    grid: Any, user: User, store: Path, tmp_path: Path
) -> None:
    result = grid(*GIVEN, "--json").result
    with user.settings(), get_client(sync_client=True) as client:
        flow_run = flow_run_of(client, tmp_path / "runs")
        name = "grid 3 x 2 x 2 trials, 30 steps seed 3"
        assert (flow_run.name, flow_run.state.type) == (name, "COMPLETED")
        groups = [f"batch size {size}, reg {reg}" for size in (32, "all") for reg in (0, 1000)]
        tasks = task_runs_of(client, flow_run, 5)
        assert tasks == dict.fromkeys([*groups, "save results"], "COMPLETED")
        shown = artifacts_of(client, flow_run)
    assert shown.keys() == {f"grid-synthetic-{name}" for name in ("run", "trials", "loss")}
    assert all(result["run"] in artifact.description for artifact in shown.values())
    rows = json.loads(shown["grid-synthetic-trials"].data)
    assert [row["status"] for row in rows] == [trial["status"] for trial in result["trials"]]
    assert rows[0] == result["best"]
    assert shown["grid-synthetic-loss"].data.startswith("![")


@pytest.mark.slow
def test_flow_with_json_parameters_matches_the_command(
    grid: Any, user: User, store: Path, tmp_path: Path
) -> None:
    sent: Any = {"step_sizes": [1e-7], "batch_sizes": [32, "all"], "regs": [0], "steps": 3}
    with user.settings(), temporary_settings({"flows.heartbeat_frequency": None}):
        record = grid_flow(
            str(store), sent, runs=str(tmp_path / "scheduled"), scheduler=user.scheduler
        )
    typed = grid("--step-sizes", "1e-7", "--batch-sizes", "32,all", "--steps", 3, "--json").result
    assert typed["trials"] == list(plain(record.result.trials))


# -- resuming


LONG = ("--step-sizes", "1e-9,1e-8,1e-7,1e-6", "--batch-sizes", "16", "--steps", 2500)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_stopped_grid_ends_its_workers_and_resumes_to_the_same_result(
    user: User, grid: Any, store: Path, tmp_path: Path, how: signal.Signals
) -> None:
    given = ("grid", "--store", store, *LONG, "--workers", 2)
    process = user.start(*given, cwd=tmp_path)
    with process:
        assert process.stderr
        assert process.stderr.readline().startswith("Dask dashboard")
        first = process.stderr.readline()
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
    assert first.startswith("step size 1.0")
    until(lambda: not any(map(psutil.Process.is_running, workers)), "the workers to end", 20)
    [run] = (tmp_path / "runs").iterdir()
    record = json.loads((run / "result.json").read_text())
    assert out == ""
    if how is signal.SIGINT:
        command = f"`hinge grid --store {store} --resume runs/{run.name}`"
        assert err.splitlines()[-1] == f"hinge: interrupted; {command} resumes it"
        assert "Traceback" not in err
        assert (process.returncode, record["status"]) == (130, "interrupted")
    resumed = grid("--resume", run, "--json")
    assert resumed.status == 0, resumed.err
    _, before, *lines = resumed.err.splitlines()
    done = int(before.split()[0])
    assert before == f"{done} of 4 trials had finished before the run was resumed"
    assert 1 <= done < 4
    assert len(lines) == 4 - done
    whole = grid(*LONG, "--json", "--runs", tmp_path / "uninterrupted").result
    assert resumed.result["trials"] == whole["trials"]
    assert resumed.result["best"] == whole["best"]
    again = grid("--resume", run, "--json")
    assert (again.result, again.err) == (resumed.result, "")


@pytest.fixture
def interrupted(grid: Any, tmp_path: Path) -> Path:
    """A grid whose record states that it was interrupted, although all trials have finished."""
    result = grid(*GIVEN, "--json").result
    run = RunDirectory(tmp_path / "runs" / result["run"])
    run.write_document(run.read_document() | {"status": "interrupted"})
    return run.path


@pytest.mark.slow
def test_resumed_grid_with_all_trials_finished_runs_none_again(
    grid: Any, interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((interrupted / "result.json").read_text())
    monkeypatch.setattr(
        "pipeline.cluster.placement.place_shards", None
    )  # loading images would fail
    monkeypatch.setattr("flows.grid.flow.run_trials", lambda *_: no_outcomes())
    resumed = grid("--resume", interrupted.name, "--json")
    assert resumed.result["trials"] == before["trials"]


def no_outcomes() -> Any:
    yield from ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda path: path.write_bytes(b"no journal, but as long as one would be" * 99),
            "not a journal",
        ),
        (lambda path: append(path, number=0), "another grid's trials"),
        (lambda path: append(path, trial="other", number=0), "another grid's trials"),
    ],
    ids=["not a journal", "entry without a trial", "entry of another trial"],
)
def test_unusable_journals_are_rejected(
    grid: Any, interrupted: Path, damage: Any, words: str
) -> None:
    damage(interrupted / "journal.sqlite")
    refused(grid("--resume", interrupted.name), interrupted.name, words, "start a new run")


def append(path: Path, **entry: Any) -> None:
    with Journal(path) as journal:
        journal.append(**entry)


@pytest.mark.slow
def test_sweep_rejects_a_run_of_grid(hinge: Command, store: Path, interrupted: Path) -> None:
    finished = hinge("sweep", "--store", store, "--resume", interrupted.name)
    refused(finished, "is not a run of `hinge sweep` but of `hinge grid`")


def test_commands_and_flows_have_the_same_defaults() -> None:
    for command, parameters in (("grid", TrainingGrid()), ("sweep", Sweep())):
        options = command_group.commands[command].make_context(command, ["--store", "any"]).params
        fields = asdict(parameters)
        assert {name: options[name] for name in fields} == fields


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--step-sizes", ""], ["--step-sizes"]),
        (["--step-sizes", "1e-7,"], ["--step-sizes"]),
        (["--step-sizes", "1e-7,x"], ["'x'"]),
        (["--step-sizes", "0"], ["step size", "0"]),
        (["--step-sizes", "1e-7,1e-7"], ["differ"]),
        (["--batch-sizes", "64,601"], ["601", "600"]),
        (["--batch-sizes", "half"], ["half"]),
        (["--regs", "-1"], ["regulariser", "-1"]),
        (["--steps", "0"], ["steps", "0"]),
        (["--resume", "x"], ["no run 'x'"]),
        (["--resume", "x", "--steps", "5"], ["--steps", "resumed"]),
        (["--exponents", "-3:1"], ["--exponents"]),
        (["--at", "x"], ["--at"]),
    ],
    ids=" ".join,
)
def test_invalid_options_are_rejected_before_anything_starts(
    hinge: Command, store: Path, tmp_path: Path, given: list[str], words: list[str]
) -> None:
    refused(hinge("grid", "--store", store, *given), *words)
    assert list(tmp_path.iterdir()) == []


def test_command_plans_its_run_once(grid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, plan = list[str](), RunKind.plan

    def counted(kind: RunKind[Any, Any, Any], *given: Any, **options: Any) -> Any:
        planned.append(kind.command)
        return plan(kind, *given, **options)

    monkeypatch.setattr(RunKind, "plan", counted)
    assert grid("--step-sizes", "1e-7", "--steps", 2).status == 0
    assert planned == ["grid"]
