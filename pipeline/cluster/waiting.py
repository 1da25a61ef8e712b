"""Waiting for the cluster, in a way that a request to stop can end.

Dask's own waits return only when the result is there. The functions here raise `Interrupted` within
`SLICE_SECONDS` of a request to stop (`pipeline.inputs.stopping`). The tasks go on until their
futures are released, at the latest when the client closes; then long tasks stop themselves
(`pipeline.cluster.wanted`).

No wait is unbounded: if the cluster loses its last worker and none comes back, or if the scheduler
does not answer any more, a wait says so after `NOTE_SECONDS` and fails after `GIVE_UP_SECONDS`. A
worker that hangs is Dask's matter: it removes the worker after `distributed.scheduler.worker-ttl`
(5 minutes).
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from distributed import Client, Future, KilledWorker, as_completed

from pipeline.inputs.errors import PipelineError
from pipeline.inputs.stopping import SLICE_SECONDS, check_stop, pause

_POLL_SECONDS = 0.005
"""The wait between two looks at a future, or at Dask's `as_completed`."""

NOTE_SECONDS = 10.0
"""Seconds without a worker before a wait says that it waits for one."""

GIVE_UP_SECONDS = 300.0
"""Seconds without a worker before a wait fails. An adaptive cluster may need minutes for one."""

_LOOK_SECONDS = 1.0
"""Seconds between two looks at the cluster, and the time limit for one."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


class _WorkerWatch:
    """The looks of one wait at whether the cluster has workers."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._last_seen = time.monotonic()
        self._noted = False

    def look(self) -> None:
        """Look again, if it is time to.

        Raises PipelineError after `GIVE_UP_SECONDS` without a worker, and Interrupted on a request
        to stop.
        """
        check_stop()
        if time.monotonic() < self._next_look:
            return
        problem = self._problem()
        now = time.monotonic()
        self._next_look = now + _LOOK_SECONDS
        if problem is None:
            self._last_seen, self._noted = now, False
        elif now - self._last_seen >= GIVE_UP_SECONDS:
            raise PipelineError(
                f"waited {GIVE_UP_SECONDS:g} s for the cluster: {problem}, and resume the run"
            )
        elif now - self._last_seen >= NOTE_SECONDS and not self._noted:
            _log.warning("waiting: %s", problem)
            self._noted = True

    def _problem(self) -> str | None:
        """Return what is wrong with the cluster and what to do, or None."""
        scheduler: Any = self._client.scheduler
        try:
            threads = self._client.sync(self._client.nthreads, callback_timeout=_LOOK_SECONDS)
        except (OSError, TimeoutError):
            return f"the scheduler at {scheduler.address} does not answer; restart it"
        if threads:
            return None
        return (
            f"the scheduler at {scheduler.address} has no workers; start some with "
            f"`dask worker {scheduler.address}`"
        )


def gather_results(client: Client, futures: Sequence[Future[T]]) -> list[T]:
    """Wait for all futures, and return their results in order.

    Raises the first error of a task, Interrupted on a request to stop, and PipelineError after
    `GIVE_UP_SECONDS` without a worker or if a task lost its worker several times.
    """
    try:
        return _gather(client, futures)
    except KilledWorker as error:
        raise PipelineError(
            "a task lost its worker several times; check the workers' logs: whether hinge is "
            "installed there, and whether they had enough memory"
        ) from error


def wait_for(future: Future[T]) -> T:
    """Wait for one future, and return its result.

    Raises the task's error, KilledWorker if it lost its worker several times, Interrupted on a
    request to stop, and PipelineError after `GIVE_UP_SECONDS` without a worker.
    """
    [result] = _gather(future.client, [future])
    return result


def _gather(client: Client, futures: Sequence[Future[T]]) -> list[T]:
    results: list[T] = answer_of(client, client.gather, futures, asynchronous=True)
    return results


def answer_of(client: Client, ask: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Await `ask(*given, **named)` in the client's event loop, and return the result.

    Raises Interrupted on a request to stop, and PipelineError after `GIVE_UP_SECONDS` without a
    worker or without an answer of the scheduler.
    """

    async def answer() -> Any:
        return await ask(*given, **named)

    loop: Any = client.loop
    asking = asyncio.run_coroutine_threadsafe(answer(), loop.asyncio_loop)
    # not cancelled on a request to stop, because Dask would log errors
    return in_slices(asking.result, asking.done, look=_WorkerWatch(client).look)


def error_of(future: Future[Any]) -> BaseException | None:
    """Wait until a task has ended, without fetching its result; return its error if it failed.

    Raises Interrupted on a request to stop, and PipelineError after `GIVE_UP_SECONDS` without a
    worker.
    """
    # Waiting with a time limit would keep the future until the next garbage collection: Dask's
    # TimeoutError is part of a reference cycle with the frames that wait.
    watch = _WorkerWatch(future.client)
    while not future.done():
        watch.look()
        pause(_POLL_SECONDS)
    error: BaseException | None = future.exception()
    return error


def completed(client: Client, futures: Iterable[Future[T]]) -> Iterator[Future[T]]:
    """Yield the futures in the order in which their tasks end.

    Raises as `error_of` does.
    """
    waiting = as_completed(futures, loop=client.loop)
    while not waiting.is_empty():
        yield next_completed(client, waiting)


def next_completed(client: Client, waiting: as_completed) -> Future[Any]:
    """Wait for the next future of Dask's `as_completed`. Raises as `error_of` does."""
    watch = _WorkerWatch(client)
    while not waiting.has_ready():
        watch.look()
        pause(_POLL_SECONDS)
    return next(waiting)


def wait_for_worker(client: Client, seconds: float) -> None:
    """Wait until the cluster has a worker.

    Raises TimeoutError after `seconds`, and Interrupted on a request to stop.
    """
    in_slices(partial(client.wait_for_workers, 1), lambda: False, seconds)


def in_slices(
    wait: Callable[[float | None], T],
    done: Callable[[], bool],
    seconds: float = math.inf,
    look: Callable[[], None] = check_stop,
) -> T:
    """Return `wait(slice)`, called with short slices of time until it does not raise TimeoutError.

    `done` returns whether the result is there; a TimeoutError is then the work's own. `look` is
    called before every slice.

    Raises TimeoutError after `seconds`, and Interrupted on a request to stop.
    """
    deadline = time.monotonic() + seconds
    while True:
        look()
        try:
            return wait(SLICE_SECONDS)
        except TimeoutError:
            if done():  # it ended just now, or raised the error itself
                return wait(None)
            if time.monotonic() >= deadline:
                raise
