"""Connection to an existing Dask cluster, or to a new one on this machine.

No other module depends on which of the two is used: all of them get a `distributed.Client`.
"""

import asyncio
import logging
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from threading import Thread
from typing import Any
from uuid import uuid4

import dask.config
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Nanny, Security, Status, rpc
from distributed.versions import VersionMismatchWarning

from pipeline.cluster.dashboard.plugin import add_to_dashboard
from pipeline.cluster.main_guard import check_main_guard
from pipeline.cluster.ports import is_free
from pipeline.cluster.preflight import check_members
from pipeline.cluster.waiting import in_slices
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.stopping import Interrupted

CONNECT_SECONDS = 5.0
"""Seconds to wait for a scheduler's answer, and again for its first worker."""

_DASHBOARD_PORT = 8787


@contextmanager
def connect(
    *, workers: int | None = None, scheduler: str | None = None, preload: Sequence[str] = ()
) -> Iterator[Client]:
    """Yield a client of the scheduler at address `scheduler`, or of a local cluster.

    If neither `scheduler` nor `workers` is given, Dask's own configuration may name a scheduler
    (`scheduler-address`, `DASK_SCHEDULER_ADDRESS`). A local cluster has one process with one thread
    per core, or `workers` processes with one thread each. It listens on the loopback interface
    only, and stops at the end of the context. Its workers import the modules named in `preload`
    when they start (`distributed.worker.preload`).

    Raises PipelineError if the scheduler does not answer within `CONNECT_SECONDS`, if it has no
    worker, if a member of its cluster cannot be used (`check_members`), or if a script starts a
    local cluster without a guard (`pipeline.cluster.main_guard`).
    """
    address = scheduler_address(workers, scheduler)
    with _existing(address) if address else _local(workers, preload) as client:
        add_to_dashboard(client, on_request=is_own(client))
        yield client


def scheduler_address(workers: int | None, scheduler: str | None) -> str | None:
    """Return the address that `connect` connects to, or None if it starts a local cluster."""
    return scheduler or (None if workers else dask.config.get("scheduler-address", None))


def is_own(client: Client) -> bool:
    """Return whether the client's cluster was started by this process."""
    return client.cluster is not None


def task_group(name: str) -> str:
    """Return the first part of the keys of a new group of tasks, shown as `name`.

    The result is unique among all processes that use the scheduler. Dask treats two tasks with the
    same key as one task, and would return the result of the other task. (The end of a client's id
    would not be unique: it names the machine, not the process.) The dashboard groups tasks by the
    part of the key before the first word with a digit.
    """
    return f"{name}-{uuid4().hex}"


@contextmanager
def _existing(address: str) -> Iterator[Client]:
    try:
        with ThreadPoolExecutor(1) as pool:  # this thread may already run an event loop
            pool.submit(asyncio.run, _identity(address)).result()
        with warnings.catch_warnings():  # `check_members` compares the versions
            warnings.simplefilter("ignore", VersionMismatchWarning)
            client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TypeError) as error:
        raise PipelineError(
            f"no Dask scheduler answers at {address!r} within {CONNECT_SECONDS:g} s; start one "
            "with `dask scheduler`, or omit --scheduler to use this machine"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise PipelineError(
                f"the scheduler at {address} has no workers; start some with "
                f"`dask worker {address}`"
            ) from error
        check_members(client)
        yield client


async def _identity(address: str) -> None:
    """Ask the scheduler for its identity, and raise TimeoutError if it does not answer.

    `Client` would wait for ever for a server that accepts the connection but does not answer.
    """
    async with asyncio.timeout(CONNECT_SECONDS):
        security = Security().get_connection_args("client")
        async with rpc(address, connection_args=security) as scheduler:
            await scheduler.identity()


class _LocalNanny(Nanny):
    """A nanny that kills its worker when the cluster closes.

    A worker that is asked to close takes more than a second: it closes its connections, then the
    interpreter ends. At that time it holds nothing of value.
    """

    async def close(  # type: ignore[override]  # as Nanny itself does
        self, timeout: float = 5, reason: str = "nanny-close"
    ) -> Any:
        """Kill the worker process, wait until it has ended, and stop listening."""
        self.auto_restart = False
        worker = self.process
        if worker is not None and worker.process and worker.status == Status.running:
            with suppress(ValueError):  # it has already ended
                await worker.process.kill()
        return await super().close(timeout, reason)


def local_shape(workers: int | None) -> tuple[int, int]:
    """Return the number of processes of a local cluster, and of the threads of each.

    By default one process has a thread per core. The kernels release the interpreter lock, so
    these threads are as fast as processes, which would each import the packages again.
    """
    return (workers, 1) if workers else (1, CPU_COUNT)


@contextmanager
def _local(workers: int | None, preload: Sequence[str]) -> Iterator[Client]:
    check_main_guard()
    processes, threads = local_shape(workers)
    settings = {
        "distributed.nanny.pre-spawn-environ": _worker_environment(),
        # After this time Dask checks whether a dead worker is back, and if not, gives up its
        # nanny. A worker that has just died a second time would then never come back.
        "distributed.deploy.lost-worker-timeout": "1 day",
    }
    with dask.config.set(settings):
        with warnings.catch_warnings():
            # another command may have taken the port meanwhile; Dask then chooses another one
            warnings.filterwarnings("ignore", "Port .* is already in use")
            cluster = _start_cluster(
                n_workers=processes,
                threads_per_worker=threads,
                worker_class=_LocalNanny,
                preload=["pipeline.cluster.worker_imports", *preload],
                host="127.0.0.1",
                silence_logs=logging.CRITICAL,  # errors reach the driver, which reports them
                dashboard_address=f"127.0.0.1:{_DASHBOARD_PORT if is_free(_DASHBOARD_PORT) else 0}",
                scheduler_kwargs={"dashboard": False},  # `add_to_dashboard` adds it on request
            )
        # direct calls to the workers take half as many hops as calls through the scheduler
        with cluster, Client(cluster, direct_to_workers=True) as client:
            yield client


def _start_cluster(**options: Any) -> LocalCluster:
    """Start a cluster in a thread, so that a request to stop ends the wait for it.

    The thread then closes the cluster, which Dask can do only after the start.
    """
    starting: Future[LocalCluster] = Future()

    def start() -> None:
        _start_resource_tracker()
        # The worker processes inherit this, so Control-C in the terminal does not end them.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            cluster = LocalCluster(**options)
        except BaseException as error:
            starting.set_exception(error)
            return
        if starting.set_running_or_notify_cancel():
            starting.set_result(cluster)
        else:
            cluster.close()

    Thread(target=start, name="hinge-cluster-start").start()
    try:
        return in_slices(starting.result, starting.done)
    except Interrupted:
        if not starting.cancel():
            starting.result().close()
        raise


def _start_resource_tracker() -> None:
    """Start multiprocessing's process that removes the semaphores that this process leaves behind.

    It must not warn about them, because a command that is interrupted prints one line. It has to
    start before SIGINT is blocked, because multiprocessing unblocks SIGINT when it starts it.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore"
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def _worker_environment() -> dict[str, str]:
    """Return Dask's environment for workers, changed so that they keep freed memory for reuse.

    By default Dask's workers return freed memory to the system at once. Each step of training
    allocates arrays of about 250 kB, and getting their pages back from the system took as long as
    the step itself.
    """
    environment: dict[str, str] = dask.config.get("distributed.nanny.pre-spawn-environ")
    kept = {"MALLOC_TRIM_THRESHOLD_": str(2**24), "MALLOC_MMAP_THRESHOLD_": str(2**22)}
    return environment | kept
