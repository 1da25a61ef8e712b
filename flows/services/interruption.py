"""Control-C and SIGTERM: a command ends in its own time, wherever they strike.

Python raises their exception in whatever the main thread does just then, and not everything
lets it pass. In a callback of the interpreter's own, a weak reference's say, it is only
printed; and a library that is struck amid its own affairs may fail in a way of its own, as
Prefect's engines do: "Task run is not set".

Where no command is, in a flow that a schedule runs, Prefect handles SIGTERM, and has to: it may
mean that the run was cancelled, or put off. That it gets there is seen to all the same.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from threading import Timer, current_thread, main_thread
from types import FrameType

from prefect.exceptions import TerminationSignal

_AGAIN_SECONDS = 0.05
"""Until what was swallowed is sent again, and again if that is swallowed too."""


def interruptions_in(error: BaseException) -> Iterator[KeyboardInterrupt | TerminationSignal]:
    """Yield an error, if it is an interruption, and those that it was raised because of."""
    ahead, seen = [error], set[int]()
    while ahead:
        this = ahead.pop()
        if id(this) in seen:
            continue
        seen.add(id(this))
        if isinstance(this, KeyboardInterrupt | TerminationSignal):
            yield this
        ahead += [other for other in (this.__context__, this.__cause__) if other is not None]


@contextmanager
def interruptible() -> Iterator[None]:
    """Have Control-C and SIGTERM interrupt the block alike, and neither be swallowed in it.

    What leaves the block is a KeyboardInterrupt, with the last note on how to go on (PEP 678).
    In it they raise Prefect's TerminationSignal: a KeyboardInterrupt that strikes when a flow
    within another has ended Prefect drops, and Dask answers one by cancelling what is waited
    for, whose tasks then log that nobody asked for their error.
    """
    try:
        with _handled_by(_terminate), _resend_swallowed():
            yield
    except BaseException as error:
        interruptions = list(interruptions_in(error))
        if not interruptions:
            raise
        notes = [each.__notes__[-1] for each in interruptions if hasattr(each, "__notes__")]
        raise KeyboardInterrupt(*notes[:1]) from None


@contextmanager
def deliver_interruption() -> Iterator[None]:
    """Have what interrupts the block, where Prefect handles the signal, leave it as just that.

    It is not lost where Python only prints it, and not hidden by what was made of it on its way.
    """
    try:
        with _resend_swallowed():
            yield
    except BaseException as error:
        interruption = next(interruptions_in(error), None)
        if interruption is None or interruption is error:
            raise
        raise interruption from None


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise TerminationSignal(signal=number)


@contextmanager
def _resend_swallowed() -> Iterator[None]:
    """Have an interruption sent again where Python only prints it.

    One strikes nowhere but in the main thread; in another this does nothing.
    """
    if current_thread() is not main_thread():
        yield
        return
    before, again = sys.unraisablehook, list[Timer]()

    def send_again(unraisable: "sys.UnraisableHookArgs") -> None:
        error, handled = unraisable.exc_value, sys.exc_info()[1]
        known = list(interruptions_in(handled)) if handled else []  # what is being ended for
        new = [each for each in interruptions_in(error) if each not in known] if error else []
        if new:
            number = getattr(new[0], "signal", signal.SIGINT)
            again.append(Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)))
            again[-1].start()
        else:
            before(unraisable)

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in again:
            timer.cancel()
            timer.join()


@contextmanager
def shield_cluster_start() -> Iterator[None]:
    """Let Control-C, and a command's SIGTERM, strike only after the block.

    A cluster that is half started cannot be closed. The workers, whose processes are started
    by threads that inherit what is blocked here, never take to themselves what is typed for the
    command: it ends them in its own time. SIGTERM, with which Dask ends them, is not blocked.
    """
    resource_tracker.ensure_running()  # as it starts, multiprocessing lets the signal through
    with delay_interruptions():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def delay_interruptions() -> Iterator[None]:
    """Take note of what comes in the block, to whichever thread, and let it strike after.

    That is Control-C, and SIGTERM where Prefect does not handle it, as it does in a flow.
    """
    came = list[int]()

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    try:
        with _handled_by(note):
            yield
    finally:
        for number in came[:1]:
            signal.raise_signal(number)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Handle both signals so in the block, if in the main thread: no other can.

    A signal that is ignored, as Control-C is by what a script runs in the background, and one
    that somebody else handles, are left alone.
    """
    ours = (signal.SIG_DFL, signal.default_int_handler, _terminate)
    before = {}
    try:
        if current_thread() is main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) in ours:
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
