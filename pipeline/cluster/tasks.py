"""Map over a split's shards in Dask tasks, one per shard: for one-off passes, not for every step.

Work that comes in blocks (of trials, of coordinates) goes over them once a block, and the cluster
is given a few blocks ahead.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from typing import Any, Generic, TypeVar

from distributed import Client

from pipeline.cluster.connect import task_group
from pipeline.cluster.map_shards import I, MapShards, S, dashboard_name
from pipeline.cluster.placement import PlacedShard
from pipeline.cluster.shards import Shard

BLOCKS_AHEAD = 3
"""Blocks that the cluster is given at a time, so that no worker waits for the driver."""

C = TypeVar("C")
B = TypeVar("B")


def map_in_tasks(client: Client, placed: Sequence[PlacedShard]) -> MapShards:
    """Go over the placed shards, each where its bytes are.

    The dashboard shows the tasks under the function's name there (`shown_as`).
    """

    def map_shards(function: Callable[[Shard, I], S], inputs: I, /) -> list[S]:
        group = task_group(dashboard_name(function))
        # a task's result, not scattered data: that would be lost with the worker that has it
        sent = client.submit(Sealed, inputs, key=(task_group("hinge-inputs"), 0))
        futures = [
            client.submit(_call, function, shard, sent, key=(group, number))
            for number, (_, shard) in enumerate(placed)
        ]
        sums: list[S] = client.gather(futures)
        return sums

    return map_shards


def sum_blocks_in_tasks(
    client: Client,
    placed: Sequence[PlacedShard],
    prepare: Callable[[C, B], I],
    common: C,
    function: Callable[[Shard, I], S],
    blocks: Iterable[B],
) -> Iterator[S]:
    """Yield the sum of `function` over all shards for each block, in order, as they are there.

    What it takes of a block is prepared in a task as well, `prepare(common, block)`. When a worker
    dies, Dask takes what it had anew on another.
    """
    groups = task_group(dashboard_name(prepare)), task_group(dashboard_name(function))
    sent = client.submit(Sealed, common, key=(task_group("hinge-inputs"), 0))

    def submit(number: int, block: B) -> list[Any]:
        inputs = client.submit(_prepare, prepare, sent, Sealed(block), key=(groups[0], number))
        return [
            client.submit(_call, function, shard, inputs, key=(groups[1], number, i))
            for i, (_, shard) in enumerate(placed)
        ]

    submitted = (submit(number, block) for number, block in enumerate(blocks))
    ahead = deque(islice(submitted, BLOCKS_AHEAD))
    while ahead:
        sums: list[S] = client.gather(ahead.popleft())
        ahead.extend(islice(submitted, 1))
        yield reduce(lambda a, b: a.combine(b), sums)


@dataclass(frozen=True)
class Sealed(Generic[I]):
    """Keeps Dask from looking for tasks within the inputs."""

    inputs: I


def _prepare(prepare: Callable[[C, B], I], common: Sealed[C], block: Sealed[B]) -> Sealed[I]:
    return Sealed(prepare(common.inputs, block.inputs))


def _call(function: Callable[[Shard, I], S], shard: Shard, sent: Sealed[I]) -> S:
    return function(shard, sent.inputs)
