"""Training runs that are killed or interrupted resume to bit-identical results."""

import json
import os
import pty
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from kernels.updates import gradient_descent
from pipeline.training import checkpoints
from pipeline.training.descent import DescentState
from pipeline.training.parameters import GradientDescent
from tests.flows.conftest import Command, User, until
from tests.flows.test_console import read_terminal

METHODS: dict[str, list[object]] = {
    "gd": ["--steps", 200, "--checkpoint-every", 10],
    "minibatch": ["--steps", 4000, "--checkpoint-every", 200, "--batch-size", 16],
}


def train(store: Path, method: str) -> list[object]:
    return ["train", "--store", store, "--method", method, *METHODS[method]]


def checkpoint_of(runs: Path) -> Path:
    """Wait for the first checkpoint of the only run and return its path."""
    found: list[Path] = until(lambda: list(runs.glob("train-*/checkpoint.npz")), "a checkpoint")
    return found[0]


def state_of(checkpoint: Path) -> DescentState:
    return checkpoints.load(checkpoint, gradient_descent(1e-7))


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "result.json").read_text())
    return record


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_run_leaves_no_workers_and_resumes_bit_identically(
    user: User, hinge: Command, store: Path, method: str, tmp_path: Path
) -> None:
    driver = user.start(*train(store, method), "--workers", 2, cwd=tmp_path)
    with driver:
        checkpoint = checkpoint_of(tmp_path / "runs")
        workers = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.communicate()
    assert len(workers) >= 2
    until(lambda: not any(map(psutil.Process.is_running, workers)), "the workers to end", 20)
    run = checkpoint.parent
    reached = state_of(checkpoint)
    assert 0 < reached.step < int(str(METHODS[method][1]))
    assert record_of(run)["status"] == "running"

    resumed = hinge(
        *("train", "--store", store, "--resume", run.name, "--scheduler", user.scheduler),
        "--json",
    )
    assert resumed.status == 0, resumed.err
    whole = hinge(
        *(*train(store, method), "--scheduler", user.scheduler, "--json"),
        *("--runs", tmp_path / "uninterrupted"),
    )
    assert whole.status == 0, whole.err
    same = ("steps", "loss", "test_loss", "train_accuracy", "weights_sha256", "parameters")
    assert [resumed.result[name] for name in same] == [whole.result[name] for name in same]
    curves = [
        (runs / result["run"] / "loss.csv").read_text()
        for runs, result in (
            (tmp_path / "runs", resumed.result),
            (tmp_path / "uninterrupted", whole.result),
        )
    ]
    assert curves[0] == curves[1]

    again = hinge("train", "--store", store, "--resume", run.name, "--json")
    assert (again.status, again.err) == (0, "")  # no cluster was started
    assert again.result == resumed.result


@pytest.mark.slow
def test_resumed_run_starts_from_its_checkpoint(
    user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    given = ("train", "--store", store, "--scheduler", user.scheduler, "--json")
    first = hinge(*given, "--steps", 4, "--checkpoint-every", 2).result
    run = tmp_path / "runs" / first["run"]
    # An artificial checkpoint. Only a run that resumes from it reaches the expected result.
    losses = np.array([9.0, 8.0, 7.0])
    W = np.random.default_rng(0).normal(scale=1e-3, size=(10, 3073))
    parameters = GradientDescent(steps=4)
    optimiser = parameters.optimiser()
    checkpoints.save(run / "checkpoint.npz", DescentState(3, W, optimiser.init(W), losses))
    (run / "result.json").write_text(json.dumps(record_of(run) | {"status": "running"}))
    resumed = hinge(*given, "--resume", first["run"]).result
    assert resumed["steps"] == 4
    assert resumed["weights_sha256"] != first["weights_sha256"]
    curve = (run / "loss.csv").read_text().split()
    assert curve[:4] == ["step,loss", "0,9.0", "1,8.0", "2,7.0"]
    assert len(curve) == 5
    assert resumed["started"] == first["started"]


@pytest.mark.slow
def test_control_c_ends_a_run_with_one_line_on_how_to_resume(
    user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    process = user.start(
        *(*train(store, "gd")[:-4], "--steps", 100_000, "--checkpoint-every", 20),
        *("--workers", 1),
        cwd=tmp_path,
        stdin=theirs,
        stderr=theirs,
        environment={"TERM": "xterm", "COLUMNS": "100"},
        preexec_fn=lambda: _take_terminal(theirs),
    )
    os.close(theirs)
    with process:
        run = checkpoint_of(tmp_path / "runs").parent
        shown = ""
        while "loss " not in shown:  # a progress bar, which may come after the first checkpoint
            shown += os.read(ours, 4096).decode(errors="replace")
        os.write(ours, b"\x03")  # the terminal signals all its processes, including workers
        shown += read_terminal(ours)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    assert out == ""
    assert "Traceback" not in shown
    last = shown.strip().splitlines()[-1]
    assert last == (
        f"hinge: interrupted; `hinge train --store {store} --resume runs/{run.name}` resumes it"
    )
    assert record_of(run)["status"] == "interrupted"

    parameters = record_of(run)["parameters"] | {"steps": state_of(run / "checkpoint.npz").step + 1}
    (run / "result.json").write_text(json.dumps(record_of(run) | {"parameters": parameters}))
    given = last.split("`")[1].split()[1:]
    resumed = hinge(*given[:-1], tmp_path / given[-1], "--scheduler", user.scheduler)
    assert resumed.status == 0, resumed.err
    assert "done after" in resumed.out


@pytest.mark.slow
def test_running_run_cannot_be_resumed_until_sigterm_stops_it(
    user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    """SIGTERM, as sent by a batch system at its time limit, has the effect of Control-C."""
    given = ("train", "--store", store, "--steps", 100_000, "--checkpoint-every", 20)
    process = user.start(*given, "--workers", 1, cwd=tmp_path)
    with process:
        run = checkpoint_of(tmp_path / "runs").parent
        second = hinge("train", "--store", store, "--resume", run.name)
        assert second.status == 2
        assert second.err == (
            f"hinge: run {run.name} is running in another process; wait until it ends, or stop it\n"
        )
        assert process.poll() is None
        assert record_of(run)["status"] == "running"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1] == (
        f"hinge: interrupted; `hinge train --store {store} --resume runs/{run.name}` resumes it"
    )
    assert record_of(run)["status"] == "interrupted"

    parameters = record_of(run)["parameters"] | {"steps": state_of(run / "checkpoint.npz").step + 1}
    (run / "result.json").write_text(json.dumps(record_of(run) | {"parameters": parameters}))
    resumed = hinge("train", "--store", store, "--resume", run, "--scheduler", user.scheduler)
    assert resumed.status == 0, resumed.err


def _take_terminal(descriptor: int) -> None:
    """Start a new session with the terminal at `descriptor` as its controlling terminal."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("started", [1, 2])  # cluster processes when the signal is sent
def test_interruption_before_a_run_exists_prints_only_interrupted(
    user: User, store: Path, tmp_path: Path, started: int, number: int
) -> None:
    process = user.start("train", "--store", store, "--workers", 1, cwd=tmp_path)
    with process:
        parent = psutil.Process(process.pid)
        until(lambda: len(parent.children(recursive=True)) >= started, "the processes of a cluster")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.strip().splitlines()[-1] == "hinge: interrupted", err
    assert "Traceback" not in err
