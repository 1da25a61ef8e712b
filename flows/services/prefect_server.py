"""The Prefect server that a command uses.

    with starting_server() as server:   # returns at once
        ...                             # start a cluster meanwhile
        with server.ready() as url:     # waits; sets Prefect's settings inside the block
            train()

`prefect_server()` combines the two blocks. If Prefect's settings name an API (`PREFECT_API_URL`, or
that of the active profile), it is used and no server is started. Otherwise a local server is used
(see `flows.services.local_server`).
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
from flows.services.local_server import LocalServer, idle_seconds
from flows.services.server_ahead import take_launched
from flows.services.server_files import ANSWER_SECONDS
from pipeline.cluster.waiting import in_slices


@contextmanager
def prefect_server(home: Path | None = None) -> Iterator[str]:
    """Run the block with a Prefect server and settings that point to it; yield its API's URL.

    `home` is Prefect's home; None for the one that Prefect's settings name.

    Raises ServerError if no server answers.
    """
    with starting_server(home) as server, server.ready() as url:
        yield url


@contextmanager
def starting_server(
    home: Path | None = None, api: str | None = None, *, end: bool = False
) -> Iterator["Server"]:
    """Find or start a server in the background; leave it after the block.

    `api` is the URL of an API to use if Prefect's settings name none. A local server ends by itself
    some time after its last use. With `end` it ends at once, unless others use it.
    """
    server = Server(home, api, end=end)
    try:
        yield server
    finally:
        server.close()


class Server:
    """A command's handle on a Prefect server, which is found or started in the background."""

    def __init__(
        self, home: Path | None = None, api: str | None = None, *, end: bool = False
    ) -> None:
        settings = get_current_settings()
        self._home = (home or settings.home).expanduser().absolute()
        self._api = settings.api.url or api
        launched = take_launched(None if self._api else self._home)
        self._local = None if self._api else launched or LocalServer(self._home)
        self._end = end or (self._local is not None and idle_seconds() == 0)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="prefect-server")
        context = contextvars.copy_context()  # the caller's temporary settings apply there too
        self._url: Future[str] = self._executor.submit(context.run, self._find)

    @property
    def is_local(self) -> bool:
        """Whether this is the local server, which ends when it is unused."""
        return self._local is not None

    def wait(self) -> str:
        """Wait until the API answers, and return its URL."""
        return in_slices(self._url.result, self._url.done)

    @contextmanager
    def ready(self) -> Iterator[str]:
        """Wait for the API, run the block with settings for it, then send pending records."""
        url = self.wait()
        with _environment(), temporary_settings(_flow_settings(url, self._home)):
            try:
                yield url
            finally:
                # Background threads send task runs and logs. Without this, the process would end
                # before they have sent all of them.
                EventsWorker.drain_all(timeout=ANSWER_SECONDS)
                APILogWorker.drain_all(timeout=ANSWER_SECONDS)

    def close(self) -> None:
        """Leave the server; end a local server without users if this was asked for."""
        if self._local:
            self._local.abandon_start()
        self._executor.shutdown(wait=True, cancel_futures=True)
        if self._local:
            if self._end:
                self._local.end_in_order()
            self._local.leave()

    def _find(self) -> str:
        if self._local:
            return self._local.join()
        with temporary_settings({"api.url": self._api}):
            return _check_named_server()


def _check_named_server() -> str:
    """Return the URL of the API that Prefect's settings name.

    Raises ServerError if it does not answer.
    """
    with get_client(sync_client=True, httpx_settings={"timeout": ANSWER_SECONDS}) as client:
        problem = client.api_healthcheck()
        if problem is None:
            return str(client.api_url).rstrip("/")  # as it is written in the settings
    raise ServerError(
        f"the Prefect API at {get_current_settings().api.url} does not answer ({problem}); "
        "start it, or unset PREFECT_API_URL (or the profile's api_url) to use a local server"
    )


def _flow_settings(url: str, home: Path) -> dict[Any, Any]:
    """Return Prefect's settings for the process that runs the flow."""
    return {
        "home": home,
        "api.url": url,
        "server.ephemeral.enabled": False,  # without a URL, fail at once
        "flows.heartbeat_frequency": None,  # its thread delays a short flow by 1 s
    }


@contextmanager
def _environment() -> Iterator[None]:
    """Set the variables that Prefect and its HTTP client read only from the environment."""
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
