"""What the flows of one command share: a Prefect server, a Dask cluster and a console.

A command opens one session and runs its flows in it; both are started at once, as each
takes seconds. A flow that runs without a command, from a schedule say, opens its own.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from distributed import Client

from flows.services.console import Console
from flows.services.interruption import deliver_interruption, interruptible, shield_cluster_start
from flows.services.prefect_server import starting_server
from pipeline.cluster.connect import connect
from pipeline.cluster.map_shards import MapShards
from pipeline.cluster.placement import PlacedDataset
from pipeline.cluster.tasks import map_in_tasks
from storage.dataset import Dataset
from storage.schema import Split


@dataclass(frozen=True)
class Session:
    """An open session."""

    client: Client
    console: Console
    opened: float = field(default_factory=time.perf_counter)
    """When it was asked for, before its server and cluster were there."""
    _placements: dict[str, PlacedDataset] = field(default_factory=dict)

    def placed(self, dataset: Dataset) -> PlacedDataset:
        """Return where the data set's shards are, kept for all flows of the session."""
        return self._placements.setdefault(dataset.url, PlacedDataset(self.client, dataset))

    def map_shards(self, dataset: Dataset, split: Split) -> MapShards:
        """Return what maps over a split's shards in tasks, loading them first if they are not."""
        return map_in_tasks(self.client, self.placed(dataset).shards(split))

    def close(self) -> None:
        """Let go of all shards, before the cluster goes."""
        for placements in self._placements.values():
            placements.close()


_PREFECT_LOGGERS = ("prefect", "EventsWorker", "APILogWorker")
"""The last two send a flow's records, and are named by their classes."""

_current: ContextVar[Session] = ContextVar("session")


@contextmanager
def command_session(
    console: Console, *, workers: int | None = None, scheduler: str | None = None
) -> Iterator[Session]:
    """Start what flows need, or find it, and let the flows of the block share it.

    Raises PipelineError or ServerError if a scheduler or server that was named does not answer.
    """
    opened = time.perf_counter()
    with (
        interruptible(),
        _quiet_libraries(),
        starting_server() as server,
        _cluster(console, workers, scheduler, opened) as session,
        server.ready(),
    ):
        yield session


def in_session() -> bool:
    """Whether a session is open, which flows called now would use."""
    return _current.get(None) is not None


@contextmanager
def flow_session(*, workers: int | None = None, scheduler: str | None = None) -> Iterator[Session]:
    """Yield the command's session, or one of the flow's own."""
    session = _current.get(None)
    if session is not None:
        yield session
    else:
        opened = time.perf_counter()
        with deliver_interruption(), _cluster(Console(), workers, scheduler, opened) as session:
            yield session


@contextmanager
def muted(session: Session) -> Iterator[None]:
    """Let the flows of the block use the session, and say nothing by the way."""
    token = _current.set(replace(session, console=replace(session.console, quiet=True)))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def _cluster(
    console: Console, workers: int | None, scheduler: str | None, opened: float
) -> Iterator[Session]:
    with ExitStack() as stack:
        with shield_cluster_start() if scheduler is None else nullcontext():
            client = stack.enter_context(connect(workers=workers, scheduler=scheduler))
        console.note(f"Dask dashboard: {client.dashboard_link}")
        session = Session(client, console, opened)
        token = _current.set(session)
        try:
            yield session
        finally:
            _current.reset(token)
            session.close()


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the libraries' logs off the terminal, where the command speaks.

    Prefect's log of the flow is on the server; Dask still says what is an error.
    """
    prefect = [logging.getLogger(name) for name in _PREFECT_LOGGERS]
    propagate = [logger.propagate for logger in prefect]
    distributed, nowhere = logging.getLogger("distributed"), logging.NullHandler()
    level = distributed.level
    for logger in prefect:
        logger.propagate = False
        logger.addHandler(nowhere)  # with no handler at all, Python writes warnings itself
    distributed.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, before in zip(prefect, propagate, strict=True):
            logger.propagate = before
            logger.removeHandler(nowhere)
        distributed.setLevel(level)
