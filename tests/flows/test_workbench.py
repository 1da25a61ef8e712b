"""The workbench: its state file, and the commands that use a real `hinge serve`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from distributed import Client
from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings

from flows.services.errors import ServerError
from flows.services.process_identity import ProcessIdentity
from flows.services.workbench import (
    Workbench,
    WorkbenchFiles,
    claimed_workbench,
    join_workbench,
)
from storage.locks import open_lock, release, try_lock
from tests.flows.conftest import Finished, Started, User, end, first_result, until
from tests.flows.test_process_identity import ELSEWHERE

HELD = Workbench(
    api="http://127.0.0.1:9/api",
    local=True,
    scheduler="tcp://127.0.0.1:9",
    dashboard="http://127.0.0.1:9/status",
    cache=0.5,
)

HOLD = """
import sys, time
from pathlib import Path
from flows.services.workbench import Workbench, claimed_workbench
heavy = {"prefect", "distributed", "dask", "numpy"} & sys.modules.keys()
with claimed_workbench(Path(sys.argv[1])) as claim:
    claim.announce(Workbench("http://127.0.0.1:9/api", True, "tcp://h:9", "http://h:9", 0.5))
    print(*heavy, "held", flush=True)
    time.sleep(600)
"""

STEPS = ("--steps", 20_000, "--checkpoint-every", 50)


@contextmanager
def holder(home: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run another process that holds the workbench of `home`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"  # and nothing heavy was imported
            yield process
        finally:
            process.kill()


def test_workbench_is_found_while_its_process_holds_it(tmp_path: Path) -> None:
    with join_workbench(tmp_path) as use:
        assert use is None
    with holder(tmp_path) as process, join_workbench(tmp_path) as use:
        assert use is not None
        assert use.process.pid == process.pid
        assert (use.is_there(), use.is_stopping()) == (True, False)
        with (
            pytest.raises(
                ServerError, match=rf"process {process.pid} holds .*127\.0\.0\.1:9, Dask"
            ),
            claimed_workbench(tmp_path),
        ):
            pass
        process.kill()
        process.wait()
        assert not use.is_there()
    assert WorkbenchFiles(tmp_path).state.stat().st_size > 0  # it stays, and is not valid
    with join_workbench(tmp_path) as use:
        assert use is None
    with claimed_workbench(tmp_path):  # another one may start
        pass


@pytest.mark.parametrize("where", [*ELSEWHERE, "a dead process", "no lock", "garbage", "no pages"])
def test_state_that_is_not_valid_here_is_ignored(where: str, tmp_path: Path) -> None:
    with claimed_workbench(tmp_path) as claim:
        claim.announce(HELD)
        files = WorkbenchFiles(tmp_path)
        content = json.loads(files.state.read_text())
        assert files.workbench() == HELD
        if where in ELSEWHERE:
            content["process"] = ELSEWHERE[where](ProcessIdentity.current()).to_json()
        elif where == "a dead process":
            content["process"]["pid"] = 2**22 + 1
        elif where == "no pages":
            del content["workbench"]["dashboard"]
        files.state.write_text("[1, 2" if where == "garbage" else json.dumps(content))
        if where == "no lock":
            files.state.unlink()
            files.state.write_text(json.dumps(content))
        with join_workbench(tmp_path) as use:
            assert use is None


def test_workbench_waits_for_its_users_but_not_for_ever(tmp_path: Path) -> None:
    with claimed_workbench(tmp_path) as claim:
        claim.announce(HELD)
        with join_workbench(tmp_path) as use:
            assert use is not None
            assert not claim.dismiss_users(0.2)
            assert use.is_stopping()
            with join_workbench(tmp_path) as late:
                assert late is None
        assert claim.dismiss_users(5)


def test_look_at_the_state_does_not_hinder_a_claim(tmp_path: Path) -> None:
    files = WorkbenchFiles(tmp_path)
    files.state.parent.mkdir()
    look = open_lock(files.state)
    assert try_lock(look)
    started = time.monotonic()
    with pytest.raises(ServerError, match=f"the process that locks {files.state} holds"):
        claimed_workbench(tmp_path).__enter__()
    assert time.monotonic() - started > 0.5
    release(look)
    with claimed_workbench(tmp_path):
        pass


class Serving:
    """A running `hinge serve`."""

    def __init__(self, user: User, cwd: Path, process: Started) -> None:
        self.user, self.cwd, self.process = user, cwd, process
        self.addresses = first_result(process)

    def hinge(self, *arguments: object, **environment: str) -> Started:
        return self.user.start(*arguments, cwd=self.cwd, environment=environment)

    def loads(self) -> int:
        """Return how many shards are in the workers' memory."""
        with Client(self.addresses["scheduler"], set_as_default=False) as client:
            return len([key for key in client.who_has() if "hinge-load" in str(key)])

    def load_tasks(self) -> set[str]:
        """Return the keys of all tasks that loaded a shard, from the workers' logs."""

        def computed(dask_worker: Any) -> list[str]:
            return [
                str(event[0])
                for event in dask_worker.state.log
                if "hinge-load" in str(event[0]) and "memory" in event
            ]

        with Client(self.addresses["scheduler"], set_as_default=False) as client:
            return {key for keys in client.run(computed).values() for key in keys}


