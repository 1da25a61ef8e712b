"""The objective over a whole split in Dask tasks, one a shard: for once, not for every step."""

from collections.abc import Sequence
from dataclasses import dataclass

from distributed import Client

from kernels.hinge import Scorer
from kernels.partial import Partial
from pipeline.cluster import task_group
from pipeline.objective import Partials
from pipeline.placement import Placed
from pipeline.shards import Rows, Shard


def in_tasks(client: Client, placed: Sequence[Placed]) -> Partials:
    """Sum over the placed shards, each where its bytes are."""

    def partials(scorer: Scorer, rows: Rows | None) -> list[Partial]:
        group = task_group("hinge-partial")
        # a task's result, not scattered data: that would be lost with the worker that has it
        inputs = client.submit(_Inputs, scorer, rows, key=(task_group("hinge-weights"), 0))
        futures = [
            client.submit(shard_partial, shard, inputs, key=(group, number))
            for number, (_, shard) in enumerate(placed)
        ]
        sums: list[Partial] = client.gather(futures)
        return sums

    return partials


@dataclass(frozen=True, eq=False)
class _Inputs:
    scorer: Scorer
    rows: Rows | None


def shard_partial(shard: Shard, inputs: _Inputs) -> Partial:
    """Sum over one shard: a task."""
    return shard.partial(inputs.scorer, inputs.rows)
