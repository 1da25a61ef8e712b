"""Interruption of a command or a flow by Control-C, SIGTERM, or Prefect.

Python runs signal handlers in the main thread. So the work runs in another thread, and the main
thread only waits. The first signal asks the work to stop (`pipeline.inputs.stopping`): the work
ends at its next step, writes its record, and raises Interrupted. A second signal ends the process
at once.

In a flow run, Prefect's own handler of SIGTERM stays, because Prefect cancels or reschedules a run
only while its handler is there. It raises an exception in the waiting main thread, which asks the
work to stop and reaches Prefect after the work has ended. A run of a deployment ignores Control-C:
the process that started it gets the same Control-C, and ends its runs with SIGTERM.
"""

import contextvars
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock, Thread, current_thread, main_thread
from typing import NoReturn, TypeVar

from prefect import runtime
from prefect.context import FlowRunContext

from pipeline.inputs.stopping import request_stop, stop_requested, withdraw_stop

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_LOOK_SECONDS = 0.1
"""Time between two looks for a signal that the system has given to another thread."""

_last_acts = list[Callable[[], None]]()


def run_interruptibly(work: Callable[[], T]) -> T:
    """Return `work()`. A signal ends it with Interrupted, whose argument says how to resume.

    In a thread other than the main thread, which gets no signals, this only calls `work`.
    """
    if current_thread() is not main_thread():
        return work()
    results, errors, running = list[T](), list[BaseException](), Lock()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            results.append(context.run(work))
        except BaseException as error:
            errors.append(error)
        finally:
            running.release()

    running.acquire()
    raised: BaseException | None = None
    with _handled():
        wait: Callable[[], object] = Thread(target=run, name="hinge-work").start
        while not (results or errors):
            try:
                wait()
            except BaseException as error:  # by a handler of Prefect or Python
                _stop()
                raised = raised or error
            wait = partial(running.acquire, timeout=_LOOK_SECONDS)
    if not errors:
        return results[0]
    interruption = interruption_in(errors[0])
    if interruption and raised and not isinstance(raised, KeyboardInterrupt):
        raise raised  # Prefect's own exception, which tells it what to do
    raise interruption or errors[0]


def interruption_in(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interruption that `error` is, or that was being handled when it was raised.

    It is Interrupted, or a KeyboardInterrupt of code that does not use `pipeline.inputs.stopping`.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


@contextmanager
def before_sudden_end(act: Callable[[], None]) -> Iterator[None]:
    """If a second signal ends the process during the block, call `act` first."""
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)


@contextmanager
def _handled() -> Iterator[None]:
    """Handle the signals during the block, except ignored ones and those of Prefect's flow runs.

    Control-C is ignored in a script's background jobs, for example.
    """
    before = {}
    try:
        if runtime.deployment.id is not None:
            before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        elif FlowRunContext.get() is None:
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, _stop)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
        withdraw_stop()


def _stop(*_signal: object) -> None:
    if stop_requested():
        end_at_once()
    request_stop()


def end_at_once() -> NoReturn:
    """End the process now. Dask's workers end with it."""
    os.write(2, b"hinge: ended at once\n")  # `print` might be running
    for act in _last_acts:
        act()
    os._exit(128 + signal.SIGINT)
