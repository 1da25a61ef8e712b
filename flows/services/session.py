"""Sessions: the Prefect server, Dask cluster and console that the flows of one command share.

A command opens one session and runs its flows in it. The server and the cluster start at the same
time, because each takes seconds. A flow that runs without a command, for example on a schedule,
opens a session of its own. Both use the workbench (`flows.services.workbench`) if one is there.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from distributed import Client

from flows.services import drawing
from flows.services.console import Console
from flows.services.performance_report import reporting_performance
from flows.services.prefect_server import starting_server
from flows.services.workbench import WorkbenchUse
from flows.services.workbench_use import chosen_workbench, loss_explained
from pipeline.cluster.connect import connect, is_own
from pipeline.cluster.map_shards import MapShards
from pipeline.cluster.placement import PlacedDataset, PlaceShards
from pipeline.cluster.preflight import check_store
from pipeline.cluster.resident import share_shards
from pipeline.cluster.tasks import map_in_tasks
from storage.dataset import Dataset
from storage.schema import Split


@dataclass(frozen=True)
class Session:
    """An open session."""

    client: Client
    console: Console
    opened: float = field(default_factory=time.perf_counter)
    """The value of `time.perf_counter()` before the server and the cluster were started."""
    workbench: WorkbenchUse | None = None
    """The workbench whose cluster this is; None for another cluster."""
    _placements: dict[str, PlacedDataset] = field(default_factory=dict)
    _readable: set[str] = field(default_factory=set)
    """The URLs of the stores that `check_store` has checked."""

    def check_store(self, dataset: Dataset) -> None:
        """Check, once per store, that the workers of another process's cluster can read it.

        Raises PipelineError if they cannot.
        """
        if not is_own(self.client) and dataset.url not in self._readable:
            check_store(self.client, dataset)
            self._readable.add(dataset.url)

    def placed(self, dataset: Dataset) -> PlacedDataset:
        """Return the data set's placement on the cluster, shared by all flows of the session."""
        return self._placements.setdefault(
            dataset.url, PlacedDataset(self.client, dataset, self._place)
        )

    @property
    def _place(self) -> PlaceShards | None:
        """On the workbench, shards stay where they are for the next session."""
        if self.workbench is None:
            return None
        return partial(share_shards, fraction=self.workbench.workbench.cache)

    def map_shards(self, dataset: Dataset, split: Split) -> MapShards:
        """Return a map over a split's shards in Dask tasks; load the shards first if necessary."""
        return map_in_tasks(self.client, self.placed(dataset).shards(split))

    @contextmanager
    def loss_explained(self, what_next: Callable[[], str]) -> Iterator[None]:
        """Raise WorkbenchLostError if the block fails because the workbench has ended.

        `what_next` returns what the user can do, such as how to resume the run.
        """
        with loss_explained(self.workbench, what_next):
            yield

    def close(self) -> None:
        """Release all shards before the cluster closes."""
        for placements in self._placements.values():
            placements.close()


_PREFECT_LOGGERS = ("prefect", "EventsWorker", "APILogWorker")
"""Loggers of Prefect. The last two, named after their classes, send a flow's records."""

_current: ContextVar[Session] = ContextVar("session")


@contextmanager
def command_session(
    console: Console,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    performance_report: Path | None = None,
    dataset: Dataset | None = None,
    load_ahead: bool = False,
) -> Iterator[Session]:
    """Start or find a server and a cluster, and share them among the flows of the block.

    Write Dask's report of the block's tasks to the file `performance_report`, if it is given. With
    `load_ahead`, the workers load the training images of `dataset` while the server starts.

    Raises PipelineError if the given scheduler does not answer or if its workers cannot read
    `dataset`, and ServerError if there is no Prefect server.
    """
    opened = time.perf_counter()
    with (
        _quiet_libraries(),
        chosen_workbench(workers, scheduler) as use,
        starting_server(api=use.workbench.remote_api if use else None) as server,
        _cluster(console, workers, scheduler, opened, use) as session,
        reporting_performance(session.client, performance_report),
    ):
        if dataset is not None:
            session.check_store(dataset)  # before the wait for the server, which may be long
            if load_ahead:
                session.placed(dataset).load_ahead("train")
        with server.ready():
            yield session


def in_session() -> bool:
    """Return whether a session is open. Flows that are called now would use it."""
    return _current.get(None) is not None


@contextmanager
def flow_session(*, workers: int | None = None, scheduler: str | None = None) -> Iterator[Session]:
    """Yield the command's session, or open one for this flow if there is none.

    Without a command, Prefect prints the flow's log, which contains the notes.
    """
    session = _current.get(None)
    if session is not None:
        yield session
    else:
        opened = time.perf_counter()
        with (
            chosen_workbench(workers, scheduler) as use,
            _cluster(Console(quiet=True), workers, scheduler, opened, use) as session,
        ):
            yield session


@contextmanager
def muted(session: Session) -> Iterator[None]:
    """Let the flows of the block use the session without printing progress notes."""
    token = _current.set(replace(session, console=replace(session.console, quiet=True)))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def _cluster(
    console: Console,
    workers: int | None,
    scheduler: str | None,
    opened: float,
    use: WorkbenchUse | None,
) -> Iterator[Session]:
    scheduler = use.workbench.scheduler if use else scheduler
    with connect(workers=workers, scheduler=scheduler, preload=[drawing.__name__]) as client:
        console.note(f"Dask dashboard: {client.dashboard_link}")
        session = Session(client, console, opened, use)
        token = _current.set(session)
        try:
            yield session
        finally:
            _current.reset(token)
            session.close()


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the libraries' logs off the terminal, which is for the command's own output.

    Prefect's log of the flow is on the server. Dask's errors are still printed.
    """
    prefect = [logging.getLogger(name) for name in _PREFECT_LOGGERS]
    propagate = [logger.propagate for logger in prefect]
    distributed, nowhere = logging.getLogger("distributed"), logging.NullHandler()
    level = distributed.level
    for logger in prefect:
        logger.propagate = False
        logger.addHandler(nowhere)  # without a handler, Python itself prints warnings
    distributed.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, before in zip(prefect, propagate, strict=True):
            logger.propagate = before
            logger.removeHandler(nowhere)
        distributed.setLevel(level)
