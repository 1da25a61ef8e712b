"""Which worker gets which shards, and which of them fit its memory: planned, then done."""

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


def plan_homes(shards: Sequence[range], workers: Sequence[Worker]) -> tuple[Home, ...]:
    """Give each worker a run of neighbouring shards, by its share of all threads.

    Shards are resident as long as they fit `RESIDENT_FRACTION` of the worker's memory.

    >>> two = [Worker("a", 1, 0), Worker("b", 1, 0)]
    >>> [home.worker for home in plan_homes([range(0, 5), range(5, 10), range(10, 12)], two)]
    ['a', 'b', 'b']
    """
    rows = max(shard.stop for shard in shards)
    threads = sum(worker.threads for worker in workers)
    held = dict.fromkeys(workers, 0)
    homes = []
    for shard in shards:
        middle = (shard.start + shard.stop) / 2 / rows * threads
        worker = _at_thread(middle, workers)
        size = len(shard) * (PIXELS + 1)
        resident = not worker.memory or held[worker] + size <= RESIDENT_FRACTION * worker.memory
        held[worker] += size * resident
        homes.append(Home(worker.address, shard.start, shard.stop, resident))
    return tuple(homes)


def _at_thread(place: float, workers: Sequence[Worker]) -> Worker:
    """Return the worker that has thread number `place`, all threads in a row."""
    for worker in workers:
        place -= worker.threads
        if place < 0:
            return worker
    return workers[-1]


def workers_of(client: Client) -> list[Worker]:
    """Return the cluster's workers, in a fixed order."""
    info: Mapping[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return [
        Worker(address, worker["nthreads"], worker["memory_limit"] or 0)
        for address, worker in sorted(info.items())
    ]


def fits_one_worker(rows: int, workers: Sequence[Worker]) -> bool:
    """Whether some worker can hold all rows."""
    size = rows * (PIXELS + 1)
    return any(not w.memory or size <= RESIDENT_FRACTION * w.memory for w in workers)


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
