"""The Prefect server that a command runs under.

    with starting_server() as server:   # returns at once
        ...                             # start a cluster meanwhile
        with server.ready() as url:     # waits; Prefect's settings hold inside
            train()

`prefect_server()` is both in one. Where Prefect's settings name an API
(`PREFECT_API_URL`, or the active profile's), that one is used and nothing is
started. Else all commands of one user share one local server, which keeps its
database in Prefect's home, so that runs can be looked at later:

    <home>/hinge/server-<Prefect's version>.json    where it is; locked while it is alive
    <home>/hinge/server-<Prefect's version>.users   a shared lock for each command under it
    <home>/hinge/server-<Prefect's version>.mutex   held to start it, to join and to leave
    <home>/hinge/server-<Prefect's version>.log     its output

A command that leaves and is the last (the users' lock becomes its own) stops
the server. Locks are the kernel's (`flock`) and end with the process that holds
them, so nothing here can be stale: a command killed with SIGKILL is no longer a
user, and the server it leaves behind is the next command's; a state file that
nobody has locked says nothing, whatever is running under the number in it.
"""

import contextvars
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prefect
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import get_current_settings, temporary_settings

from flows.errors import ServerError

START_SECONDS = 120.0
"""How long a server may take to start: 3 s, 6 s with a fresh database, on an idle machine."""

STOP_SECONDS = 20.0
"""How long a server may take to stop before it is killed; 0.2 s when nobody is connected."""

ANSWER_SECONDS = 5.0
"""How long a server that is up may take to answer."""

POLL_SECONDS = 0.02


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
        self._local = None if settings.api.url else _LocalServer(self._home)
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


class _LocalServer:
    """The server that the commands of one Prefect home share, as one of them sees it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        directory = home / "hinge"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        stem = f"server-{prefect.__version__}"
        self._state = directory / f"{stem}.json"
        self._log = directory / f"{stem}.log"
        self._mutex = directory / f"{stem}.mutex"
        self._users = _open(directory / f"{stem}.users")
        self._abandoned = threading.Event()

    def join(self) -> str:
        """Become a user of the server, start it if it is not there, and return its API's URL."""
        with self._exclusively():
            if self._is_there() and not self._answers() and _try_lock(self._users):
                self._stop()  # hung, and nobody's
            fcntl.flock(self._users, fcntl.LOCK_SH)
            if not self._is_there():
                self._launch()
            return self._await_url()

    def abandon_start(self) -> None:
        """Have a `join` that still waits give up."""
        self._abandoned.set()

    def leave(self) -> None:
        """Stop being a user, and stop the server if there is no other."""
        self._abandoned.clear()
        try:
            with self._exclusively():
                if _try_lock(self._users):
                    self._stop()
        finally:
            fcntl.flock(self._users, fcntl.LOCK_UN)  # a forked child may share the descriptor
            os.close(self._users)

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Hold the mutex: who joins, starts, leaves or stops does so alone."""
        mutex = _open(self._mutex)
        try:
            self._until(lambda: _try_lock(mutex), START_SECONDS, "another command to let go of it")
            yield
        finally:
            fcntl.flock(mutex, fcntl.LOCK_UN)
            os.close(mutex)

    def _launch(self) -> None:
        """Start the server's process, out of reach of this terminal's signals."""
        with self._log.open("wb") as log:
            subprocess.run(  # it returns when the process has locked its state file and forked
                [sys.executable, "-m", "flows.server_process", str(self._state)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_server_environment(self._home),
                start_new_session=True,
                check=False,
            )

    def _await_url(self) -> str:
        self._until(
            lambda: self._read().url is not None or not self._is_there(),
            START_SECONDS,
            "it to answer",
        )
        url = self._read().url
        if url is None or not self._answers():
            raise ServerError(f"no Prefect server: {_last_line(self._log)} (see {self._log})")
        return url

    def _stop(self) -> None:
        """Ask the server to write what it has and end; kill it if it does not."""
        for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, ANSWER_SECONDS)):
            pid = self._read().pid
            if pid is None or not self._is_there():
                return
            os.kill(pid, number)
            deadline = time.monotonic() + seconds
            while self._is_there() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)

    def _is_there(self) -> bool:
        """Whether a server is alive, answering or not: only a live one holds the lock."""
        state = _open(self._state)
        try:
            return not _try_lock(state)
        finally:
            fcntl.flock(state, fcntl.LOCK_UN)  # a child forked just now has the descriptor too
            os.close(state)

    def _answers(self) -> bool:
        """Whether the server answers, if it has come as far as to have an address."""
        url = self._read().url
        if url is None:
            return self._is_there()
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{url}/health", timeout=ANSWER_SECONDS) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _read(self) -> "_State":
        try:
            return _State(**json.loads(self._state.read_bytes()))
        except (OSError, ValueError, TypeError):  # not yet written, or not by a server
            return _State()

    def _until(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        """Poll `done`, for so long, unless the start is abandoned."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline or self._abandoned.is_set():
                raise ServerError(f"no Prefect server: gave up waiting for {what} ({self._mutex})")
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class _State:
    """What a server's process says of itself; of one that is not locked, nothing holds."""

    pid: int | None = None
    url: str | None = None


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


def _server_environment(home: Path) -> dict[str, str]:
    """The server's environment; where the user's own says otherwise, that holds."""
    return {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",  # 1.5 s; nothing here uses blocks
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",  # 8 ms a task, not 32
        "PREFECT_SERVER_UI_API_URL": "/api",  # or the page calls the default port
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui"),  # or it writes to site-packages
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        **os.environ,
        "PREFECT_HOME": str(home),
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


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _try_lock(descriptor: int) -> bool:
    """Take the exclusive lock if nobody else holds any; closing the file gives it back."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it ended without a word"
