"""`hinge ingest`: CIFAR-10 into a Zarr store."""

from pathlib import Path
from typing import Any

import click

from flows.commands.options import check_cluster, cluster_options, output_options, store_option
from flows.errors import EXIT_DONE


@click.command()
@click.argument("source")
@store_option
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the first N images of each split.",
)
@click.option(
    "--shard-rows",
    type=click.IntRange(min=1),
    metavar="N",
    default=5000,
    show_default=True,
    help="Images in a shard, the work of one task.",
)
@cluster_options
@output_options
def ingest(source: str, store: str, runs: Path, as_json: bool, **options: Any) -> int:
    """Ingest CIFAR-10 into a Zarr store.

    SOURCE is a directory or .tar.gz of the binary or python version of CIFAR-10; `download`
    for the data set's own page; or `synthetic`, `synthetic:N` for N made images.
    """
    from flows.console import Console, described_data
    from flows.ingest import check_ingest, ingest_flow
    from flows.record import check_runs
    from flows.session import command_session

    check_runs(runs)
    check_ingest(source, store, options["limit"])
    console = Console(json=as_json)
    cluster = {name: options[name] for name in ("workers", "scheduler")}
    check_cluster(**cluster)
    with command_session(console, **cluster):
        result = ingest_flow(source, store, runs=str(runs), **options)
    data = result["data"]
    console.result(
        result,
        {
            "store": f"{data['url']}: {result['status']}",
            "data": described_data(data),
            "shards": "{written} written, {reused} already there".format(**result["shards"]),
            "took": f"{result['timings']['seconds']:.1f} s",
            "record": str(runs / result["run"] / "result.json"),
        },
    )
    return EXIT_DONE
