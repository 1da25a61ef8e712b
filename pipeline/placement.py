"""Which worker gets which rows, and which of them fit its memory: planned, then done."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distributed import Client, Future

from pipeline.cluster import task_group
from pipeline.shards import StoredShard, load_shard
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
class Home:
    """Where one shard goes."""

    worker: str | None
    """The worker's address; None leaves the choice to Dask."""
    start: int
    stop: int
    resident: bool
    """Whether it is held in the worker's memory, or read from the store as it is needed."""


def plan_homes(rows: int, workers: Sequence[Worker]) -> tuple[Home, ...]:
    """Give every thread of every worker an equal run of the rows, in the workers' order.

    A run does not follow the store's shards, so that no thread waits for another. It is
    resident as far as `RESIDENT_FRACTION` of the worker's memory goes, and the rest of it
    streamed; both come in shards of at most `MAX_SHARD_ROWS`.

    >>> [(home.worker, home.start, home.stop) for home in plan_homes(11, [Worker("a", 1, 0),
    ...                                                                  Worker("b", 2, 0)])]
    [('a', 0, 3), ('b', 3, 7), ('b', 7, 11)]
    """
    threads = sum(worker.threads for worker in workers)
    homes: list[Home] = []
    thread = 0
    for worker in workers:
        room = _resident_rows(worker)
        for _ in range(worker.threads):
            start, stop = rows * thread // threads, rows * (thread + 1) // threads
            held = start + min(stop - start, room)
            homes += _homes(worker, start, held, resident=True)
            homes += _homes(worker, held, stop, resident=False)
            room -= held - start
            thread += 1
    return tuple(homes)


def _homes(worker: Worker, start: int, stop: int, *, resident: bool) -> list[Home]:
    cuts = range(start, stop, MAX_SHARD_ROWS)
    return [Home(worker.address, cut, min(cut + MAX_SHARD_ROWS, stop), resident) for cut in cuts]


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


Placed = tuple[Home, Future[Any] | StoredShard]
"""A shard's home, and the future of its bytes or the handle to read them by."""


def place(client: Client, dataset: Dataset, split: Split, homes: Sequence[Home]) -> list[Placed]:
    """Load the resident shards into their workers' memory, and wait until they are there.

    When a worker dies, Dask reads its shards again from the store, on another worker.

    Raises what reading raised, `storage.errors.DataError` among it.
    """
    group = task_group("hinge-load")
    placed: list[Placed] = []
    for number, home in enumerate(homes):
        if home.resident:
            future = client.submit(
                load_shard,
                dataset,
                split,
                home.start,
                home.stop,
                key=(group, number),
                workers=home.worker and [home.worker],
                allow_other_workers=home.worker is not None,
            )
            placed.append((home, future))
        else:
            placed.append((home, StoredShard(dataset, split, home.start, home.stop)))
    futures = [shard for _, shard in placed if isinstance(shard, Future)]
    for future in futures:  # not Dask's `wait`, which is for a process with one client
        if error := future.exception():
            raise error
    return placed


class Placements:
    """Where a data set's shards are: each split is placed when it is first asked for, and kept."""

    def __init__(self, client: Client, dataset: Dataset) -> None:
        self.client = client
        self.dataset = dataset
        self._placed: dict[Split, list[Placed]] = {}

    def shards(self, split: Split) -> list[Placed]:
        """Return the split's shards, spread over all workers; see `place` for what it raises."""
        if split not in self._placed:
            homes = plan_homes(self.dataset.rows(split), workers_of(self.client))
            self._placed[split] = place(self.client, self.dataset, split, homes)
        return self._placed[split]

    def forget(self, split: Split) -> None:
        """Have the split placed anew, over the workers that there are then."""
        self._placed.pop(split, None)

    def close(self) -> None:
        """Let go of all shards."""
        self._placed.clear()
