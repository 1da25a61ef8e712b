"""The command `hinge serve`: a Prefect server and a Dask cluster for all commands."""

from pathlib import Path
from typing import Any

import click

from flows.command_line.exit_status import EXIT_DONE
from flows.command_line.options import (
    check_cluster,
    output_options,
    with_server,
    workers_or_scheduler_options,
)


@click.command()
@workers_or_scheduler_options
@click.option(
    "--cache",
    type=click.FloatRange(0, 1),
    metavar="FRACTION",
    default=0.5,
    show_default=True,
    help="Fraction of the workers' memory for images that stay loaded between commands.",
)
@click.option(
    "--store",
    metavar="URL",
    default="",
    help="Zarr store of the runs of deployments that name none.",
)
@click.option(
    "--source",
    metavar="SOURCE",
    default="",
    help="What to ingest into a store that does not exist when a deployment needs it, as in "
    "`hinge ingest SOURCE`.",
)
@click.option(
    "--schedule",
    "schedules",
    multiple=True,
    metavar="NAME=CRON|NAME=SECONDS",
    help="When to run a deployment: sweep='0 3 * * *' at 3 o'clock (UTC) every day, sweep=3600 "
    "every hour. May be given for several deployments.",
)
@output_options
@with_server
def serve(
    cache: float,
    store: str,
    source: str,
    schedules: tuple[str, ...],
    runs: Path,
    as_json: bool,
    **cluster: Any,
) -> int:
    """Hold a Prefect server, a Dask cluster and all deployments, until Control-C.

    While this command runs, the other commands of the same user on this machine use its server and
    its cluster, unless --workers, --scheduler or PREFECT_API_URL choose others. The command prints
    the addresses of the pages of Prefect and Dask. The deployments run from Prefect's page, with
    `prefect deployment run`, or on a schedule; `prefect deployment ls` lists them.
    """
    from flows.deployments.catalogue import Defaults
    from flows.deployments.schedules import parse_schedules
    from flows.serve.workbench import hold_workbench
    from flows.services.console import Console

    check_cluster(**cluster)
    hold_workbench(
        Console(json=as_json),
        defaults=Defaults(runs.absolute(), store, source),
        schedules=parse_schedules(schedules, store),
        cache=cache,
        **cluster,
    )
    return EXIT_DONE
