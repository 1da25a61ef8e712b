"""The flow `ingest`, which writes CIFAR-10 or synthetic images to a Zarr store.

An ingest creates the data that other runs read. It is recorded as a run but has no run plan. An
interrupted ingest resumes from the shards that are already in the store (see `storage.ingest`).
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import pooch
from pydantic import Field

from flows.ingest.results import IngestParameters, IngestRecord, IngestResult, ShardCounts
from flows.runs.directory import RunDirectory, check_runs
from flows.runs.environment import package_versions, this_machine, timestamp
from flows.runs.flow_parameters import Count, Name
from flows.runs.record import write_record
from flows.runs.report import RunReport, Subject, current_flow_run
from flows.services.guarded_flow import flow
from flows.services.interruption import run_interruptibly
from flows.services.session import Session, flow_session
from flows.services.tasks import task
from pipeline.ingest.write_shards import ingest
from pipeline.inputs.stopping import check_stop
from storage.claims import refuse_if_claimed
from storage.dataset import Dataset
from storage.ingest import IngestPlan, ShardSummary, plan_ingest
from storage.location import Location
from storage.schema import SPLITS, Layout
from storage.sources import Source, open_source


@flow(
    name="ingest",
    description="Write CIFAR-10 or synthetic images to a Zarr store.",
    flow_run_name="ingest {source} to {store}",
)
def ingest_flow(
    source: str,
    store: str,
    limit: Count = 0,
    shard_rows: Annotated[int, Field(ge=1)] = 5000,
    runs: str = "runs",
    workers: Count = 0,
    scheduler: Name = "",
) -> IngestRecord:
    """Ingest a source into a store, or resume an interrupted ingest of the same source.

    Args:
        source: `download`, a directory or .tar.gz of CIFAR-10, or `synthetic:N`.
        store: The path or URL of the Zarr store to create.
        limit: Ingest only the first `limit` images of each split; 0 for all.
        shard_rows: The number of images per shard, at least 1; each task writes one shard.
        runs: The directory that contains the runs.
        workers: The number of worker processes to start; 0 for those of the workbench, or else one
            with a thread per core.
        scheduler: The address of a Dask scheduler; empty for that of the workbench, or else for
            workers on this machine.

    Returns:
        The run's record.

    Raises:
        DataError: The source cannot be used. No store is left behind.
        PipelineError: Runs cannot be written to `runs`.
    """
    check_runs(Path(runs))  # fail before the work, not after it
    started, clock = timestamp(), time.perf_counter()
    parameters = IngestParameters(
        source=source, store=store, limit=limit or None, shard_rows=shard_rows
    )

    def work() -> IngestRecord:
        with (
            flow_session(workers=workers or None, scheduler=scheduler or None) as session,
            _work_directory(source) as directory,
        ):
            words = parameters.in_words()
            subject = Subject(words, "ingest", store, words, f"ingest {Path(store).stem}")
            report = RunReport(subject, session.client, session.console)
            opened = fetch_source(source, parameters.limit, directory, report)
            plan = plan_ingest(opened, store, Layout(shard_rows=shard_rows))
            written = write_shards(plan, session, report)
            run = RunDirectory.create(Path(runs), "ingest")
            record: IngestRecord = IngestRecord(
                run=run.id,
                command="ingest",
                status=written.status,
                data=written.dataset.summary(),
                flow_run=current_flow_run(),
                started=started,
                finished=timestamp(),
                versions=package_versions(),
                machine=this_machine(),
                parameters=parameters,
                timings={"seconds": time.perf_counter() - clock},
                result=IngestResult(shards=written.shards),
            )
            write_record(run, record)
            report.finished(record)
            report.ended(record.status)
            return record

    return run_interruptibly(work)


@task("open source")
def fetch_source(source: str, limit: int | None, directory: Path, report: RunReport) -> Source:
    """Open the source, after downloading or unpacking it into `directory` if necessary."""
    with report.progress("download", None) as advance:

        def show(done: int, _total: int | None) -> None:
            check_stop()
            advance(done, "bytes")

        return open_source(source, limit=limit, workdir=directory, progress=show)


class _WrittenStore(NamedTuple):
    """A finished store and what the ingest did to finish it."""

    dataset: Dataset
    shards: ShardCounts
    status: str


@task("write shards")
def write_shards(plan: IngestPlan, session: Session, report: RunReport) -> _WrittenStore:
    """Write the shards on the cluster, then publish the store."""
    summaries: list[ShardSummary] = []
    with report.progress("ingest", len(plan.shards)) as advance:

        def count(summary: ShardSummary) -> None:
            summaries.append(summary)
            advance(len(summaries), "shards")

        dataset = ingest(session.client, plan, count, report.note)
    if not summaries:  # the store was already complete, or another ingest has completed it
        present = sum(len(dataset.shards(split)) for split in SPLITS)
        return _WrittenStore(dataset, ShardCounts(written=0, reused=present), "complete already")
    reused = sum(summary.reused for summary in summaries)
    shards = ShardCounts(written=len(summaries) - reused, reused=reused)
    return _WrittenStore(dataset, shards, "done")


@contextmanager
def _work_directory(source: str) -> Iterator[Path]:
    """Yield the permanent cache directory for a download, else a temporary directory."""
    if source == "download":
        cache = Path(pooch.os_cache("hinge"))
        cache.mkdir(parents=True, exist_ok=True)
        yield cache
    else:
        with tempfile.TemporaryDirectory(prefix="hinge-") as directory:
            yield Path(directory)


def check_ingest(source: str, store: str, limit: int | None = None) -> None:
    """Check the source and the destination of an ingest without starting anything.

    Archives and downloads are not checked here, because that takes longer. They are checked when
    they are opened.

    Raises DataError if the source does not exist, if the store contains other data, or if another
    process on this machine is writing the store.
    """
    refuse_if_claimed(Location.parse(store))
    if source != "download" and not Path(source).is_file():
        plan_ingest(open_source(source, limit=limit, workdir=Path()), store)
