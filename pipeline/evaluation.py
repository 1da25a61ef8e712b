"""Going over a split's shards in Dask tasks, one a shard: for once, not for every step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from distributed import Client

from pipeline.cluster import task_group
from pipeline.objective import I, OverShards, S
from pipeline.placement import Placed
from pipeline.shards import Shard


def in_tasks(client: Client, placed: Sequence[Placed]) -> OverShards:
    """Go over the placed shards, each where its bytes are.

    The dashboard shows the tasks by the function's name: `hinge-partial`.
    """

    def over(function: Callable[[Shard, I], S], inputs: I, /) -> list[S]:
        group = task_group(f"hinge-{function.__name__.replace('_', '-')}")
        # a task's result, not scattered data: that would be lost with the worker that has it
        sent = client.submit(_Sent, inputs, key=(task_group("hinge-inputs"), 0))
        futures = [
            client.submit(_call, function, shard, sent, key=(group, number))
            for number, (_, shard) in enumerate(placed)
        ]
        sums: list[S] = client.gather(futures)
        return sums

    return over


@dataclass(frozen=True)
class _Sent(Generic[I]):
    """Keeps Dask from looking for tasks within the inputs."""

    inputs: I


def _call(function: Callable[[Shard, I], S], shard: Shard, sent: _Sent[I]) -> S:
    return function(shard, sent.inputs)
