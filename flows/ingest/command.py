"""The command `hinge ingest`, which writes CIFAR-10 to a Zarr store."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.exit_status import EXIT_DONE
from flows.command_line.options import cluster_options, output_options, store_option, take_cluster

if TYPE_CHECKING:
    from flows.ingest.results import IngestRecord


@click.command()
@click.argument("source")
@store_option
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Ingest only the first N images of each split.",
)
@click.option(
    "--shard-rows",
    type=click.IntRange(min=1),
    metavar="N",
    default=5000,
    show_default=True,
    help="Images per shard; each task writes one shard.",
)
@cluster_options
@output_options
def ingest(source: str, store: str, runs: Path, as_json: bool, **options: Any) -> int:
    """Ingest CIFAR-10 into a Zarr store.

    SOURCE is a directory or .tar.gz file that contains the binary or python version of CIFAR-10;
    `download`, to download CIFAR-10 from its official page; or `synthetic` (50,000 training images)
    or `synthetic:N` (N training images), for generated images of the same shape.
    """
    from flows.command_line.plan_runner import show_record
    from flows.ingest.flow import check_ingest, ingest_flow
    from flows.runs.directory import check_runs
    from flows.services.console import Console
    from flows.services.interruption import run_interruptibly
    from flows.services.session import command_session

    cluster = take_cluster(options)
    check_runs(runs)
    check_ingest(source, store, options["limit"])
    console, limit = Console(json=as_json), options["limit"] or 0

    def run() -> "IngestRecord":
        with command_session(console, **cluster):
            return ingest_flow(source, store, limit, options["shard_rows"], str(runs))

    record = run_interruptibly(run)
    show_record(console, record, _summary(record, runs / record.run))
    return EXIT_DONE


def _summary(record: "IngestRecord", directory: Path) -> dict[str, str]:
    assert record.data
    shards = record.result.shards
    return {
        "store": f"{record.data.url}: {record.status}",
        "shards": f"{shards.written} written, {shards.reused} reused",
        "took": f"{record.seconds:.1f} s",
        "record": str(directory / "result.json"),
    }
