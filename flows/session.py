"""What the flows of one command share: a Prefect server, a Dask cluster and a console.

A command opens one session and runs its flows in it; both are started at once, as each
takes seconds. A flow that runs without a command, from a schedule say, opens its own.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from distributed import Client

from flows.console import Console
from flows.server import starting_server
from pipeline.cluster import connect


@dataclass(frozen=True)
class Session:
    """An open session."""

    client: Client
    console: Console


_current: ContextVar[Session] = ContextVar("session")


@contextmanager
def command_session(
    console: Console, *, workers: int | None = None, scheduler: str | None = None
) -> Iterator[Session]:
    """Start what flows need, or find it, and let the flows of the block share it.

    Raises PipelineError or ServerError if a scheduler or server that was named does not answer.
    """
    with (
        _quiet_libraries(),
        starting_server() as server,
        _cluster(console, workers, scheduler) as session,
        server.ready(),
    ):
        yield session


@contextmanager
def flow_session(*, workers: int | None = None, scheduler: str | None = None) -> Iterator[Session]:
    """Yield the command's session, or one of the flow's own."""
    session = _current.get(None)
    if session is not None:
        yield session
    else:
        with _cluster(Console(), workers, scheduler) as session:
            yield session


@contextmanager
def _cluster(console: Console, workers: int | None, scheduler: str | None) -> Iterator[Session]:
    with connect(workers=workers, scheduler=scheduler) as client:
        console.note(f"Dask dashboard: {client.dashboard_link}")
        session = Session(client, console)
        token = _current.set(session)
        try:
            yield session
        finally:
            _current.reset(token)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the libraries' logs off the terminal, where the command speaks.

    Prefect's log of the flow is on the server; Dask still says what is an error.
    """
    prefect, distributed = logging.getLogger("prefect"), logging.getLogger("distributed")
    propagate, level = prefect.propagate, distributed.level
    prefect.propagate = False
    distributed.setLevel(logging.ERROR)
    try:
        yield
    finally:
        prefect.propagate = propagate
        distributed.setLevel(level)
