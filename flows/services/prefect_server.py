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
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterId
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import get_current_settings, temporary_settings

from flows.services.errors import ServerError
from flows.services.interruption import before_sudden_end
from flows.services.local_server import ANSWER_SECONDS, POLL_SECONDS, LocalServer
from flows.services.tasks import take_task_run_ids
from pipeline.cluster.waiting import in_slices

RECORD_SECONDS = 5.0
"""Time limit for a local server to write the task runs that it received before it is stopped."""

_IDS_PER_REQUEST = 200
"""The largest number of task runs that the API returns at once."""


@contextmanager
def prefect_server(home: Path | None = None) -> Iterator[str]:
    """Run the block with a Prefect server and settings that point to it; yield its API's URL.

    `home` is Prefect's home; None for the one that Prefect's settings name.

    Raises ServerError if no server answers.
    """
    with starting_server(home) as server, server.ready() as url:
        yield url


@contextmanager
def starting_server(home: Path | None = None, api: str | None = None) -> Iterator["Server"]:
    """Find or start a server in the background; leave it after the block.

    `api` is the URL of an API to use if Prefect's settings name none.
    """
    server = Server(home, api)
    try:
        with before_sudden_end(server.end):
            yield server
    finally:
        server.close()


class Server:
    """A command's handle on a Prefect server, which is found or started in the background."""

    def __init__(self, home: Path | None = None, api: str | None = None) -> None:
        settings = get_current_settings()
        self._home = (home or settings.home).expanduser().absolute()
        self._api = settings.api.url or api
        self._local = None if self._api else LocalServer(self._home)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="prefect-server")
        context = contextvars.copy_context()  # the caller's temporary settings apply there too
        self._url: Future[str] = self._executor.submit(context.run, self._find)

    @property
    def is_local(self) -> bool:
        """Whether this is the local server, which ends with its last user."""
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
                # Background threads send task runs and logs. Without this they would still
                # be sending when the server stops.
                EventsWorker.drain_all(timeout=ANSWER_SECONDS)
                APILogWorker.drain_all(timeout=ANSWER_SECONDS)

    def end(self) -> None:
        """Tell a local server without other users to stop, and do not wait until it has."""
        if self._local:
            self._local.end()

    def close(self) -> None:
        """Leave the server; a local server without other users stops."""
        if self._local:
            self._local.abandon_start()
        self._executor.shutdown(wait=True, cancel_futures=True)
        if self._local:
            self._local.leave(before_stop=self._await_records)

    def _await_records(self, url: str) -> None:
        """Wait until the API returns the final states of this process's task runs.

        Task runs reach the server as events, which wait in its memory until a service writes them
        to the database. A server that stops drops the events that still wait.
        """
        with _environment(), temporary_settings(_flow_settings(url, self._home)):
            await_final_states(take_task_run_ids())

    def _find(self) -> str:
        if self._local:
            return self._local.join()
        with temporary_settings({"api.url": self._api}):
            return _check_named_server()


def await_final_states(task_runs: Sequence[str]) -> None:
    """Wait until the API knows a final state of each task run, for at most `RECORD_SECONDS`."""
    deadline = time.monotonic() + RECORD_SECONDS
    with get_client(sync_client=True, httpx_settings={"timeout": ANSWER_SECONDS}) as client:
        for first in range(0, len(task_runs), _IDS_PER_REQUEST):
            pending = {UUID(each) for each in task_runs[first : first + _IDS_PER_REQUEST]}
            while pending and time.monotonic() < deadline:
                wanted = TaskRunFilter(id=TaskRunFilterId(any_=[*pending]))
                known = client.read_task_runs(task_run_filter=wanted)
                pending -= {each.id for each in known if each.state and each.state.is_final()}
                time.sleep(POLL_SECONDS)


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
