"""Ingest on the cluster: one Dask task a shard, published when all are written."""

from collections.abc import Callable

from distributed import Client, as_completed

from pipeline.cluster import task_group
from storage.dataset import Dataset
from storage.errors import DataError
from storage.ingest import IngestPlan, ShardSummary, abandon, finish, prepare, write_shard


def ingest(
    client: Client, plan: IngestPlan, report: Callable[[ShardSummary], None] = lambda _: None
) -> Dataset:
    """Carry out `plan`, calling `report` as shards are written, and open the store.

    Raises DataError, and leaves nothing, if the source proves to be damaged. Whatever else
    ends it leaves what is written for the next ingest of the same source to go on from.
    """
    prepare(plan)
    group = task_group("hinge-ingest")
    futures = [
        client.submit(write_shard, plan, shard, key=(group, number))
        for number, shard in enumerate(plan.shards)
    ]
    summaries = []
    try:
        for _, summary in as_completed(futures, loop=client.loop, with_results=True):
            summaries.append(summary)
            report(summary)
    except DataError:
        for future in futures:  # none may write any more where all is removed
            future.exception()
        abandon(plan)
        raise
    return finish(plan, summaries)