@pytest.fixture
def serving(user: User, tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Return a function that starts `hinge serve`; it is killed after the test if it still runs."""
    started = list[Started]()

    def serve(*options: object) -> Serving:
        started.append(user.start("serve", "--json", *options, cwd=tmp_path))
        return Serving(user, tmp_path, started[-1])

    yield serve
    for process in started:
        process.kill()
        process.communicate()


def one_run(runs: Path, command: str) -> dict[str, Any]:
    [record] = runs.glob(f"{command}-*/result.json")
    document: dict[str, Any] = json.loads(record.read_text())
    return document | {"directory": str(record.parent)}


@pytest.mark.slow
def test_commands_share_the_workbench_and_its_images(
    serving: Callable[..., Serving], user: User, store: Path, tmp_path: Path
) -> None:
    bench = serving("--workers", 2)
    assert bench.addresses["prefect_api"] == user.api
    second = end(bench.hinge("serve"))
    assert second.status == 2
    expected = f"hinge: `hinge serve` runs already: process {bench.process.pid} holds the workbench"
    assert second.err.startswith(expected)
    assert bench.addresses["dask_dashboard"] in second.err
    assert len(second.err.splitlines()) == 1

    sweep = ("sweep", "--store", store, "--json")
    both = [bench.hinge(*sweep, "--runs", f"both-{i}") for i in range(2)]
    results = [end(process) for process in both]
    assert [each.status for each in results] == [0, 0], results
    assert len({json.dumps(each.result["losses"]) for each in results}) == 1
    dashboard = f"Dask dashboard: {bench.addresses['dask_dashboard']}\n"
    assert [each.err for each in results] == [dashboard, dashboard]
    loaded = bench.load_tasks()
    assert loaded

    again = end(bench.hinge(*sweep))
    assert (again.status, again.err) == (0, dashboard)
    assert bench.load_tasks() == loaded
    named = end(bench.hinge(*sweep, PREFECT_API_URL=user.api))  # the workbench's own API
    assert (named.status, named.err) == (0, dashboard)
    other = end(bench.hinge(*sweep, "--scheduler", user.scheduler, "--runs", "other"))
    assert dashboard not in other.err
    with temporary_settings({"api.url": user.api}), get_client(sync_client=True) as client:
        assert len(client.read_flow_runs()) >= 5

    children = psutil.Process(bench.process.pid).children(recursive=True)
    started = time.monotonic()
    bench.process.send_signal(signal.SIGINT)
    ended = end(bench.process)
    assert (ended.status, time.monotonic() - started < 30) == (0, True), ended.err
    until(lambda: not any(map(psutil.Process.is_running, children)), "no process to be left", 10)


def train_until_checkpoint(bench: Serving, store: Path) -> Started:
    process = bench.hinge("train", "--store", store, "--method", "gd", *STEPS)
    until(lambda: [*bench.cwd.glob("runs/train-*/checkpoint.npz")], "a checkpoint", 120)
    return process


def resumes(user: User, store: Path, run: dict[str, Any], cwd: Path) -> Finished:
    """Resume a run elsewhere, until it has written another checkpoint; then interrupt it."""
    directory = Path(run["directory"])
    before = (directory / "checkpoint.npz").stat().st_mtime_ns
    process = user.start(
        *("train", "--store", store, "--resume", directory, "--scheduler", user.scheduler), cwd=cwd
    )
    until(lambda: (directory / "checkpoint.npz").stat().st_mtime_ns != before, "a checkpoint", 120)
    process.send_signal(signal.SIGINT)
    return end(process)


@pytest.mark.slow
def test_command_on_a_killed_workbench_says_so_and_resumes(
    serving: Callable[..., Serving], user: User, store: Path, tmp_path: Path
) -> None:
    bench = serving("--workers", 2)
    process = train_until_checkpoint(bench, store)
    started = time.monotonic()
    os.kill(bench.process.pid, signal.SIGKILL)
    bench.process.wait()
    ended = end(process)
    assert time.monotonic() - started < 30
    run = one_run(tmp_path / "runs", "train")
    resume = f"`hinge train --store {store} --resume runs/{run['run']}` resumes it"
    lost = f"the workbench (process {bench.process.pid}) ended during the run; {resume}"
    assert (ended.status, ended.err.splitlines()[-1]) == (1, f"hinge: {lost}")
    assert len(ended.err.splitlines()) == 2  # the first names the dashboard
    assert (run["status"], run["error"]) == ("failed", lost)
    assert resumes(user, store, run, tmp_path).status == 130


@pytest.mark.slow
def test_workbench_that_ends_interrupts_its_commands(
    serving: Callable[..., Serving], user: User, store: Path, tmp_path: Path
) -> None:
    bench = serving("--workers", 2)
    process = train_until_checkpoint(bench, store)
    bench.process.send_signal(signal.SIGTERM)
    ended, served = end(process), end(bench.process)
    run = one_run(tmp_path / "runs", "train")
    assert (ended.status, run["status"]) == (130, "interrupted")
    assert ended.err.splitlines()[-1].endswith(f"--resume runs/{run['run']}` resumes it")
    assert served.status == 0
    assert served.err.splitlines()[-1].startswith("ending; ")
