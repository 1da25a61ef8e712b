"""Tasks that show the steps of the actors on the Dask dashboard.

A step over the actors is too short for a task, and Dask does not count the call of an actor as
work: the task stream would be empty, and adaptive scaling would remove the workers as idle. So each
worker also runs tasks of about one second, stretches, one per thread. The actor puts the work of a
step on a queue, and the stretches of its worker compute it in their threads.

The steps never depend on the stretches. If a worker runs none, because it is busy with other tasks
or because the next stretch is late, the actor computes in its own threads.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from threading import Condition
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from distributed import Client, Future

from pipeline.cluster.connect import task_group
from pipeline.cluster.wanted import UnwantedTaskError, check_wanted

STRETCH_SECONDS = 1.0
"""The least duration of a stretch. A step that is under way then is finished first."""

_SECONDS_PER_WORKER = 0.1  # the driver needs about 2 ms to submit a worker's next stretches
_POLL_SECONDS = 0.1
_TASKS_AHEAD = 2  # the stretch that runs, and the next one
_PRIORITY = -1  # other tasks go first

T = TypeVar("T")

_queues: "WeakValueDictionary[str, WorkQueue]" = WeakValueDictionary()
"""The queues of all actors in this process, by name. Several workers may share a process."""


class _Item(NamedTuple, Generic[T]):
    """A call, and the future of its result."""

    call: Callable[[], T]
    result: "ThreadFuture[T]"

    def run(self) -> None:
        try:
            self.result.set_result(self.call())
        except UnwantedTaskError:
            raise
        except BaseException as error:  # the caller of `run` raises it
            self.result.set_exception(error)


class WorkQueue:
    """The calls that wait for a thread: that of a stretch, or one of the queue's own."""

    def __init__(self, name: str, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self._changed = Condition()
        self._items: deque[_Item[Any]] = deque()
        self._serving = 0
        self._closed = False
        _queues[name] = self

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Return the results of the calls. Use the threads of stretches as far as there are any.

        Raises the first error of the calls.
        """
        items = [_Item(call, ThreadFuture[T]()) for call in calls]
        with self._changed:
            self._items.extend(items)
            missing = min(len(items), self._threads) - self._serving
            self._changed.notify(len(items))
        if missing > 0:
            for _ in range(missing - 1):
                self._pool.submit(self._drain)
            self._drain()
        return [item.result.result() for item in items]

    def serve(self, seconds: float, wanted: Callable[[], bool]) -> None:
        """Compute calls in this thread until `seconds` have passed, or it is no longer `wanted`."""
        until = time.monotonic() + seconds
        with self._changed:
            self._serving += 1
        while item := self._next(until, wanted):
            try:
                item.run()
            except UnwantedTaskError:  # the stretch was cancelled, but perhaps not the step
                with self._changed:
                    self._items.appendleft(item)

    def close(self) -> None:
        """End all stretches that serve the queue."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self, until: float, wanted: Callable[[], bool]) -> _Item[Any] | None:
        """Wait for an item. Return None at the end of the stretch, and count it no more.

        A stretch that is counted when `run` adds items takes them even if its time is over. A
        cancelled stretch leaves them to the queue's own threads.
        """
        with self._changed:
            while still_wanted := wanted():
                if self._items:
                    return self._items.popleft()
                left = until - time.monotonic()
                if self._closed or left <= 0:
                    break
                self._changed.wait(min(left, _POLL_SECONDS))
            self._serving -= 1
            if not still_wanted and self._items:
                self._pool.submit(self._drain)
            return None

    def _drain(self) -> None:
        while True:
            with self._changed:
                if not self._items:
                    return
                item = self._items.popleft()
            item.run()


def run_stretch(queue_name: str, seconds: float, _thread: int) -> None:
    """Serve an actor's queue, in a task. Return at once if the actor is not in this process."""
    queue = _queues.get(queue_name)
    if queue is not None:
        queue.serve(seconds, _task_is_wanted)


def _task_is_wanted() -> bool:
    try:
        check_wanted()
    except UnwantedTaskError:
        return False
    return True


class ServedQueue(NamedTuple):
    """The queue of a worker's actor."""

    name: str
    threads: int
    """The number of the worker's threads. Dask calls a worker with fewer tasks idle."""


class Stretches:
    """The stretches of all workers, submitted by the driver."""

    def __init__(self, client: Client, shown_as: str) -> None:
        self._client = client
        self._shown_as = shown_as
        self._queues: Mapping[str, ServedQueue] = {}
        self._submitted: dict[str, deque[list[Future[None]]]] = {}
        self._group = ""
        self._number = 0
        self._next_time = 0.0

    def start(self, queues: Mapping[str, ServedQueue]) -> None:
        """Run stretches for these queues, given by their workers' addresses, from now on."""
        self.stop()
        self._queues = queues
        self._submitted = {address: deque() for address in queues}
        self._group = task_group(self._shown_as)
        self._next_time = 0.0

    def stop(self) -> None:
        """Release all stretches. Those that run end within a fraction of a second."""
        for rounds in self._submitted.values():
            for future in (future for each in rounds for future in each):
                future.release()
        self._submitted = {}

    def submit_due(self) -> bool:
        """Submit each worker's next stretch while another one runs, so that the worker stays busy.

        Call it before every step. It returns whether a stretch has ended or has been due.
        """
        now = time.monotonic()
        if now < self._next_time:
            return False
        due = False
        for address, rounds in self._submitted.items():
            while len(rounds) < _TASKS_AHEAD or all(future.done() for future in rounds[0]):
                if len(rounds) == _TASKS_AHEAD:
                    rounds.popleft()
                rounds.append(self._submit(address, self._queues[address]))
                due = True
        # a stretch ends at once if its actor is elsewhere, and must not be submitted at every step
        self._next_time = now + self._seconds / 10
        return due

    @property
    def _seconds(self) -> float:
        return max(STRETCH_SECONDS, _SECONDS_PER_WORKER * len(self._submitted))

    def _submit(self, address: str, queue: ServedQueue) -> list[Future[None]]:
        self._number += 1
        threads = range(queue.threads)
        futures: list[Future[None]] = self._client.map(
            run_stretch,
            [queue.name] * queue.threads,
            [self._seconds] * queue.threads,
            threads,
            key=[(self._group, self._number, address, thread) for thread in threads],
            workers=[address],
            priority=_PRIORITY,
            pure=False,
        )
        return futures
