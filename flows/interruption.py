"""Control-C and SIGTERM: a command ends in its own time, whatever they find it at.

Python raises their exception in whatever the main thread does just then, and not everything
lets it pass. In a callback of the interpreter's own, a weak reference's say, it is only
printed; and a library that is struck amid its own affairs may fail in a way of its own, as
Prefect's engines do: "Task run is not set".
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from threading import Timer, current_thread, main_thread
from types import FrameType
from typing import Any

from prefect.exceptions import TerminationSignal

Handler = Callable[[int, FrameType | None], object]

_AGAIN_SECONDS = 0.05
"""Until what was swallowed is sent again: the callback has returned by then."""


def of_interruption(error: BaseException) -> bool:
    """Say whether an error is an interruption, or was raised as one was being handled."""
    seen: BaseException | None = error
    while seen is not None:
        if _signal_of(seen) is not None:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _signal_of(error: BaseException | None) -> int | None:
    """Return the signal that raised an exception, if one did: Prefect has its own for SIGTERM."""
    if isinstance(error, TerminationSignal):
        return int(error.signal)
    return signal.SIGINT if isinstance(error, KeyboardInterrupt) else None


@contextmanager
def interruptible() -> Iterator[None]:
    """Have Control-C and SIGTERM interrupt the block alike, and neither be swallowed in it.

    In the block both raise Prefect's TerminationSignal, and what leaves it is KeyboardInterrupt.
    That one Prefect lets go where it strikes as a flow ends within another; and Dask takes it
    to cancel what it waits for, which then complains of that when the command ends.
    """
    before, again = sys.unraisablehook, list[Timer]()

    def send_again(unraisable: "sys.UnraisableHookArgs") -> None:
        number = _signal_of(unraisable.exc_value)
        if number is None:
            before(unraisable)
        else:
            again.append(Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)))
            again[-1].start()

    sys.unraisablehook = send_again
    try:
        with _handled({signal.SIGINT: _terminate, signal.SIGTERM: _terminate}):
            yield
    except TerminationSignal:
        raise KeyboardInterrupt from None
    finally:
        sys.unraisablehook = before
        for timer in again:
            timer.cancel()


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise TerminationSignal(number)


@contextmanager
def interruption_held() -> Iterator[None]:
    """Let Control-C and SIGTERM take effect only after the block.

    A cluster that is half started cannot be closed. The workers, whose processes are started
    by threads that inherit what is blocked here, never take to themselves what is typed for the
    command: it ends them in its own time.
    """
    resource_tracker.ensure_running()  # as it starts, multiprocessing lets the signal through
    with _taken_later():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _taken_later() -> Iterator[None]:
    """Take note of what comes in the block, to whichever thread, and let it strike after."""
    came = list[int]()

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    try:
        with _handled({signal.SIGINT: note, signal.SIGTERM: note}):
            yield
    finally:
        for number in came[:1]:
            signal.raise_signal(number)


@contextmanager
def _handled(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Handle these signals so in the block, if in the main thread: no other can."""
    before = dict[int, Any]()
    try:
        if current_thread() is main_thread():
            for number, handler in handlers.items():
                before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
