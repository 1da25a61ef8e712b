"""Control-C and SIGTERM, wherever they strike: an interruption, of which all is told and kept."""

import gc
import json
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from prefect import flow
from prefect.exceptions import TerminationSignal

from flows.runs.directory import RunDirectory
from flows.search.flow import search_random_flow
from flows.services.interruption import (
    delay_interruptions,
    deliver_interruption,
    interruptible,
    interruptions_in,
    shield_cluster_start,
)
from flows.services.session import Session
from pipeline.inputs.errors import PipelineError
from pipeline.search.random_search import RandomSearch
from tests.flows.conftest import Command, Finished, User

SIGNALS = (signal.SIGINT, signal.SIGTERM)
both = pytest.mark.parametrize("number", SIGNALS)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Each test begins with Python's own handlers, and must leave them as they were."""
    before = [signal.signal(signal.SIGINT, signal.default_int_handler)]
    before += [signal.signal(signal.SIGTERM, signal.SIG_DFL)]
    hook = sys.unraisablehook
    yield
    after = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)
    assert after == [signal.default_int_handler, signal.SIG_DFL]
    assert sys.unraisablehook is hook


class Referred:
    """What a weak reference can refer to."""


def called_back(callback: Callable[[], object]) -> None:
    """Have a callback of a weak reference called, whose errors Python only prints."""
    came, referred = threading.Event(), Referred()

    def call(_reference: object) -> None:
        came.set()
        callback()

    reference = weakref.ref(referred, call)
    del referred
    assert came.is_set()
    assert reference() is None


def _strike_in_a_callback(number: int, *_given: object) -> None:
    called_back(lambda: signal.raise_signal(number))
    time.sleep(5)


def _strike(number: int, *_given: object, **_more: object) -> None:
    signal.raise_signal(number)


def _fail_to_close(_session: Session) -> None:
    raise OSError("closing failed")


def _strike_and_fail(number: int, error: type[Exception], *_given: object, **_more: object) -> None:
    try:
        signal.raise_signal(number)
    except (KeyboardInterrupt, TerminationSignal):
        raise error("of something else")  # noqa: B904  # as libraries do


@pytest.fixture
def searched(user: User, hinge: Command, store: Path) -> Callable[[], Finished]:
    given = ("search", "random", "--trials", 4, "--store", store, "--scheduler", user.scheduler)
    return partial(hinge, *given)


def how_to_resume(store: Path, runs: Path) -> str:
    """The last line of an interrupted search, whose record must say so too."""
    [run] = runs.iterdir()
    assert json.loads((run / "result.json").read_text())["status"] == "interrupted"
    return f"hinge: interrupted; `hinge search random --store {store} --resume {run}` resumes it"


@both
@pytest.mark.parametrize(
    ("where", "strike"),
    [
        pytest.param("flows.search.flow.random_search", _strike_in_a_callback, id="callback"),
        pytest.param("prefect.states.Pending", _strike, id="as a task's engine begins"),
    ],
)
def test_an_interruption_is_one_whatever_it_strikes(
    searched: Callable[[], Finished],
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    strike: Callable[..., None],
    number: int,
) -> None:
    monkeypatch.setattr(where, partial(strike, number))
    finished = searched()
    assert (finished.status, finished.out) == (130, ""), finished.err
    assert "Traceback" not in finished.err
    assert finished.err.splitlines()[-1] == how_to_resume(store, tmp_path / "runs")


@pytest.mark.parametrize(
    ("strike", "close"), [(_strike_in_a_callback, Session.close), (_strike, _fail_to_close)]
)
def test_so_it_is_in_a_flow_without_a_command(
    user: User,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    strike: Callable[..., None],
    close: Callable[[Session], None],
) -> None:
    """As from a schedule, where Prefect handles SIGTERM and passes it on to who did before."""
    passed_on: list[int] = []
    monkeypatch.setattr("flows.search.flow.random_search", partial(strike, signal.SIGTERM))
    monkeypatch.setattr(Session, "close", close)
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


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGTERM, ValueError),
        (signal.SIGINT, PipelineError),
        (signal.SIGTERM, ConnectionError),
        (signal.SIGINT, BrokenPipeError),
    ],
)
def test_an_error_that_was_made_of_an_interruption_is_one(
    searched: Callable[[], Finished],
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
    number: int,
) -> None:
    with monkeypatch.context() as patched:  # before there is a run
        patched.setattr(
            "flows.runs.lifecycle.flow_session", partial(_strike_and_fail, number, error)
        )
        finished = searched()
    assert (finished.status, finished.out) == (130, ""), finished.err
    assert finished.err.splitlines()[-1] == "hinge: interrupted"
    assert not (tmp_path / "runs").exists()

    monkeypatch.setattr("flows.search.flow.random_search", partial(_strike_and_fail, number, error))
    finished = searched()
    assert (finished.status, finished.out) == (130, ""), finished.err
    assert finished.err.splitlines()[-1] == how_to_resume(store, tmp_path / "runs")


