"""Holding the workbench: start the server and the cluster, announce them, wait, and end them."""

import sys
from collections.abc import Mapping
from contextlib import chdir, suppress
from pathlib import Path

from distributed import Client
from prefect.schedules import Schedule
from prefect.settings import get_current_settings

from flows.deployments.catalogue import Defaults, make_deployments
from flows.deployments.serving import served
from flows.services import drawing
from flows.services.console import Console
from flows.services.interruption import run_interruptibly
from flows.services.prefect_server import starting_server
from flows.services.workbench import Workbench, claimed_workbench
from pipeline.cluster.connect import connect
from pipeline.cluster.placement import workers_of
from pipeline.inputs.stopping import Interrupted, pause

DISMISS_SECONDS = 5.0
"""Time limit for the commands on the workbench to end before its cluster is closed."""

_CHECK_SECONDS = 1.0
"""Time between two checks that deployments are still run."""


def hold_workbench(
    console: Console,
    *,
    defaults: Defaults,
    schedules: Mapping[str, Schedule],
    cache: float,
    workers: int | None,
    scheduler: str | None,
) -> None:
    """Hold the workbench until Control-C or SIGTERM.

    `defaults` are those of the deployments, and `schedules` the schedules of some, by command.
    `cache` is the fraction of the workers' memory that shards may fill between commands.

    Raises ServerError if another process holds the workbench or if there is no Prefect server.
    Raises PipelineError if the scheduler does not answer.
    """

    def work() -> None:
        with (
            claimed_workbench(get_current_settings().home) as claim,
            starting_server(end=True) as server,
            connect(workers=workers, scheduler=scheduler, preload=[drawing.__name__]) as client,
            server.ready() as api,
        ):
            workbench = Workbench(
                api=api,
                local=server.is_local,
                scheduler=str(client.scheduler_info()["address"]),
                dashboard=client.dashboard_link,
                cache=cache,
            )
            claim.announce(workbench)
            defaults.runs.mkdir(parents=True, exist_ok=True)
            deployments = make_deployments(defaults, schedules)
            # Prefect imports flows with the working directory first in Python's path. A folder
            # `flows` there would shadow the package.
            with chdir(defaults.runs), served(deployments) as check_runner:
                _show(console, workbench, client, defaults.runs)
                with suppress(Interrupted):
                    while True:
                        pause(_CHECK_SECONDS)
                        check_runner()
                console.note("ending; runs in progress here are interrupted and can be resumed")
            if not claim.dismiss_users(DISMISS_SECONDS):
                console.note(f"some commands did not end within {DISMISS_SECONDS:g} s")

    run_interruptibly(work)


def _show(console: Console, workbench: Workbench, client: Client, runs: Path) -> None:
    workers = workers_of(client)
    threads = sum(worker.threads for worker in workers)
    addresses = {
        "prefect": workbench.page,
        "prefect_api": workbench.api,
        "dask_dashboard": workbench.dashboard,
        "scheduler": workbench.scheduler,
        "workers": len(workers),
        "threads": threads,
        "runs": str(runs),
    }
    console.result(
        addresses,
        {
            "Prefect page": workbench.page,
            "Dask dashboard": workbench.dashboard,
            "workers": f"{len(workers)} with {threads} threads, at {workbench.scheduler}",
            "runs": f"of deployments in {runs}, of commands in their --runs",
            "images": f"stay loaded in up to {workbench.cache:.0%} of the workers' memory",
            "to end": "Control-C",
        },
    )
    sys.stdout.flush()  # a program may read the addresses
