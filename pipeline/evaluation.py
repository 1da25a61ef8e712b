"""The objective over a whole split in Dask tasks, one a shard: for once, not for every step."""

from collections.abc import Sequence
from itertools import count

from distributed import Client

from kernels.hinge import Scorer
from kernels.partial import Partial
from pipeline.objective import Partials
from pipeline.placement import Placed
from pipeline.shards import Rows, Shard

_evaluations = count()


def in_tasks(client: Client, placed: Sequence[Placed]) -> Partials:
    """Sum over the placed shards, each where its bytes are."""

    def partials(scorer: Scorer, rows: Rows | None) -> list[Partial]:
        group = f"hinge-partial-{next(_evaluations)}-{client.id[-12:]}"
        there = client.scatter(scorer, hash=False)
        futures = [
            client.submit(shard_partial, shard, there, rows, key=(group, number))
            for number, (_, shard) in enumerate(placed)
        ]
        sums: list[Partial] = client.gather(futures)
        return sums

    return partials


def shard_partial(shard: Shard, scorer: Scorer, rows: Rows | None) -> Partial:
    """Sum over one shard: a task."""
    return shard.partial(scorer, rows)
