"""Going over a split's shards in Dask tasks, one a shard: for once, not for every step.

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

from pipeline.cluster import task_group
from pipeline.objective import I, OverShards, S
from pipeline.placement import Placed
from pipeline.shards import Shard

BLOCKS_AHEAD = 3
"""Blocks that the cluster is given at a time, so that no worker waits for the driver."""

C = TypeVar("C")
B = TypeVar("B")


def in_tasks(client: Client, placed: Sequence[Placed]) -> OverShards:
    """Go over the placed shards, each where its bytes are.

    The dashboard shows the tasks by the function's name: `hinge-partial`.
    """

    def over(function: Callable[[Shard, I], S], inputs: I, /) -> list[S]:
        group = task_group(_shown(function))
        # a task's result, not scattered data: that would be lost with the worker that has it
        sent = client.submit(Sent, inputs, key=(task_group("hinge-inputs"), 0))
        futures = [
            client.submit(_call, function, shard, sent, key=(group, number))
            for number, (_, shard) in enumerate(placed)
        ]
        sums: list[S] = client.gather(futures)
        return sums

    return over


def blocks_in_tasks(
    client: Client,
    placed: Sequence[Placed],
    prepare: Callable[[C, B], I],
    common: C,
    function: Callable[[Shard, I], S],
    blocks: Iterable[B],
) -> Iterator[S]:
    """Yield the sum of `function` over all shards for each block, in order, as they are there.

    What it takes of a block is prepared in a task as well, `prepare(common, block)`. When a worker
    dies, Dask takes what it had anew on another.
    """
    groups = task_group(_shown(prepare)), task_group(_shown(function))
    sent = client.submit(Sent, common, key=(task_group("hinge-inputs"), 0))

    def submit(number: int, block: B) -> list[Any]:
        inputs = client.submit(_prepare, prepare, sent, Sent(block), key=(groups[0], number))
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


def _shown(function: Callable[..., Any]) -> str:
    """Return what the dashboard calls a function's tasks."""
    return f"hinge-{function.__name__.replace('_', '-')}"


@dataclass(frozen=True)
class Sent(Generic[I]):
    """Keeps Dask from looking for tasks within the inputs."""

    inputs: I


def _prepare(prepare: Callable[[C, B], I], common: Sent[C], block: Sent[B]) -> Sent[I]:
    return Sent(prepare(common.inputs, block.inputs))


def _call(function: Callable[[Shard, I], S], shard: Shard, sent: Sent[I]) -> S:
    return function(shard, sent.inputs)
