"""One actor a worker goes over the worker's shards: the quick way of a synchronous step.

A step of training is shorter than the scheduling of a task. So each worker holds an actor
with the bytes of its shards; a step calls them all at once with the weights and gets one
sum back from each. The weights live with the caller, so a lost worker costs the time to
place its shards anew, and the step is taken again, to the same bits.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import reduce
from types import TracebackType
from typing import Any, Self

from distributed import KilledWorker, get_worker

from pipeline.cluster.connect import task_group
from pipeline.cluster.map_shards import I, S
from pipeline.cluster.placement import PlacedDataset, workers_of
from pipeline.cluster.shards import Shard
from pipeline.inputs.errors import PipelineError
from storage.schema import Split

MAX_REBUILDS = 5
"""How often a single step may lose a worker before the run gives up."""

REPLACEMENT_SECONDS = 5.0
"""How long to wait for a lost worker's successor before going on without it."""

_PATIENCE_SECONDS = 1.0
_log = logging.getLogger(__name__)


class ShardActor:
    """Goes over one worker's shards, in as many threads as the worker has."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._pool = ThreadPoolExecutor(max(1, get_worker().state.nthreads))

    def call(self, function: Callable[[Shard, I], S], inputs: I) -> S:
        """Return the sum of `function(shard, inputs)` over the shards."""
        in_turn = map if len(self._shards) == 1 else self._pool.map
        sums = in_turn(lambda shard: function(shard, inputs), self._shards)
        return reduce(lambda a, b: a.combine(b), sums)


class Actors:
    """The actors of all workers, as a `MapShards`; a context manager."""

    def __init__(self, placed_dataset: PlacedDataset, split: Split = "train") -> None:
        self._placed_dataset = placed_dataset
        self._client = placed_dataset.client
        self._split = split
        self._actors: dict[str, Any] = {}
        self._futures: list[Any] = []  # or the scheduler would let go of the actors
        self._build()

    def __call__(self, function: Callable[[Shard, I], S], inputs: I, /) -> list[S]:
        """Return each actor's sum.

        Raises PipelineError if workers are lost again and again.
        """
        for _ in range(MAX_REBUILDS):
            sums = self._call(function, inputs)
            if sums is not None:
                return sums
            _log.warning("a worker was lost; its shards are read anew and the step taken again")
            self._try_to_rebuild()
        raise PipelineError(
            f"workers were lost {MAX_REBUILDS} times in one step; look at their logs, and give "
            "them more memory or the run fewer of them"
        )

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

        Every call of an actor is in such a cycle, and so is the future that it has for itself.
        """
        for future in self._futures:
            future.release()
        for actor in self._actors.values():
            if actor._future is not None:
                actor._future.release()
        self._actors.clear()
        self._futures.clear()

    def _call(self, function: Callable[[Shard, I], S], inputs: I) -> list[S] | None:
        """Call all actors at once; None if a worker is lost."""
        if not self._actors:
            return None
        try:
            calls = [
                (address, actor.call(function, inputs)) for address, actor in self._actors.items()
            ]
            return [self._result(address, call) for address, call in calls]
        except _WorkerLostError:
            return None
        except (OSError, RuntimeError):  # what Dask says of an actor it cannot reach
            if self._lost(_PATIENCE_SECONDS):  # the scheduler may notice a little after us
                return None
            raise

    def _result(self, address: str, call: Any) -> Any:
        """Wait for one actor, but not for ever for a worker that is gone."""
        while True:
            try:
                return call.result(timeout=_PATIENCE_SECONDS)
            except TimeoutError:
                if call.done():  # just now, or with a TimeoutError of its own, which is raised
                    return call.result()
                if address in self._lost():
                    raise _WorkerLostError from None

    def _lost(self, patience: float = 0.0) -> set[str]:
        """Return the workers of actors that the scheduler knows no more, within some seconds."""
        deadline = time.monotonic() + patience
        while True:
            lost = self._actors.keys() - {worker.address for worker in workers_of(self._client)}
            if lost or time.monotonic() >= deadline:
                return lost
            time.sleep(0.05)

    def _try_to_rebuild(self) -> None:
        """Build the actors anew; another worker that is lost meanwhile leaves none."""
        try:
            self._rebuild(len(self._actors))
        except (OSError, RuntimeError, CancelledError, KilledWorker) as error:
            _log.warning("a worker was lost again: %s", error)
            self._release()

    def _rebuild(self, wanted: int) -> None:
        self._release()
        self._placed_dataset.forget(self._split)
        deadline = time.monotonic() + REPLACEMENT_SECONDS
        while len(workers_of(self._client)) < wanted and time.monotonic() < deadline:
            time.sleep(0.1)
        self._client.wait_for_workers(1, timeout=10 * REPLACEMENT_SECONDS)
        self._build()

    def _build(self) -> None:
        """Make an actor of each worker's shards."""
        shards: dict[str | None, list[Any]] = defaultdict(list)
        for assignment, shard in self._placed_dataset.shards(self._split):
            shards[assignment.worker].append(shard)
        group = task_group("hinge-actor")
        futures = {
            str(address): self._client.submit(
                ShardActor,
                own,
                actor=True,
                workers=[address],
                allow_other_workers=True,  # a lost one would else break the scheduler
                key=(group, address),
            )
            for address, own in shards.items()
        }
        self._actors = {address: future.result() for address, future in futures.items()}
        self._futures = list(futures.values())


class _WorkerLostError(Exception):
    """A worker went away in the middle of a call."""
