"""The progress of a piece of work, shown in several places at once.

    with watch_progress("train", 200, [Sink(log, every=5, after=5)]) as advance:
        for step in range(200):
            ...
            advance(step + 1, loss=8.13)

`advance` only stores its values, so that it can be called at every step. A thread passes them on
to the sinks, such as a terminal, a log or a server. A slow sink therefore does not delay the work.
A sink that fails is not used again, and the work continues.
"""

import contextvars
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import NamedTuple, Protocol

_RATE_SECONDS = 5.0
"""The rate is that of the last seconds, so that it shows the present speed."""

_SECONDS_TO_STOP = 1.0
"""Time limit for the sinks if the work has failed or was interrupted."""

_log = logging.getLogger(__name__)


class Reading(NamedTuple):
    """The progress at one moment."""

    what: str
    """The name of the work, such as `train`."""
    done: int
    total: int | None
    """The amount to do; None if it is not known."""
    words: str
    """A short text to show beside the amount, such as `loss 8.1342`."""
    loss: float | None
    rate: float | None
    """Amount per second; None if nothing has been done yet."""

    def in_words(self) -> str:
        """Return the progress as one line.

        Examples:
            >>> Reading("train", 1200, 3000, "loss 2.9", 2.9, 410.4).in_words()
            'train: 1,200 of 3,000, loss 2.9, 410.4 per second'
        """
        amount = f"{self.done:,}" if self.total is None else f"{self.done:,} of {self.total:,}"
        rate = None if self.rate is None else f"{self.rate:,.1f} per second"
        return ", ".join(filter(None, (f"{self.what}: {amount}", self.words, rate)))


@dataclass(frozen=True)
class Sink:
    """A place that shows progress."""

    show: Callable[[Reading], object]
    every: float
    """The seconds between two readings."""
    after: float = 0.0
    """Show nothing if the work takes less than these seconds."""


class Advance(Protocol):
    """A function that is called with the amount done so far."""

    def __call__(self, done: int, words: str = "", loss: float | None = None) -> None:
        """Store the amount, a short text (default: the loss) and the newest loss."""
        ...


@contextmanager
def watch_progress(
    what: str, total: int | None, sinks: Sequence[Sink], done: int = 0
) -> Iterator[Advance]:
    """Show the progress of the block in `sinks`; `done` is the amount done before it."""
    watched = _Watched(what, total, done)
    ended, failed = Event(), Event()
    context = contextvars.copy_context()  # the settings of the caller's Prefect flow
    arguments = (_show, watched, sinks, ended, failed)
    thread = Thread(target=context.run, args=arguments, name="hinge-progress", daemon=True)
    thread.start()
    try:
        yield watched.advance
    except BaseException:
        failed.set()
        raise
    finally:
        ended.set()
        thread.join(_SECONDS_TO_STOP if failed.is_set() else None)


class _Watched:
    """The newest values of a piece of work, and the times at which they were read."""

    def __init__(self, what: str, total: int | None, done: int) -> None:
        self._what, self._total = what, total
        self._newest: tuple[int, str, float | None] = done, "", None
        self._readings = deque([(time.monotonic(), done)])

    def advance(self, done: int, words: str = "", loss: float | None = None) -> None:
        self._newest = done, words or ("" if loss is None else f"loss {loss:.4f}"), loss

    def read(self) -> Reading:
        done, words, loss = self._newest
        now, readings = time.monotonic(), self._readings
        while len(readings) > 1 and readings[1][0] < now - _RATE_SECONDS:
            readings.popleft()
        first, before = readings[0]
        rate = (done - before) / (now - first) if done > before else None
        readings.append((now, done))
        return Reading(self._what, done, self._total, words, loss, rate)


def _show(watched: _Watched, sinks: Sequence[Sink], ended: Event, failed: Event) -> None:
    """Pass readings on until the work has ended, and then the last one."""
    started = time.monotonic()
    due = {sink: started + max(sink.every, sink.after) for sink in sinks}
    while due:
        last = ended.wait(max(0.0, min(due.values()) - time.monotonic()))
        if failed.is_set():
            return
        now, reading = time.monotonic(), watched.read()
        for sink, when in list(due.items()):
            if now >= when or (last and now - started >= sink.after):
                try:
                    sink.show(reading)
                    due[sink] = now + sink.every
                except Exception:
                    _log.debug("progress is no longer shown in one place", exc_info=True)
                    del due[sink]
        if last:
            return
