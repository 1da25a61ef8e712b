"""Ingest on the cluster: one Dask task per shard, published when all are written and checked."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from distributed import Client, Future, as_completed

from pipeline.cluster.connect import task_group
from storage.claims import Tell, claim_store
from storage.dataset import Dataset
from storage.errors import DataError
from storage.ingest import (
    IngestPlan,
    ShardSummary,
    ShardTask,
    abandon,
    finish,
    prepare,
    read_back,
    write_shard,
)

T = TypeVar("T")


def ingest(
    client: Client,
    plan: IngestPlan,
    report: Callable[[ShardSummary], None] = lambda _: None,
    tell: Tell = lambda _: None,
) -> Dataset:
    """Carry out `plan`, calling `report` as shards are written, and open the store.

    `tell` is told what is waited for, if a claim on the store has to be watched.

    Raises DataError at once if another ingest is writing the store. Raises it, and leaves
    nothing, if the source proves to be damaged. Whatever else ends it leaves what is written for
    the next ingest of the same source to resume from.
    """
    if plan.complete:
        return finish(plan, [], [])
    with claim_store(plan.location, tell=tell) as claim:
        plan = prepare(plan)
        writing = _submit(client, "hinge-ingest", write_shard, plan)
        summaries = []
        try:
            for summary in _results(client, writing):
                summaries.append(summary)
                report(summary)
        except DataError:
            for future in writing:  # none may write any more when all is removed
                future.exception()
            claim.check()
            abandon(plan)
            raise
        stored = list(_results(client, _submit(client, "hinge-read-back", read_back, plan)))
        claim.check()
        return finish(plan, summaries, stored)


def _submit(
    client: Client, name: str, work: Callable[[IngestPlan, ShardTask], T], plan: IngestPlan
) -> list[Future[T]]:
    """Submit `work` for every shard of the plan."""
    group = task_group(name)
    return [
        client.submit(work, plan, shard, key=(group, number))
        for number, shard in enumerate(plan.shards)
    ]


def _results(client: Client, futures: Iterable[Future[T]]) -> Iterator[T]:
    for _, result in as_completed(futures, loop=client.loop, with_results=True):
        yield result
