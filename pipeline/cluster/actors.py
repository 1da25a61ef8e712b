"""Actors on the workers, for the synchronous steps of training.

A step of training takes less time than the scheduling of a task. So each worker has one actor,
which keeps the bytes of the worker's shards. A step sends the weights to all actors at once and
gets one partial sum from each. Tasks show the steps on the Dask dashboard
(`pipeline.cluster.stretches`).

The weights stay with the caller. If a worker is lost, the shards are placed again and the step is
repeated, with a bit-identical result. The same happens, between two steps, if a worker joins.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial, reduce
from types import TracebackType
from typing import Any, Self
from weakref import finalize

from distributed import KilledWorker, get_worker

from pipeline.cluster.connect import task_group
from pipeline.cluster.dashboard.worker_metrics import step_meter
from pipeline.cluster.map_shards import I, S
from pipeline.cluster.placement import PlacedDataset, assign_shards, workers_of
from pipeline.cluster.shards import Shard, images_used
from pipeline.cluster.stretches import ServedQueue, Stretches, WorkQueue
from pipeline.cluster.waiting import in_slices, wait_for, wait_for_worker
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.stopping import pause
from storage.schema import Split

MAX_REBUILDS = 5
"""How many times a single step may lose workers before the run fails."""

REPLACEMENT_SECONDS = 5.0
"""Seconds to wait for the replacement of a lost worker before continuing without it."""

_PATIENCE_SECONDS = 1.0
_log = logging.getLogger(__name__)


class ShardActor:
    """One worker's shards, processed with as many threads as the worker has."""

    def __init__(self, shards: Sequence[Shard], queue_name: str) -> None:
        self._shards = shards
        self._meter = step_meter()
        self._queue = WorkQueue(queue_name, max(1, get_worker().state.nthreads))
        finalize(self, self._queue.close)

    def call(self, function: Callable[[Shard, I], S], inputs: I, loss: float | None) -> S:
        """Return the sum of `function(shard, inputs)` over the shards.

        `loss` is the run's newest loss, for the worker's metrics.
        """
        self._meter.count(sum(images_used(shard, inputs) for shard in self._shards), loss)
        sums = self._queue.run([partial(function, shard, inputs) for shard in self._shards])
        return reduce(lambda a, b: a.combine(b), sums)


class Actors:
    """The actors of all workers, as a `MapShards`. Use it as a context manager.

    The dashboard shows the steps as `shown_as`.
    """

    def __init__(
        self,
        placed_dataset: PlacedDataset,
        split: Split = "train",
        *,
        shown_as: str = "hinge-steps",
    ) -> None:
        self._placed_dataset = placed_dataset
        self._client = placed_dataset.client
        self._split = split
        self._actors: dict[str, Any] = {}
        self._futures: list[Any] = []  # they keep the actors alive on the scheduler
        self._stretches = Stretches(self._client, shown_as)
        self._loss: float | None = None
        self._build()

    def __call__(self, function: Callable[[Shard, I], S], inputs: I, /) -> list[S]:
        """Return one partial sum per actor.

        Raises PipelineError if one step loses workers `MAX_REBUILDS` times.
        """
        if self._stretches.submit_due() and self._workers_without_shards():
            _log.info("workers have joined; distributing the shards over all workers")
            self._try_to_rebuild()
        for _ in range(MAX_REBUILDS):
            sums = self._call(function, inputs)
            if sums is not None:
                return sums
            _log.warning("a worker was lost; reading its shards again and repeating the step")
            self._try_to_rebuild()
        raise PipelineError(
            f"workers were lost {MAX_REBUILDS} times in one step; check the workers' logs, and "
            "give the workers more memory or use fewer workers"
        )

    def show_loss(self, loss: float) -> None:
        """Show the run's newest loss among the workers' metrics, from the next step on."""
        self._loss = loss

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Release the actors."""
        self._release()

    def _release(self) -> None:
        """Release the actors now: reference cycles would keep them until a garbage collection.

        Every call of an actor is part of such a cycle, and so is the actor's own future.
        """
        self._stretches.stop()
        for future in self._futures:
            future.release()
        for actor in self._actors.values():
            if actor._future is not None:
                actor._future.release()
        self._actors.clear()
        self._futures.clear()

    def _call(self, function: Callable[[Shard, I], S], inputs: I) -> list[S] | None:
        """Call all actors at once. Return None if a worker is lost."""
        if not self._actors:
            return None
        try:
            calls = [
                (address, actor.call(function, inputs, self._loss))
                for address, actor in self._actors.items()
            ]
            return [self._result(address, call) for address, call in calls]
        except _WorkerLostError:
            return None
        except (OSError, RuntimeError):  # Dask cannot reach an actor
            if self._lost(_PATIENCE_SECONDS):  # the scheduler may notice the loss a little later
                return None
            raise

    def _result(self, address: str, call: Any) -> Any:
        """Wait for one actor's result. Raise _WorkerLostError if its worker is lost."""
        while True:
            try:
                return in_slices(call.result, call.done, _PATIENCE_SECONDS)
            except TimeoutError:
                if call.done():  # the call ended just now, or raised a TimeoutError itself
                    return call.result()
                if address in self._lost():
                    raise _WorkerLostError from None

    def _lost(self, patience: float = 0.0) -> set[str]:
        """Return the addresses of lost workers. Wait up to `patience` seconds for the first."""
        deadline = time.monotonic() + patience
        while True:
            lost = self._actors.keys() - {worker.address for worker in workers_of(self._client)}
            if lost or time.monotonic() >= deadline:
                return lost
            pause(0.05)

    def _workers_without_shards(self) -> set[str | None]:
        """Return the addresses of workers that have joined since the shards were placed."""
        rows = self._placed_dataset.dataset.rows(self._split)
        wanted = {each.worker for each in assign_shards(rows, workers_of(self._client))}
        return wanted - {each.worker for each, _ in self._placed_dataset.shards(self._split)}

    def _try_to_rebuild(self) -> None:
        """Build the actors again. If another worker is lost meanwhile, leave no actors."""
        try:
            self._rebuild(len(self._actors))
        except (OSError, RuntimeError, CancelledError, KilledWorker) as error:
            _log.warning("another worker was lost: %s", error)
            self._release()

    def _rebuild(self, wanted: int) -> None:
        self._release()
        self._placed_dataset.forget(self._split)
        deadline = time.monotonic() + REPLACEMENT_SECONDS
        while len(workers_of(self._client)) < wanted and time.monotonic() < deadline:
            pause(0.1)
        wait_for_worker(self._client, 10 * REPLACEMENT_SECONDS)
        self._build()

    def _build(self) -> None:
        """Create one actor per worker, with the worker's shards."""
        shards: dict[str | None, list[Any]] = defaultdict(list)
        for assignment, shard in self._placed_dataset.shards(self._split):
            shards[assignment.worker].append(shard)
        group = task_group("hinge-actor")
        threads = {worker.address: worker.threads for worker in workers_of(self._client)}
        queues = {
            str(address): ServedQueue(f"{group} {address}", threads.get(str(address), 1))
            for address in shards
        }
        futures = {
            str(address): self._client.submit(
                ShardActor,
                own,
                queues[str(address)].name,
                actor=True,
                workers=[address],
                allow_other_workers=True,  # otherwise a lost worker breaks the scheduler
                key=(group, address),
            )
            for address, own in shards.items()
        }
        self._actors = {address: wait_for(future) for address, future in futures.items()}
        self._futures = list(futures.values())
        self._stretches.start(queues)


class _WorkerLostError(Exception):
    """A worker was lost during a call."""
