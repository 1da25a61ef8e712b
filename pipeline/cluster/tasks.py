"""Passes over a split's shards in Dask tasks, one per shard: for one-off passes, not for steps.

Work that is split into blocks (of trials or of coordinates) makes one pass per block. A few blocks
are submitted in advance.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from typing import Any, Generic, TypeVar

from distributed import Client

from pipeline.cluster.connect import task_group
from pipeline.cluster.dashboard.worker_metrics import step_meter
from pipeline.cluster.map_shards import I, MapShards, S, dashboard_name
from pipeline.cluster.placement import PlacedShard
from pipeline.cluster.shards import Shard, images_used
from pipeline.cluster.waiting import gather_results

BLOCKS_AHEAD = 3
"""How many blocks are on the cluster at a time, so that no worker waits for the driver."""

C = TypeVar("C")
B = TypeVar("B")


def map_in_tasks(client: Client, placed: Sequence[PlacedShard]) -> MapShards:
    """Return a `MapShards` that runs one task per placed shard, where the shard's bytes are.

    The dashboard shows the tasks under the function's dashboard name (`shown_as`).
    """

    def map_shards(function: Callable[[Shard, I], S], inputs: I, /) -> list[S]:
        group = task_group(dashboard_name(function))
        # the inputs are a task's result, because scattered data would be lost with its worker
        sent = client.submit(Sealed, inputs, key=(task_group("hinge-inputs"), 0))
        futures = [
            client.submit(_call, function, shard, sent, key=(group, number))
            for number, (_, shard) in enumerate(placed)
        ]
        try:
            return gather_results(client, futures)
        finally:
            release(*futures, sent)

    return map_shards


def sum_blocks_in_tasks(
    client: Client,
    placed: Sequence[PlacedShard],
    prepare: Callable[[C, B], I],
    common: C,
    function: Callable[[Shard, I], S],
    blocks: Iterable[B],
) -> Iterator[S]:
    """Yield the sum of `function` over all shards for each block, in order, once it is ready.

    The inputs of `function` for a block are computed in a task, too: `prepare(common, block)`. If
    a worker dies, Dask computes its results again on another worker.
    """
    groups = task_group(dashboard_name(prepare)), task_group(dashboard_name(function))
    sent = client.submit(Sealed, common, key=(task_group("hinge-inputs"), 0))

    def submit(number: int, block: B) -> tuple[list[Any], Any]:
        inputs = client.submit(_prepare, prepare, sent, Sealed(block), key=(groups[0], number))
        calls = [
            client.submit(_call, function, shard, inputs, key=(groups[1], number, i))
            for i, (_, shard) in enumerate(placed)
        ]
        return calls, inputs

    submitted = (submit(number, block) for number, block in enumerate(blocks))
    ahead = deque(islice(submitted, BLOCKS_AHEAD))
    try:
        while ahead:
            calls, inputs = ahead[0]
            sums: list[S] = gather_results(client, calls)
            release(*calls, inputs)
            ahead.popleft()
            ahead.extend(islice(submitted, 1))
            yield reduce(lambda a, b: a.combine(b), sums)
    finally:
        for calls, inputs in ahead:
            release(*calls, inputs)
        release(sent)


def release(*futures: Any) -> None:
    """Release futures. Dask then forgets their tasks."""
    for future in futures:
        future.release()


@dataclass(frozen=True)
class Sealed(Generic[I]):
    """A wrapper that keeps Dask from looking for tasks within the inputs."""

    inputs: I


def _prepare(prepare: Callable[[C, B], I], common: Sealed[C], block: Sealed[B]) -> Sealed[I]:
    return Sealed(prepare(common.inputs, block.inputs))


def _call(function: Callable[[Shard, I], S], shard: Shard, sent: Sealed[I]) -> S:
    step_meter().count_images(images_used(shard, sent.inputs))
    return function(shard, sent.inputs)
