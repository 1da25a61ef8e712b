"""The Prefect server's own process: `python -P -m flows.services.server_process STATE`.

What `prefect server start` runs, without the command line around it, so that it
answers sooner: the garbage collector rests while half a million objects that
stay are imported (a quarter of the time), and a fresh database is migrated
through SQLite's synchronous driver (2 s where the asynchronous one, a thread
switch for each of 34,000 calls, takes 7 s).

`STATE` is the file by which `flows.services.local_server` finds this process. An exclusive
lock on it, held from before the first import until the process is gone,
however it goes, says that the server is there; the process in it, and once the
server answers its URL, say where. Standard output and error are the log.
"""

import asyncio
import fcntl
import gc
import json
import os
import socket
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flows.services.process_identity import ProcessIdentity

if TYPE_CHECKING:
    from fastapi import FastAPI
    from prefect.server.database.interface import PrefectDBInterface

DRAIN_SECONDS = 5.0
"""How long a stopping server waits for the records that it was sent to be written."""


def main() -> None:
    """Lock the state file, leave the caller's process tree, and serve until a signal."""
    state = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(state, 0)  # before the caller looks: an earlier server's address is not ours
    child = os.fork()  # the child inherits the lock, and init reaps it
    if child:
        _announce(state, child)  # before the caller looks, too
        os._exit(0)
    serve(state)


def serve(state: int) -> None:
    """Run Prefect's API, its services and its pages on a free port of the loopback."""
    gc.disable()
    import uvicorn  # noqa: PLC0415 (imports are the start's cost: the lock comes first)
    from prefect.server.api.server import create_app  # noqa: PLC0415
    from prefect.server.database import provide_database_interface  # noqa: PLC0415

    create_database(provide_database_interface())
    app = create_app(final=True)
    _drain_before_services_stop(app)
    # With the protocol named, asyncio turns Nagle's algorithm off on each connection;
    # else an answer's body comes 40 ms after its head, six times a flow run.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                _announce(
                    state, os.getpid(), url=f"http://127.0.0.1:{listener.getsockname()[1]}/api"
                )
            gc.freeze()  # what the start left stays; collections need not look at it
            gc.enable()

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
    Server(config).run([listener])


def create_database(interface: "PrefectDBInterface") -> None:
    """Apply Prefect's migrations to a SQLite database that does not exist yet.

    Prefect migrates a database at every start, so this changes how long the
    first one takes and nothing else: what is made here is what Prefect's own
    run of the same migrations makes, and it appears whole or not at all. The
    first of several servers (one per host that shares the home) makes it; the
    others leave it as it is. Anything but a fresh SQLite file is left to Prefect.
    """
    import sqlalchemy  # noqa: PLC0415

    url = sqlalchemy.make_url(interface.database_config.connection_url)
    if not url.drivername.startswith("sqlite") or url.database in (None, "", ":memory:"):
        return
    target = Path(str(url.database))
    if target.exists():
        return
    draft = target.with_name(f"{target.name}.{uuid4().hex}.new")
    try:
        _migrate(interface, sqlalchemy.create_engine(f"sqlite:///{draft}"))
        with suppress(OSError):  # it is there by now, or Prefect has to make it
            target.hardlink_to(draft)  # a rename would replace one that is in use
    finally:
        draft.unlink(missing_ok=True)


def _migrate(interface: "PrefectDBInterface", engine: Any) -> None:
    """Run every migration, as Prefect's Alembic environment configures them."""
    from alembic.runtime.environment import EnvironmentContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415
    from prefect.server.database.alembic_commands import alembic_config  # noqa: PLC0415

    config = alembic_config()
    scripts = ScriptDirectory.from_config(config)
    scripts.version_locations = [str(interface.orm.versions_dir)]
    environment = EnvironmentContext(
        config,
        scripts,
        fn=lambda revision, _: scripts._upgrade_revs("head", revision),
        destination_rev="head",
    )
    with environment, engine.connect() as connection:
        environment.configure(
            connection=connection,
            target_metadata=interface.Base.metadata,
            include_schemas=True,
            render_as_batch=True,  # SQLite alters a table by copying it
            transaction_per_migration=True,
            template_args={"dialect": "sqlite"},
        )
        connection.exec_driver_sql("PRAGMA synchronous = OFF")  # a draft: lost is begun again
        with warnings.catch_warnings(), environment.begin_transaction():
            warnings.filterwarnings("ignore", "Skipped unsupported reflection")  # as Prefect does
            environment.run_migrations()
        connection.commit()
    engine.dispose()


def _drain_before_services_stop(app: "FastAPI") -> None:
    """Have `app` write what it was sent before it stops the services that write it.

    Task runs reach the server as events and wait in a queue in its memory.
    Prefect's recorder, told to stop, drops what it has not taken off that queue.
    """
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def drained(app: "FastAPI") -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            yield state
            await _drain()

    app.router.lifespan_context = drained


async def _drain() -> None:
    """Wait until every message of the server's topics was consumed."""
    from prefect.server.utilities.messaging.memory import METRICS  # noqa: PLC0415

    deadline = asyncio.get_running_loop().time() + DRAIN_SECONDS
    while any(topic["published"] > topic["consumed"] for topic in METRICS.values()):
        if asyncio.get_running_loop().time() > deadline:
            print("stopping with records unwritten:", dict(METRICS), file=sys.stderr)
            return
        await asyncio.sleep(0.01)


def _announce(state: int, pid: int, **where: str) -> None:
    """Replace the state file's content by the server's process and what else is known."""
    identity = ProcessIdentity.of(pid)
    if identity is None:  # it has ended already
        return
    content = json.dumps({"process": identity.to_json(), **where}).encode()
    os.pwrite(state, content, 0)
    os.ftruncate(state, len(content))


if __name__ == "__main__":
    main()