@both
def test_what_fails_in_closing_hides_no_interruption(
    searched: Callable[[], Finished],
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setattr("flows.search.flow.random_search", partial(_strike, number))
    monkeypatch.setattr(Session, "close", _fail_to_close)
    finished = searched()
    assert finished.status == 130
    assert finished.err.splitlines()[-1] == how_to_resume(store, tmp_path / "runs")


def test_control_c_twice_loses_nothing(
    searched: Callable[[], Finished],
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second strikes as the record is written, or as the session is closed."""
    write, strike = RunDirectory.write_document, partial(signal.raise_signal, signal.SIGINT)

    def struck(run: RunDirectory, record: dict[str, Any]) -> None:
        if record["status"] == "interrupted":
            strike()
        write(run, record)

    monkeypatch.setattr("flows.search.flow.random_search", lambda *_given: strike())
    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "write_document", struck)
        finished = searched()
    assert finished.err.splitlines()[-1] == how_to_resume(store, tmp_path / "runs")

    [run] = (tmp_path / "runs").iterdir()
    run.rename(tmp_path / "first")
    monkeypatch.setattr(Session, "close", lambda _session: strike())
    finished = searched()
    assert finished.status == 130
    assert finished.err.splitlines()[-1] == how_to_resume(store, tmp_path / "runs")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interruption_as_a_flow_ends_within_another_ends_both(user: User, number: int) -> None:
    went_on = []

    @flow(on_completion=[lambda *_given: signal.raise_signal(number)])
    def within() -> int:
        return 1

    @flow
    def around() -> None:
        went_on.append(within())

    with pytest.raises(KeyboardInterrupt), user.settings(), interruptible():
        around()
    assert went_on == []


@both
def test_what_is_waited_for_at_an_interruption_complains_of_nothing(
    user: User, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def wait() -> None:
        timer = threading.Timer(0.5, os.kill, (os.getpid(), number))
        with interruptible(), Client(user.scheduler) as client:
            awaited = client.map(time.sleep, [3.0, 3.01, 3.02], pure=False)
            timer.start()
            try:
                client.gather(awaited)
            finally:
                timer.join()

    with pytest.raises(KeyboardInterrupt):
        wait()
    gc.collect()  # what nobody has asked for its error logs it as it goes
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@both
def test_what_strikes_as_a_cluster_starts_is_held_whichever_thread_it_comes_to(number: int) -> None:
    map_shards, reached = threading.Event(), threading.Event()
    other = threading.Thread(target=map_shards.wait)  # which blocks no signal
    other.start()

    def start() -> None:
        with interruptible(), shield_cluster_start():
            os.kill(os.getpid(), number)
            while number in signal.sigpending():
                time.sleep(0.01)
            time.sleep(0.1)
            reached.set()

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        map_shards.set()
        other.join()
    assert reached.is_set()


@both
@pytest.mark.parametrize("block", [interruptible, shield_cluster_start, delay_interruptions])
def test_what_is_ignored_or_another_s_is_left_alone(number: int, block: Any) -> None:
    """Control-C of a script is not for its background jobs; Prefect needs its own SIGTERM."""
    came = []
    for handler in (signal.SIG_IGN, lambda *given: came.append(given[0])):
        before = signal.signal(number, handler)
        try:
            with block():
                assert signal.getsignal(number) is handler
                if number == signal.SIGTERM:
                    signal.raise_signal(number)
        finally:
            signal.signal(number, before)
    assert came == ([number] if number == signal.SIGTERM else [])


def test_in_another_thread_nothing_is_taken_over() -> None:
    """Two flows in two threads would each put back what the other had found."""
    hooks = []

    def enter() -> None:
        with deliver_interruption():
            hooks.append(sys.unraisablehook)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert hooks == [sys.unraisablehook]


def test_what_a_callback_raises_else_is_printed_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda given: printed.append(given.exc_value))

    def fail() -> None:
        raise ValueError("no interruption")

    with interruptible():
        called_back(fail)
    assert [str(error) for error in printed] == ["no interruption"]


@both
def test_what_fails_while_a_command_is_interrupted_is_no_second_interruption(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    printed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda given: printed.append(given.exc_value))
    closed = threading.Event()

    def fail() -> None:
        raise ValueError("in a callback")

    def run() -> None:
        try:
            signal.raise_signal(number)
        finally:
            called_back(fail)
            time.sleep(0.2)
            closed.set()

    with pytest.raises(KeyboardInterrupt), interruptible():
        run()
    assert [str(error) for error in printed] == ["in a callback"]
    assert closed.is_set()


def test_an_interruption_is_found_behind_what_it_was_made_into() -> None:
    interruption, other = TerminationSignal(signal=signal.SIGTERM), ValueError()
    cause, top = KeyError(), RuntimeError()
    top.__cause__, top.__context__ = cause, other
    other.__context__, interruption.__context__ = interruption, top  # in a circle
    assert list(interruptions_in(top)) == [interruption]
    assert list(interruptions_in(cause)) == []
