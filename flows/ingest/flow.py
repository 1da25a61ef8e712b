"""The flow `ingest`: CIFAR-10 from any of its forms into a Zarr store.

An ingest makes the data that runs are on. So it is recorded as a run, but it has no plan on a
store, and it resumes from what the store holds (`storage.ingest`).
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pooch
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.ingest.results import IngestParameters, IngestRecord, IngestResult, ShardCounts
from flows.runs.directory import RunDirectory, check_runs
from flows.runs.environment import package_versions, this_machine, timestamp
from flows.runs.flow_parameters import Count, Name
from flows.runs.record import write_record
from flows.services.guarded_flow import flow
from flows.services.session import Session, flow_session
from pipeline.ingest.write_shards import ingest
from storage.claims import refuse_if_claimed
from storage.dataset import Dataset
from storage.ingest import IngestPlan, ShardSummary, plan_ingest
from storage.location import Location
from storage.schema import SPLITS, Layout
from storage.sources import Source, open_source


@flow(
    name="ingest",
    description="CIFAR-10, or synthetic images, into a Zarr store.",
    flow_run_name="{source} to {store}",
)
def ingest_flow(
    source: str,
    store: str,
    limit: Count = 0,
    shard_rows: int = 5000,
    runs: str = "runs",
    workers: Count = 0,
    scheduler: Name = "",
) -> IngestRecord:
    """Ingest a source into a store, or resume an interrupted ingest of the same source.

    Args:
        source: A directory or .tar.gz of CIFAR-10, `download`, or `synthetic:N`.
        store: The Zarr store to make, a path or a URL.
        limit: Only the first rows of each split; 0 for all.
        shard_rows: Images in a shard, the work of one task.
        runs: The directory that runs are kept in.
        workers: Worker processes on this machine; 0 for one per core.
        scheduler: The address of a Dask scheduler; empty to start workers on this machine.

    Returns:
        The run's record.

    Raises:
        DataError: The source cannot be used; no store is left then.
        PipelineError: Runs cannot be kept in `runs`.
    """
    check_runs(Path(runs))  # before the work, not after it
    started, clock = timestamp(), time.perf_counter()
    parameters = IngestParameters(
        source=source, store=store, limit=limit or None, shard_rows=shard_rows
    )
    with (
        flow_session(workers=workers or None, scheduler=scheduler or None) as session,
        _work_directory(source) as directory,
    ):
        opened = fetch_source(source, parameters.limit, directory, session)
        plan = plan_ingest(opened, store, Layout(shard_rows=shard_rows))
        written = write_shards(plan, session)
    run = RunDirectory.create(Path(runs), "ingest")
    record: IngestRecord = IngestRecord(
        run=run.id,
        command="ingest",
        status=written.status,
        data=written.dataset.summary(),
        started=started,
        finished=timestamp(),
        versions=package_versions(),
        machine=this_machine(),
        parameters=parameters,
        timings={"seconds": time.perf_counter() - clock},
        result=IngestResult(shards=written.shards),
    )
    write_record(run, record)
    return record


@task(name="open source", cache_policy=NO_CACHE)
def fetch_source(source: str, limit: int | None, directory: Path, session: Session) -> Source:
    """Open the source; download or unpack it into the directory if necessary."""
    with session.console.progress("download", None) as advance:
        return open_source(
            source,
            limit=limit,
            workdir=directory,
            progress=lambda done, _total: advance(done, "bytes"),
        )


class _WrittenStore(NamedTuple):
    """A finished store, and how an ingest finished it."""

    dataset: Dataset
    shards: ShardCounts
    status: str


@task(name="write shards", cache_policy=NO_CACHE)
def write_shards(plan: IngestPlan, session: Session) -> _WrittenStore:
    """Write the shards on the cluster and publish the store."""
    summaries: list[ShardSummary] = []
    with session.console.progress("ingest", len(plan.shards)) as advance:

        def report(summary: ShardSummary) -> None:
            summaries.append(summary)
            advance(len(summaries), "shards")

        dataset = ingest(session.client, plan, report, session.console.note)
    if not summaries:  # the store was complete, or another ingest completed it meanwhile
        present = sum(len(dataset.shards(split)) for split in SPLITS)
        return _WrittenStore(dataset, ShardCounts(written=0, reused=present), "complete already")
    reused = sum(summary.reused for summary in summaries)
    shards = ShardCounts(written=len(summaries) - reused, reused=reused)
    return _WrittenStore(dataset, shards, "done")


@contextmanager
def _work_directory(source: str) -> Iterator[Path]:
    """Yield a directory to download to, which is kept, or to unpack to, which is removed."""
    if source == "download":
        cache = Path(pooch.os_cache("hinge"))
        cache.mkdir(parents=True, exist_ok=True)
        yield cache
    else:
        with tempfile.TemporaryDirectory(prefix="hinge-") as directory:
            yield Path(directory)


def check_ingest(source: str, store: str, limit: int | None = None) -> None:
    """Check that there is such a source, and that a store of it can be made; start nothing.

    Archives and downloads are checked when they are opened, because that takes longer.

    Raises DataError for no source, for a store of other data, and for a store that another
    process of this machine is writing.
    """
    refuse_if_claimed(Location.parse(store))
    if source != "download" and not Path(source).is_file():
        plan_ingest(open_source(source, limit=limit, workdir=Path()), store)
