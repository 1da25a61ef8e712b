"""The flow `ingest`: CIFAR-10 from any of its forms into a Zarr store."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pooch
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.guarded_flow import flow
from flows.record import Run, check_runs, circumstances, now
from flows.session import Session, flow_session
from pipeline.ingest import ingest
from storage.claims import refuse_if_claimed
from storage.dataset import Dataset
from storage.ingest import IngestPlan, ShardSummary, plan_ingest
from storage.location import Location
from storage.schema import SPLITS, Layout
from storage.sources import Source, open_source


@flow(name="ingest", flow_run_name="{source} to {store}", validate_parameters=False)
def ingest_flow(
    source: str,
    store: str,
    limit: int | None = None,
    shard_rows: int = 5000,
    runs: str = "runs",
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Ingest `source` (see `storage.sources.open_source`) into the store at `store`.

    Returns the run's record. Raises DataError, and leaves no store, for bad input.
    """
    check_runs(Path(runs))  # before the work, not after it
    started, clock = now(), time.perf_counter()
    with flow_session(workers=workers, scheduler=scheduler) as session, _workdir(source) as workdir:
        opened = open_task(source, limit, workdir, session)
        plan = plan_ingest(opened, store, Layout(shard_rows=shard_rows))
        dataset, written, status = write_task(plan, session)
    run = Run.create(Path(runs), "ingest")
    result = {
        "run": run.id,
        "command": "ingest",
        "status": status,
        "parameters": {"source": source, "store": store, "limit": limit, "shard_rows": shard_rows},
        "data": dataset.describe(),
        "shards": written,
        "timings": {"seconds": time.perf_counter() - clock},
        "started": started,
        "finished": now(),
        **circumstances(),
    }
    run.write_record(result)
    return result


@task(name="open source", cache_policy=NO_CACHE)
def open_task(source: str, limit: int | None, workdir: Path, session: Session) -> Source:
    """Open the source; download or unpack it where that is what it takes."""
    with session.console.progress("download", None) as advance:
        return open_source(
            source,
            limit=limit,
            workdir=workdir,
            progress=lambda done, _total: advance(done, "bytes"),
        )


@task(name="write shards", cache_policy=NO_CACHE)
def write_task(plan: IngestPlan, session: Session) -> tuple[Dataset, dict[str, int], str]:
    """Write the shards on the cluster and publish the store.

    Returns the store, how many shards were written and reused, and how the ingest ended.
    """
    counts = {"written": 0, "reused": 0}
    with session.console.progress("ingest", len(plan.shards)) as advance:

        def report(summary: ShardSummary) -> None:
            counts["reused" if summary.reused else "written"] += 1
            advance(sum(counts.values()), "shards")

        dataset = ingest(session.client, plan, report, session.console.note)
    if any(counts.values()):
        return dataset, counts, "done"
    there = sum(len(dataset.shards(split)) for split in SPLITS)
    return dataset, {"written": 0, "reused": there}, "complete already"


@contextmanager
def _workdir(source: str) -> Iterator[Path]:
    """Yield where a download is kept for the next time, or an archive unpacked for this one."""
    if source == "download":
        cache = Path(pooch.os_cache("hinge"))
        cache.mkdir(parents=True, exist_ok=True)
        yield cache
    else:
        with tempfile.TemporaryDirectory(prefix="hinge-") as directory:
            yield Path(directory)


def check_ingest(source: str, store: str, limit: int | None = None) -> None:
    """Refuse at once, before anything is started, what is no source or no place for a store.

    A store that another process of this machine is writing is refused too.

    Archives and downloads are looked at when they are opened, as that takes its time.

    Raises DataError.
    """
    refuse_if_claimed(Location.parse(store))
    if source != "download" and not Path(source).is_file():
        plan_ingest(open_source(source, limit=limit, workdir=Path()), store)
