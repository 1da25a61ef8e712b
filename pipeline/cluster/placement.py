"""Placement of a split's rows on the workers: first the plan, then the loading."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distributed import Client, Future

from pipeline.cluster.connect import task_group
from pipeline.cluster.dashboard.worker_metrics import step_meter
from pipeline.cluster.shards import ResidentShard, StreamedShard, load_shard
from pipeline.cluster.waiting import answer_of, error_of
from storage.dataset import Dataset
from storage.schema import PIXELS, Split

RESIDENT_FRACTION = 0.5
"""The fraction of a worker's memory that resident shards may fill. Dask spills from 0.6 on."""

MAX_SHARD_ROWS = 50_000
"""The most rows that one task loads, or loads again after a failure: 154 MB."""


class Worker(NamedTuple):
    """The properties of a worker that the plan depends on."""

    address: str
    threads: int
    memory: int
    """The memory limit in bytes; 0 for no limit."""


@dataclass(frozen=True)
class ShardAssignment:
    """The rows of one shard, and the worker that gets them."""

    worker: str | None
    """The worker's address. None leaves the choice to Dask."""
    start: int
    stop: int
    resident: bool
    """Whether the shard stays in the worker's memory. If not, it is read when it is needed."""


def assign_shards(rows: int, workers: Sequence[Worker]) -> tuple[ShardAssignment, ...]:
    """Assign an equal range of the rows to every thread of every worker, in the workers' order.

    The ranges do not follow the store's shards, so that no thread waits for another. Rows are
    resident until they fill `RESIDENT_FRACTION` of the worker's memory. The remaining rows are
    streamed. Both kinds are cut into shards of at most `MAX_SHARD_ROWS` rows.

    Examples:
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
    """Return how many rows may be resident on a worker."""
    if not worker.memory:
        return sys.maxsize
    return int(RESIDENT_FRACTION * worker.memory) // (PIXELS + 1)


def workers_of(client: Client) -> list[Worker]:
    """Return the cluster's workers, in a fixed order.

    Raises Interrupted on a request to stop, and PipelineError if the scheduler does not answer
    within `waiting.GIVE_UP_SECONDS`.
    """
    # `client.scheduler_info` may return the last result of the client's own timer, which contains
    # no workers
    scheduler: Any = client.scheduler
    identity: Mapping[str, Any] = answer_of(client, scheduler.identity, n_workers=-1)
    info: Mapping[str, Any] = identity["workers"]
    return [
        Worker(address, worker["nthreads"], worker["memory_limit"] or 0)
        for address, worker in sorted(info.items())
    ]


def fits_one_worker(rows: int, workers: Sequence[Worker]) -> bool:
    """Return whether all rows fit in the memory of at least one worker."""
    return any(rows <= _resident_rows(worker) for worker in workers)


PlacedShard = tuple[ShardAssignment, Future[Any] | StreamedShard]
"""A shard's assignment, and either the future of its bytes or a handle that reads them."""


def place_shards(
    client: Client, dataset: Dataset, split: Split, assignments: Sequence[ShardAssignment]
) -> list[PlacedShard]:
    """Load the resident shards into their workers' memory, and wait until they are loaded.

    If a worker dies, Dask reads its shards from the store again, on another worker.

    Raises any error that occurs while reading, such as `storage.errors.DataError`.
    """
    return _wait_until_loaded(_submit_loads(client, dataset, split, assignments))


def _submit_loads(
    client: Client, dataset: Dataset, split: Split, assignments: Sequence[ShardAssignment]
) -> list[PlacedShard]:
    group = task_group("hinge-load")
    placed: list[PlacedShard] = []
    for number, assignment in enumerate(assignments):
        if assignment.resident:
            future = client.submit(
                _load_and_measure,
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
    return placed


def _wait_until_loaded(placed: list[PlacedShard]) -> list[PlacedShard]:
    futures = [shard for _, shard in placed if isinstance(shard, Future)]
    for future in futures:
        if error := error_of(future):
            raise error
    return placed


PlaceShards = Callable[[Client, Dataset, Split, Sequence[ShardAssignment]], list[PlacedShard]]
"""A function like `place_shards`."""


def _load_and_measure(dataset: Dataset, split: Split, start: int, stop: int) -> ResidentShard:
    """Load a shard, in a task, on a worker that shows its metrics from then on."""
    step_meter()
    return load_shard(dataset, split, start, stop)


class PlacedDataset:
    """The placed shards of a data set. A split is placed at its first use, and then kept."""

    def __init__(self, client: Client, dataset: Dataset, place: PlaceShards | None = None) -> None:
        """Place shards with `place`, or with `place_shards` if it is None."""
        self.client = client
        self.dataset = dataset
        self._place = place
        self._placed: dict[Split, list[PlacedShard]] = {}
        self._loading: dict[Split, list[PlacedShard]] = {}

    def load_ahead(self, split: Split) -> None:
        """Start to load the split, and return at once; `shards` waits until it is loaded.

        Do nothing if shards are placed in another way than with `place_shards`.
        """
        if self._place is None and split not in self._placed | self._loading:
            self._loading[split] = _submit_loads(
                self.client, self.dataset, split, self._assignments(split)
            )

    def shards(self, split: Split) -> list[PlacedShard]:
        """Return the split's shards, spread over all workers.

        Raises the errors of `place_shards`.
        """
        if split not in self._placed:
            loading = self._loading.pop(split, None)
            self._placed[split] = (
                _wait_until_loaded(loading)
                if loading
                else self.place(split, self._assignments(split))
            )
        return self._placed[split]

    def _assignments(self, split: Split) -> tuple[ShardAssignment, ...]:
        return assign_shards(self.dataset.rows(split), workers_of(self.client))

    def place(self, split: Split, assignments: Sequence[ShardAssignment]) -> list[PlacedShard]:
        """Place shards of the split by a plan of the caller, who keeps them.

        Raises the errors of `place_shards`.
        """
        return (self._place or place_shards)(self.client, self.dataset, split, assignments)

    def forget(self, split: Split) -> None:
        """Forget the placement of the split. Its next use places it on the workers of that time."""
        self._placed.pop(split, None)
        self._loading.pop(split, None)

    def close(self) -> None:
        """Release all shards."""
        self._placed.clear()
        self._loading.clear()
