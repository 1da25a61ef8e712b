"""A command's use of the workbench: which commands use it, and what they do when it ends.

When the workbench announces its end, a command interrupts itself, as Control-C would do. When the
workbench's process dies, Dask cancels what the command waits for, and the error says so.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from threading import Event, Thread

import dask.config
from distributed import KilledWorker
from prefect.settings import get_current_settings

from flows.services.errors import WorkbenchLostError
from flows.services.workbench import WorkbenchUse, join_workbench
from pipeline.cluster.connect import scheduler_address
from pipeline.inputs.stopping import request_stop

_LOOK_SECONDS = 0.3
"""Time between two looks at the workbench's state."""

_PATIENCE_SECONDS = 3.0
"""Time for which a process may still seem alive after its connections broke."""

_OF_CONNECTIONS = (OSError, CancelledError, KilledWorker)
"""Errors of Dask if the connection to a scheduler or a worker breaks."""

_CONNECT_SECONDS = "5s"
"""Time limit for connections to a cluster that may have died; Dask's own is 30 s."""


@contextmanager
def chosen_workbench(workers: int | None, scheduler: str | None) -> Iterator[WorkbenchUse | None]:
    """Use the workbench in the block; yield None if there is none or another choice was made.

    The number of workers, a scheduler's address (also in Dask's configuration) and the URL of
    another Prefect API (`PREFECT_API_URL`) are such choices.

    Raises WorkbenchLostError if the block fails because the workbench has ended.
    """
    settings = get_current_settings()
    if workers or scheduler_address(workers, scheduler):
        yield None
        return
    with join_workbench(settings.home) as use:
        if use is None or (settings.api.url or use.workbench.api).rstrip("/") != use.workbench.api:
            yield None
        else:
            with (
                dask.config.set({"distributed.comm.timeouts.connect": _CONNECT_SECONDS}),
                _interrupted_at_its_end(use),
                _quiet_client(),
                loss_explained(use),
            ):
                yield use


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep the errors that Dask's client logs off the terminal.

    When the workbench has died, the client logs that it cannot reconnect. The command's own error
    says that, and what to do.
    """
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def loss_explained(
    use: WorkbenchUse | None, what_next: Callable[[], str] = lambda: "run the command again"
) -> Iterator[None]:
    """Raise WorkbenchLostError, which says what to do, if the block fails without the workbench."""
    try:
        yield
    except Exception as error:
        if use is None or isinstance(error, WorkbenchLostError) or not _is_lost(use, error):
            raise
        raise WorkbenchLostError(
            f"the workbench (process {use.process.pid}) ended during the run; {what_next()}"
        ) from None


def _is_lost(use: WorkbenchUse, error: Exception) -> bool:
    """Return whether the workbench has ended.

    An error of a connection may come before the end of the process, which is then waited for.
    """
    broken = isinstance(error, _OF_CONNECTIONS) or isinstance(error.__cause__, _OF_CONNECTIONS)
    deadline = time.monotonic() + (_PATIENCE_SECONDS if broken else 0)
    while use.is_there() and not use.is_stopping():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


@contextmanager
def _interrupted_at_its_end(use: WorkbenchUse) -> Iterator[None]:
    """Interrupt this process if the workbench announces its end during the block."""
    ended = Event()

    def watch() -> None:
        while not ended.wait(_LOOK_SECONDS) and use.is_there():
            if use.is_stopping():
                request_stop()
                return

    thread = Thread(target=watch, name="workbench-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
