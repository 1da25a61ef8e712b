"""Which worker gets which rows, and which of them fit its memory: planned, then done."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distributed import Client, Future

from pipeline.cluster.connect import task_group
from pipeline.cluster.shards import StreamedShard, load_shard
from storage.dataset import Dataset
from storage.schema import PIXELS, Split

RESIDENT_FRACTION = 0.5
"""The part of a worker's memory that resident shards may fill; Dask spills from 0.6 on."""

MAX_SHARD_ROWS = 50_000
"""Rows that one task loads, or loads again, at the most: 154 MB."""


class Worker(NamedTuple):
    """What the plan knows of a worker."""

    address: str
    threads: int
    memory: int
    """Bytes it may use; 0 for no limit."""


@dataclass(frozen=True)
class ShardAssignment:
    """Where one shard goes."""

    worker: str | None
    """The worker's address; None leaves the choice to Dask."""
    start: int
    stop: int
    resident: bool
    """Whether it is held in the worker's memory, or read from the store as it is needed."""


def assign_shards(rows: int, workers: Sequence[Worker]) -> tuple[ShardAssignment, ...]:
    """Give every thread of every worker an equal run of the rows, in the workers' order.

    A run does not follow the store's shards, so that no thread waits for another. It is
    resident as far as `RESIDENT_FRACTION` of the worker's memory goes, and the rest of it
    streamed; both come in shards of at most `MAX_SHARD_ROWS`.

    >>> [(each.worker, each.start, each.stop) for each in assign_shards(11, [Worker("a", 1, 0),
    ...                                                                  Worker("b", 2, 0)])]
    [('a', 0, 3), ('b', 3, 7), ('b', 7, 11)]
    """
    threads = sum(worker.threads for worker in workers)
    assignments: list[ShardAssignment] = []
    thread = 0
    for worker in workers:
        room = _resident_rows(worker)
        for _ in range(worker.threads):
            start, stop = rows * thread // threads, rows * (thread + 1) // threads
            held = start + min(stop - start, room)
            assignments += _assign(worker, start, held, resident=True)
            assignments += _assign(worker, held, stop, resident=False)
            room -= held - start
            thread += 1
    return tuple(assignments)


def _assign(worker: Worker, start: int, stop: int, *, resident: bool) -> list[ShardAssignment]:
    cuts = range(start, stop, MAX_SHARD_ROWS)
    return [
        ShardAssignment(worker.address, cut, min(cut + MAX_SHARD_ROWS, stop), resident)
        for cut in cuts
    ]


def _resident_rows(worker: Worker) -> int:
    """Return how many rows a worker may hold."""
    if not worker.memory:
        return sys.maxsize
    return int(RESIDENT_FRACTION * worker.memory) // (PIXELS + 1)


def workers_of(client: Client) -> list[Worker]:
    """Return the cluster's workers, in a fixed order."""
    # not by `client.scheduler_info`, which hands back what the client's clock has fetched
    # meanwhile, without a worker
    scheduler: Any = client.scheduler
    identity: Mapping[str, Any] = client.sync(scheduler.identity, n_workers=-1)
    info: Mapping[str, Any] = identity["workers"]
    return [
        Worker(address, worker["nthreads"], worker["memory_limit"] or 0)
        for address, worker in sorted(info.items())
    ]


def fits_one_worker(rows: int, workers: Sequence[Worker]) -> bool:
    """Whether some worker can hold all rows."""
    return any(rows <= _resident_rows(worker) for worker in workers)


PlacedShard = tuple[ShardAssignment, Future[Any] | StreamedShard]
"""A shard's assignment, and the future of its bytes or the handle to read them by."""


def place_shards(
    client: Client, dataset: Dataset, split: Split, assignments: Sequence[ShardAssignment]
) -> list[PlacedShard]:
    """Load the resident shards into their workers' memory, and wait until they are there.

    When a worker dies, Dask reads its shards again from the store, on another worker.

    Raises what reading raised, `storage.errors.DataError` among it.
    """
    group = task_group("hinge-load")
    placed: list[PlacedShard] = []
    for number, assignment in enumerate(assignments):
        if assignment.resident:
            future = client.submit(
                load_shard,
                dataset,
                split,
                assignment.start,
                assignment.stop,
                key=(group, number),
                workers=assignment.worker and [assignment.worker],
                allow_other_workers=assignment.worker is not None,
            )
            placed.append((assignment, future))
        else:
            placed.append(
                (assignment, StreamedShard(dataset, split, assignment.start, assignment.stop))
            )
    futures = [shard for _, shard in placed if isinstance(shard, Future)]
    for future in futures:  # not Dask's `wait`, which is for a process with one client
        if error := future.exception():
            raise error
    return placed


class PlacedDataset:
    """Where a data set's shards are: each split is placed when it is first asked for, and kept."""

    def __init__(self, client: Client, dataset: Dataset) -> None:
        self.client = client
        self.dataset = dataset
        self._placed: dict[Split, list[PlacedShard]] = {}

    def shards(self, split: Split) -> list[PlacedShard]:
        """Return the split's shards, spread over all workers. Raises what `place_shards` raises."""
        if split not in self._placed:
            assignments = assign_shards(self.dataset.rows(split), workers_of(self.client))
            self._placed[split] = place_shards(self.client, self.dataset, split, assignments)
        return self._placed[split]

    def forget(self, split: Split) -> None:
        """Have the split placed anew, over the workers that there are then."""
        self._placed.pop(split, None)

    def close(self) -> None:
        """Let go of all shards."""
        self._placed.clear()
