"""Ingest on the cluster, with one Dask task per shard.

The store is published once all shards are checked.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from distributed import Client, Future

from pipeline.cluster.connect import task_group
from pipeline.cluster.waiting import completed, error_of, wait_for
from pipeline.inputs.stopping import pause
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
    """Write and publish the store of `plan`, and open it.

    `report` is called after each shard is written. `tell` is called with a line of text if the
    ingest has to wait to see whether another ingest is still writing the store.

    Raises DataError at once if another ingest is writing the store. Raises DataError, and removes
    everything that was written, if the source is damaged. After any other error the written shards
    stay, and the next ingest of the same source resumes from them.
    """
    if plan.complete:
        return finish(plan, [], [])
    with claim_store(plan.location, tell=tell, wait=pause) as claim:
        plan = prepare(plan)
        writing = _submit(client, "hinge-ingest", write_shard, plan)
        summaries = []
        try:
            for summary in _results(client, writing):
                summaries.append(summary)
                report(summary)
        except DataError:
            for future in writing:  # all writers must have ended before everything is removed
                error_of(future)
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
    return map(wait_for, completed(client, futures))
