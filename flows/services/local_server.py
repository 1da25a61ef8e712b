"""The Prefect server that all commands of one user on one host share where none is named.

Its database stays in Prefect's home, so that runs can be looked at later. Beside it are

    <home>/hinge/server-<Prefect's version>-<host>.json    where it is; locked while it is alive
    <home>/hinge/server-<Prefect's version>-<host>.users   a shared lock for each command under it
    <home>/hinge/server-<Prefect's version>-<host>.mutex   held to start it, to join and to leave
    <home>/hinge/server-<Prefect's version>-<host>.log     its output

A command that leaves and is the last (the users' lock becomes its own) stops
the server. The operating system releases a process's locks when it ends, so
nothing here can be stale: a command killed with SIGKILL is no longer a user, and
the next command takes over the server it leaves behind. A state file is believed
only while it is locked and while the very process that it names is alive
(`flows.services.process_identity`); no other process is ever signalled.

Several hosts may share one home. Each has a server and files of its own, because
process ids and loopback addresses mean something else on another host. <host> is
a digest of the machine's name and boot and of the process's namespaces, so a
container is a host of its own, and a machine becomes a new one when it boots. The
few small files of earlier ones stay. All these servers write to the one database:

* On one machine (several containers, say) that is safe: SQLite's locks hold there,
  and every server shows the runs of all.
* On several machines at the same time (a home on a network filesystem) it is not:
  Prefect uses SQLite's write-ahead log, which works on one machine only. Set
  `PREFECT_HOME` to a directory of each machine's own, or `PREFECT_API_URL` to one
  server for all of them.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import prefect

from flows.services.errors import ServerError
from flows.services.process_identity import HostIdentity, ProcessIdentity
from storage.locks import lock_shared, open_lock, release, try_lock

START_SECONDS = 120.0
"""How long a server may take to start: 3 s, 6 s with a fresh database, on an idle machine."""

STOP_SECONDS = 20.0
"""How long a server may take to stop before it is killed; 0.2 s when nobody is connected."""

ANSWER_SECONDS = 5.0
"""How long a server that is up may take to answer."""

POLL_SECONDS = 0.02


class LocalServer:
    """The server that the commands of one home and host share, as one of them sees it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        directory = home / "hinge"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        stem = f"server-{prefect.__version__}-{HostIdentity.current().digest}"
        self._state = directory / f"{stem}.json"
        self._log = directory / f"{stem}.log"
        self._mutex = directory / f"{stem}.mutex"
        self._users = open_lock(directory / f"{stem}.users")
        self._abandoned = threading.Event()

    def join(self) -> str:
        """Become a user of the server, start it if it is not there, and return its API's URL."""
        with self._exclusively():
            if self._is_there() and not self._answers() and try_lock(self._users):
                self._stop()  # hung, and nobody's
            lock_shared(self._users)
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
                if try_lock(self._users):
                    self._stop()
        finally:
            release(self._users)

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Hold the mutex: who joins, starts, leaves or stops does so alone."""
        mutex = open_lock(self._mutex)
        try:
            self._until(
                lambda: try_lock(mutex),
                START_SECONDS,
                f"another command to release {self._mutex}",
            )
            yield
        finally:
            release(mutex)

    def _launch(self) -> None:
        """Start the server's process, out of reach of this terminal's signals."""
        with self._log.open("wb") as log:
            subprocess.run(  # it returns when the process has locked its state file and forked
                # -P: a folder `flows` in the current directory is not ours
                [sys.executable, "-P", "-m", "flows.services.server_process", str(self._state)],
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
            f"the process that holds {self._state} to answer",
        )
        url = self._read().url
        if url is None or not self._answers():
            raise ServerError(f"no Prefect server: {_last_line(self._log)} (see {self._log})")
        return url

    def _stop(self) -> None:
        """Ask the server to write what it has and end; kill it if it does not."""
        for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, ANSWER_SECONDS)):
            process = self._read().process
            if process is None or not self._is_there():
                return
            process.send_signal(number)
            deadline = time.monotonic() + seconds
            while self._is_there() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)

    def _is_there(self) -> bool:
        """Whether a server is alive, answering or not: only a live one holds the lock."""
        state = open_lock(self._state)
        try:
            return not try_lock(state)
        finally:
            release(state)

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
        """What the state file says, if a live process of this host says it."""
        try:
            state = _State.from_json(json.loads(self._state.read_bytes()))
        except (OSError, ValueError):  # not yet written, or not by a server
            return _State()
        return state if state.process and state.process.is_alive() else _State()

    def _until(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        """Poll `done`, for so long, unless the start is abandoned."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline or self._abandoned.is_set():
                raise ServerError(f"no Prefect server: gave up waiting for {what}")
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class _State:
    """What a server's process says of itself."""

    process: ProcessIdentity | None = None
    url: str | None = None

    @classmethod
    def from_json(cls, value: object) -> "_State":
        """Return the state that a server wrote as `value`; raise ValueError if none did."""
        match value:
            case {"process": process, **rest}:
                url = rest.get("url")
                return cls(
                    ProcessIdentity.from_json(process), url if isinstance(url, str) else None
                )
        raise ValueError(f"not the state of a server: {value!r}")


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


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it ended without a word"
