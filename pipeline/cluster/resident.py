"""Shards that stay on the workers of a long-lived cluster between sessions.

The session that loads the shards publishes their futures on the scheduler. A later session finds
them by name. A name stands for one store with one content, one split and one plan of assignments.
Before shards are used again, Dask is asked whether each is where the plan wants it.

All published shards together fill at most a given fraction of each worker's memory. To make room,
the placement whose last use is longest ago is withdrawn. Sessions that use it keep its shards until
they end.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future

from pipeline.cluster.placement import (
    PlacedShard,
    ShardAssignment,
    Worker,
    place_shards,
    workers_of,
)
from pipeline.cluster.shards import StreamedShard
from storage.dataset import Dataset
from storage.schema import PIXELS, Split

_PREFIX = "hinge-resident-"


@dataclass(frozen=True)
class _Published:
    """One published placement."""

    name: str
    futures: list[Future[Any]]
    """The resident shards, in the order of the plan."""
    size: Mapping[str, int]
    """Bytes by the address of the worker."""
    used: float
    """The time of the last use."""

    @classmethod
    def find(cls, client: Client, name: str) -> "_Published | None":
        """Return the placement with this name, or None."""
        content = client.get_dataset(name, default=None)
        return None if content is None else cls(name, **content)

    def publish(self, client: Client) -> None:
        """Publish the placement, or replace the one of the same name."""
        # Dask finds the futures within the plain types only
        content = {"futures": self.futures, "size": dict(self.size), "used": self.used}
        client.publish_dataset({self.name: content}, override=True)


def share_shards(
    client: Client,
    dataset: Dataset,
    split: Split,
    assignments: Sequence[ShardAssignment],
    *,
    fraction: float,
) -> list[PlacedShard]:
    """Return the shards of an earlier session where they still are, or load and publish them.

    Published shards fill at most `fraction` of each worker's memory. Shards that do not fit are
    placed for this session only.

    Raises the errors of `pipeline.cluster.placement.place_shards`.
    """
    resident = [each for each in assignments if each.resident]
    if not resident:
        return place_shards(client, dataset, split, assignments)
    name = _name(dataset, split, assignments)
    earlier = _Published.find(client, name)
    if earlier and (size := _size_in_place(client, resident, earlier.futures)):
        _Published(name, earlier.futures, size, time.time()).publish(client)
        return _as_placed(dataset, split, assignments, earlier.futures)
    del earlier  # else this client would keep its shards in memory
    fits = _make_room(client, name, resident, fraction)
    placed = place_shards(client, dataset, split, assignments)
    futures = [shard for _, shard in placed if isinstance(shard, Future)]
    if fits and (size := _size_in_place(client, resident, futures)):
        _Published(name, futures, size, time.time()).publish(client)
    return placed


def _name(dataset: Dataset, split: Split, assignments: Sequence[ShardAssignment]) -> str:
    key = repr((dataset.url, dataset.fingerprint, split, tuple(assignments)))
    return _PREFIX + hashlib.sha256(key.encode()).hexdigest()[:32]


def _as_placed(
    dataset: Dataset,
    split: Split,
    assignments: Sequence[ShardAssignment],
    futures: Iterable[Future[Any]],
) -> list[PlacedShard]:
    in_order = iter(futures)
    return [
        (
            each,
            next(in_order)
            if each.resident
            else StreamedShard(dataset, split, each.start, each.stop),
        )
        for each in assignments
    ]


def _size_in_place(
    client: Client, resident: Sequence[ShardAssignment], futures: Sequence[Future[Any]]
) -> dict[str, int] | None:
    """Return the shards' bytes by worker, or None if a shard is not where the plan wants it."""
    holders = client.who_has(futures)
    size = Counter[str]()
    for assignment, future in zip(resident, futures, strict=True):
        addresses = holders.get(future.key, ())
        if not addresses or (assignment.worker and assignment.worker not in addresses):
            return None
        for address in addresses:
            size[address] += _bytes(assignment)
    return dict(size)


def _make_room(
    client: Client, name: str, resident: Sequence[ShardAssignment], fraction: float
) -> bool:
    """Withdraw placements until the new one fits beside the others, and return whether it fits.

    A placement of the same name, or on a worker that has left, is withdrawn in any case.
    """
    workers = workers_of(client)
    needed = {worker.address: _needed(worker, resident) for worker in workers}
    others = sorted(_others(client), key=lambda each: each.used)
    for other in others.copy():
        stale = other.name == name or not other.size.keys() <= needed.keys()
        if stale or not _fits(workers, needed, others, fraction):
            client.unpublish_dataset(other.name)
            others.remove(other)
    return _fits(workers, needed, others, fraction)


def _others(client: Client) -> list[_Published]:
    names = [str(name) for name in client.list_datasets() if str(name).startswith(_PREFIX)]
    found = [_Published.find(client, name) for name in names]
    return [each for each in found if each]


def _needed(worker: Worker, resident: Iterable[ShardAssignment]) -> int:
    """Return how many bytes the worker may get: a shard without a worker may go to any."""
    return sum(_bytes(each) for each in resident if each.worker in {None, worker.address})


def _bytes(assignment: ShardAssignment) -> int:
    return (assignment.stop - assignment.start) * (PIXELS + 1)


def _fits(
    workers: Iterable[Worker],
    needed: Mapping[str, int],
    others: Iterable[_Published],
    fraction: float,
) -> bool:
    held = Counter[str]()
    for other in others:
        held.update(other.size)
    return fraction > 0 and all(
        worker.memory == 0
        or needed[worker.address] + held[worker.address] <= fraction * worker.memory
        for worker in workers
    )
