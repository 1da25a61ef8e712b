"""Connect to a Dask cluster, or start one on this machine.

Nothing else in the project knows which: it is handed a `distributed.Client`.
"""

import asyncio
import logging
import socket
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

import dask.config
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Security, rpc

from pipeline.cluster.main_guard import check_main_guard
from pipeline.inputs.errors import PipelineError

CONNECT_SECONDS = 5.0
"""How long a scheduler may take to answer, and it to have a first worker."""

_DASHBOARD_PORT = 8787


@contextmanager
def connect(*, workers: int | None = None, scheduler: str | None = None) -> Iterator[Client]:
    """Yield a client of the scheduler at address `scheduler`, else of a local cluster.

    Without an address, Dask's own configuration may name one (`scheduler-address`,
    `DASK_SCHEDULER_ADDRESS`). A local cluster has `workers` processes of one thread each
    (default: one a core), bound to loopback, and ends with the context.

    Raises PipelineError if the scheduler does not answer within `CONNECT_SECONDS`, or has
    no worker; and if a script starts a local cluster without a guard
    (`pipeline.cluster.main_guard`).
    """
    address = scheduler_address(workers, scheduler)
    with _existing(address) if address else _local(workers or CPU_COUNT) as client:
        yield client


def scheduler_address(workers: int | None, scheduler: str | None) -> str | None:
    """Return the address that `connect` connects to, or None if it starts a local cluster."""
    return scheduler or (None if workers else dask.config.get("scheduler-address", None))


def task_group(name: str) -> str:
    """Return the first part of the keys of a new group of tasks, shown as `name`.

    No other group, of this process or of another that uses the same scheduler, is called so:
    Dask takes two tasks of one key for one task, and would hand back the other's result. (A
    client's id would not tell processes of one machine apart by its end, which names the
    machine.) The dashboard groups by what stands before the first part with a digit.
    """
    return f"{name}-{uuid4().hex}"


@contextmanager
def _existing(address: str) -> Iterator[Client]:
    try:
        with ThreadPoolExecutor(1) as pool:  # this thread may have an event loop
            pool.submit(asyncio.run, _identity(address)).result()
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TypeError) as error:
        raise PipelineError(
            f"no Dask scheduler answers at {address!r} within {CONNECT_SECONDS:g} s; start one "
            "with `dask scheduler`, or leave --scheduler out to use this machine"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise PipelineError(
                f"the scheduler at {address} has no workers; start some with "
                f"`dask worker {address}`"
            ) from error
        yield client


async def _identity(address: str) -> None:
    """Ask the scheduler who it is: a client would wait for ever for what listens and is silent."""
    async with asyncio.timeout(CONNECT_SECONDS):
        security = Security().get_connection_args("client")
        async with rpc(address, connection_args=security) as scheduler:
            await scheduler.identity()


@contextmanager
def _local(workers: int) -> Iterator[Client]:
    check_main_guard()
    settings = {
        "distributed.nanny.pre-spawn-environ": _worker_environment(),
        # So long after a death Dask looks whether the worker is back, and else gives up its
        # nanny: one that had died a second time just then would never come back.
        "distributed.deploy.lost-worker-timeout": "1 day",
    }
    with dask.config.set(settings):
        with warnings.catch_warnings():
            # another command may have taken the port since we looked; Dask then takes a third
            warnings.filterwarnings("ignore", "Port .* is already in use")
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                silence_logs=logging.CRITICAL,  # an error reaches the driver, which tells of it
                dashboard_address=f"127.0.0.1:{_free_port(_DASHBOARD_PORT)}",
            )
        # the driver talks to the workers itself: half the way of a step through the scheduler
        with cluster, Client(cluster, direct_to_workers=True) as client:
            yield client


def _worker_environment() -> dict[str, str]:
    """Return Dask's environment for workers, but let them keep memory that they use again.

    Dask has them give freed memory back to the system at once. A step of training makes
    arrays of some 250 kB anew each time; getting their pages back took as long as the step.
    """
    environment: dict[str, str] = dask.config.get("distributed.nanny.pre-spawn-environ")
    kept = {"MALLOC_TRIM_THRESHOLD_": str(2**24), "MALLOC_MMAP_THRESHOLD_": str(2**22)}
    return environment | kept


def _free_port(wanted: int) -> int:
    """Return `wanted` if nothing listens there, else 0 (any)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
    return wanted
