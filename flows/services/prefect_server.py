"""The Prefect server that a command runs under.

    with starting_server() as server:   # returns at once
        ...                             # start a cluster meanwhile
        with server.ready() as url:     # waits; Prefect's settings hold inside
            train()

`prefect_server()` is both in one. Where Prefect's settings name an API
(`PREFECT_API_URL`, or the active profile's), that one is used and nothing is
started. Else there is a local one (`flows.services.local_server`).
"""

import contextvars
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import get_current_settings, temporary_settings

from flows.services.errors import ServerError
from flows.services.local_server import ANSWER_SECONDS, LocalServer


@contextmanager
def prefect_server(home: Path | None = None) -> Iterator[str]:
    """Run the block under a Prefect server, with Prefect's settings for it; yield its API's URL.

    `home` is Prefect's home, if not the one that Prefect's settings name.

    Raises `ServerError` if there is none to run under.
    """
    with starting_server(home) as server, server.ready() as url:
        yield url


@contextmanager
def starting_server(home: Path | None = None) -> Iterator["Server"]:
    """Begin to find or start a server, without waiting for it; leave it at the end."""
    server = Server(home)
    try:
        yield server
    finally:
        server.close()


class Server:
    """A command's hold on a Prefect server, taken in the background."""

    def __init__(self, home: Path | None = None) -> None:
        settings = get_current_settings()
        self._home = (home or settings.home).expanduser().absolute()
        self._local = None if settings.api.url else LocalServer(self._home)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="prefect-server")
        context = contextvars.copy_context()  # temporary settings of the caller hold there too
        self._url: Future[str] = self._executor.submit(context.run, self._find)

    def wait(self) -> str:
        """The API's URL, once it answers."""
        return self._url.result()

    @contextmanager
    def ready(self) -> Iterator[str]:
        """Wait, then hold Prefect's settings in the block, and see its records sent after it."""
        url = self.wait()
        with _environment(), temporary_settings(_flow_settings(url, self._home)):
            try:
                yield url
            finally:
                # Task runs and logs leave by threads of their own, which would
                # otherwise still be sending when the server stops.
                EventsWorker.drain_all(timeout=ANSWER_SECONDS)
                APILogWorker.drain_all(timeout=ANSWER_SECONDS)

    def close(self) -> None:
        """Leave the server, and stop it if it is local and nobody else is using it."""
        if self._local:
            self._local.abandon_start()
        self._executor.shutdown(wait=True, cancel_futures=True)
        if self._local:
            self._local.leave()

    def _find(self) -> str:
        return self._local.join() if self._local else _check_named_server()


def _check_named_server() -> str:
    """The URL of the API that Prefect's settings name, if it answers."""
    with get_client(sync_client=True, httpx_settings={"timeout": ANSWER_SECONDS}) as client:
        problem = client.api_healthcheck()
        if problem is None:
            return str(client.api_url)
    raise ServerError(
        f"the Prefect API at {get_current_settings().api.url} does not answer ({problem}); "
        "start it, or unset PREFECT_API_URL (or the profile's api_url) to have a local one"
    )


def _flow_settings(url: str, home: Path) -> dict[Any, Any]:
    """Prefect's settings in the process that runs the flow."""
    return {
        "home": home,
        "api.url": url,
        "server.ephemeral.enabled": False,  # a missing URL fails at once
        "flows.heartbeat_frequency": None,  # its thread costs a short flow a second
    }


@contextmanager
def _environment() -> Iterator[None]:
    """Hold what Prefect and its HTTP client read from the environment alone."""
    held = {name: os.environ.get(name) for name in ("DO_NOT_TRACK", "NO_PROXY", "no_proxy")}
    direct = ",".join(filter(None, (held["no_proxy"] or held["NO_PROXY"], "127.0.0.1")))
    os.environ.update(DO_NOT_TRACK=held["DO_NOT_TRACK"] or "1", NO_PROXY=direct, no_proxy=direct)
    try:
        yield
    finally:
        for name, value in held.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
