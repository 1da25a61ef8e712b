"""Checks of what the commands use: the Prefect API, a Dask cluster, a store."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from flows.doctor.findings import Answer

ANSWER_SECONDS = 5.0
"""Seconds to wait for the Prefect API."""


def check_prefect() -> Iterator[Answer]:
    """Check that the Prefect API that the settings name answers."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415 (it may be broken)
    from prefect.settings import get_current_settings  # noqa: PLC0415

    url = get_current_settings().api.url
    if url is None:
        running = local_server_url()
        where = f"at {running}" if running else "which the next command starts"
        yield Answer("ok", f"no API in the settings: commands share a local server, {where}")
        return
    with get_client(sync_client=True, httpx_settings={"timeout": ANSWER_SECONDS}) as client:
        problem = client.api_healthcheck()
    if problem is None:
        yield Answer("ok", f"{url} answers")
    else:
        yield Answer(
            "problem",
            f"{url} does not answer ({problem!r})",
            "start it, or unset PREFECT_API_URL (or the profile's api_url) to use a local server",
        )


def prefect_home() -> Path:
    """Return Prefect's home, even if Prefect cannot be imported."""
    try:
        from prefect.settings import get_current_settings  # noqa: PLC0415

        return get_current_settings().home.expanduser()
    except Exception:
        return Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()


def local_server_url() -> str | None:
    """Return the URL of the API of the local server if it is running."""
    from flows.services.server_files import ServerFiles  # noqa: PLC0415 (psutil may be missing)

    return ServerFiles(prefect_home()).url()


def own_ports() -> set[int]:
    """Return the ports of this machine that the local server and the workbench of this user use."""
    from flows.services.workbench import WorkbenchFiles  # noqa: PLC0415 (psutil may be missing)

    workbench = WorkbenchFiles(prefect_home()).workbench()
    urls = [local_server_url()] + ([workbench.api, workbench.dashboard] if workbench else [])
    parts = [urlsplit(url) for url in urls if url]
    return {each.port for each in parts if each.hostname == "127.0.0.1" and each.port}


def check_workbench() -> Iterator[Answer]:
    """Report the workbench of this user, if there is one."""
    from flows.services.workbench import WorkbenchFiles  # noqa: PLC0415 (psutil may be missing)

    files = WorkbenchFiles(prefect_home())
    process, workbench = files.process(), files.workbench()
    if workbench and process:
        yield Answer(
            "ok",
            f"process {process.pid}: Prefect {workbench.page}, Dask {workbench.dashboard}",
        )
    elif process:
        yield Answer("ok", f"process {process.pid} starts it")
    else:
        yield Answer("ok", "not running; `hinge serve` starts it")


def check_cluster(scheduler: str | None, store: str | None) -> Iterator[Answer]:
    """Check the members of a running Dask cluster, and that its workers read the store."""
    from pipeline.cluster.connect import connect, scheduler_address  # noqa: PLC0415
    from pipeline.cluster.placement import workers_of  # noqa: PLC0415
    from pipeline.cluster.preflight import check_store  # noqa: PLC0415
    from pipeline.inputs.errors import PipelineError  # noqa: PLC0415
    from storage.dataset import open_dataset  # noqa: PLC0415
    from storage.errors import DataError  # noqa: PLC0415

    address = scheduler_address(None, scheduler)
    if address is None:
        yield Answer("ok", "no scheduler is named: commands use the workbench, or start workers")
        return
    try:
        with connect(scheduler=address) as client:
            workers = workers_of(client)
            if store:
                check_store(client, open_dataset(store))
    except PipelineError as error:
        yield Answer("problem", str(error))
    except DataError:
        yield Answer("warning", f"{address} answers, but there is no store to read", "see store")
    else:
        threads = sum(worker.threads for worker in workers)
        reads = ", and they read the store" if store else ""
        yield Answer(
            "ok",
            f"{address}: {len(workers)} workers with {threads} threads have the same hinge and "
            f"versions as this process{reads}",
        )


def check_store_here(store: str | None) -> Iterator[Answer]:
    """Check that the store can be opened in this process."""
    from storage.dataset import open_dataset  # noqa: PLC0415
    from storage.errors import DataError  # noqa: PLC0415

    if store is None:
        yield Answer("ok", "not checked; name one with --store")
        return
    try:
        dataset = open_dataset(store)
    except DataError as error:
        yield Answer("problem", str(error))
    else:
        yield Answer("ok", f"{dataset.url}: {dataset.summary().in_words()}")
