"""Control-C and SIGTERM end a command at its next step, with one line and a complete record."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import prefect.states
import pytest
from distributed import Client
from prefect.exceptions import TerminationSignal

from flows.runs.directory import RunDirectory
from flows.search.flow import search_random_flow
from flows.services.interruption import SIGNALS, run_interruptibly
from flows.services.session import Session
from pipeline.cluster.waiting import gather_results
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.stopping import Interrupted, check_stop, pause, stop_requested
from pipeline.search.random_search import RandomSearch
from tests.flows.conftest import Command, Finished, Started, User, end, until

both = pytest.mark.parametrize("number", SIGNALS)


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """Start each test with Python's own signal handlers, and check that it restores them."""
    before = [signal.signal(signal.SIGINT, signal.default_int_handler)]
    before += [signal.signal(signal.SIGTERM, signal.SIG_DFL)]
    yield
    after = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)
    assert after == [signal.default_int_handler, signal.SIG_DFL]
    assert not stop_requested()


def send(number: int) -> None:
    """Send a signal to this process, and wait until it has asked the work to stop."""
    os.kill(os.getpid(), number)
    until(stop_requested, "the request to stop", 5)


def send_and_wait(number: int, *_given: object, **_more: object) -> NoReturn:
    send(number)
    pause(30)
    raise AssertionError("the work was not stopped")


def send_and_fail(number: int, error: Exception, *_given: object, **_more: object) -> None:
    """Fail while the interruption is handled, as the end of a `with` block may."""
    send(number)
    try:
        check_stop()
    finally:
        raise error


@both
def test_work_ends_at_its_next_step(number: int) -> None:
    with pytest.raises(Interrupted):
        run_interruptibly(partial(send_and_wait, number))


@both
def test_work_that_ends_before_its_next_step_counts(number: int) -> None:
    def work() -> int:
        send(number)
        return 7

    assert run_interruptibly(work) == 7


def test_results_errors_and_context_pass_through_the_thread(monkeypatch: Any) -> None:
    cause = KeyError("cause")

    def fail() -> None:
        raise PipelineError("failed") from cause

    with pytest.raises(PipelineError, match="failed") as raised:
        run_interruptibly(fail)
    assert raised.value.__cause__ is cause
    here = threading.get_ident()
    assert run_interruptibly(threading.get_ident) != here
    assert run_interruptibly(lambda: run_interruptibly(threading.get_ident)) != here


@both
def test_ignored_signals_stay_ignored(number: int) -> None:
    """A script's background jobs ignore Control-C."""
    before = signal.signal(number, signal.SIG_IGN)
    try:

        def work() -> bool:
            os.kill(os.getpid(), number)
            time.sleep(0.3)
            return stop_requested()

        assert run_interruptibly(work) is False
    finally:
        signal.signal(number, before)


@both
def test_tasks_awaited_at_an_interruption_log_no_errors(
    user: User, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def wait() -> None:
        timer = threading.Timer(0.5, os.kill, (os.getpid(), number))
        with Client(user.scheduler) as client:
            awaited = client.map(time.sleep, [3.0, 3.01, 3.02], pure=False)
            timer.start()
            try:
                gather_results(client, awaited)
            finally:
                timer.join()

    with pytest.raises(Interrupted):
        run_interruptibly(wait)
    gc.collect()  # a task whose error was never retrieved logs it when it is collected
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@pytest.fixture
def search(user: User, hinge: Command, store: Path) -> Callable[[], Finished]:
    given = ("search", "random", "--trials", 4, "--store", store, "--scheduler", user.scheduler)
    return partial(hinge, *given)


def assert_interrupted(finished: Finished, store: Path, runs: Path) -> None:
    """Check the exit status, the last line and the record of an interrupted search."""
    assert (finished.status, finished.out) == (130, ""), finished.err
    assert "Traceback" not in finished.err
    [run] = runs.iterdir()
    assert json.loads((run / "result.json").read_text())["status"] == "interrupted"
    resume = f"`hinge search random --store {store} --resume {run}` resumes it"
    assert finished.err.splitlines()[-1] == f"hinge: interrupted; {resume}"


@both
def test_interruption_during_a_wait(
    search: Callable[[], Finished],
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setattr("flows.search.flow.random_search", partial(send_and_wait, number))
    assert_interrupted(search(), store, tmp_path / "runs")


def test_interruption_at_the_start_of_a_task_in_prefect(
    search: Callable[[], Finished],
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prefect's engine would raise another error if the signal raised an exception there."""
    pending = prefect.states.Pending

    def send_and_return(*given: Any, **more: Any) -> Any:
        monkeypatch.undo()
        send(signal.SIGTERM)
        return pending(*given, **more)

    monkeypatch.setattr("prefect.states.Pending", send_and_return)
    assert_interrupted(search(), store, tmp_path / "runs")


def test_interruption_before_the_run_leaves_no_run(
    search: Callable[[], Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.services.session.connect", partial(send_and_wait, signal.SIGTERM))
    finished = search()
    assert (finished.status, finished.out) == (130, ""), finished.err
    assert finished.err.splitlines()[-1] == "hinge: interrupted"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGTERM, OSError("of the body")), (signal.SIGINT, PipelineError("of the body"))],
)
def test_errors_do_not_hide_an_interruption(
    search: Callable[[], Finished],
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    error: Exception,
) -> None:
    def fail_to_close(_session: Session) -> None:
        raise OSError("closing failed")

    monkeypatch.setattr("flows.search.flow.random_search", partial(send_and_fail, number, error))
    monkeypatch.setattr(Session, "close", fail_to_close)
    assert_interrupted(search(), store, tmp_path / "runs")


def test_sigterm_during_a_flow_without_a_command_reaches_prefect(
    user: User, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a scheduled run, Prefect handles SIGTERM, then calls the previous handler."""
    passed_on: list[int] = []

    def wait(*_given: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        pause(30)

    monkeypatch.setattr("flows.search.flow.random_search", wait)
    before = signal.signal(signal.SIGTERM, lambda *given: passed_on.append(given[0]))
    try:
        with pytest.raises(TerminationSignal), user.settings():
            search_random_flow(
                str(store), RandomSearch(4), runs=str(tmp_path), scheduler=user.scheduler
            )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert passed_on == [signal.SIGTERM]
    [run] = tmp_path.iterdir()
    assert json.loads((run / "result.json").read_text())["status"] == "interrupted"


def test_record_is_complete_before_the_interruption_is_raised(
    search: Callable[[], Finished],
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = RunDirectory.write_document

    def slow_write(run: RunDirectory, record: dict[str, Any]) -> None:
        if record["status"] == "interrupted":
            time.sleep(0.5)
        write(run, record)

    monkeypatch.setattr(RunDirectory, "write_document", slow_write)
    monkeypatch.setattr("flows.search.flow.random_search", partial(send_and_wait, signal.SIGINT))
    assert_interrupted(search(), store, tmp_path / "runs")


HANGING = """
import os, signal, sys, time
from flows.services.interruption import before_sudden_end, run_interruptibly

def work():
    with before_sudden_end(lambda: os.write(1, b"end of the server\\n")):
        print("working", flush=True)
        time.sleep(60)

run_interruptibly(work)
"""


@both
def test_second_signal_ends_work_that_does_not_stop(user: User, number: int) -> None:
    process = Started(
        [sys.executable, "-c", HANGING],
        env=user.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(number)
    finished = end(process, 5)
    assert (finished.status, finished.err) == (130, "hinge: ended at once\n")
    assert finished.out == "end of the server\n"
