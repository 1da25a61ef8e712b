"""The local Prefect server, shared by all commands of one user on one host.

It is used if Prefect's settings do not name an API. Its database stays in Prefect's home, so that
runs can be viewed later. Its other files are

    <home>/hinge/server-<Prefect's version>-<host>.json    its state; locked while it is alive
    <home>/hinge/server-<Prefect's version>-<host>.users   a shared lock for each command using it
    <home>/hinge/server-<Prefect's version>-<host>.mutex   locked to start or join it
    <home>/hinge/server-<Prefect's version>-<host>.log     its output

The server ends by itself when the users' file has been unlocked for a minute (see
`flows.services.server_start`), so a command that starts soon after another finds it running. The
operating system releases a process's locks when the process ends, so no lock can be stale: a
command killed with SIGKILL is no longer a user. A state file is valid only while it is locked and
the exact process that it names is alive (see `flows.services.process_identity`). Only a server that
hangs is signalled, and never another process.

The server is Prefect's own, started by its documented command `prefect server start`. The command
that starts it opens and locks the state file, writes the process and the URL into it, and passes
the locked descriptor on, so the process holds the lock from its first to its last moment. The
server gets port 4200, Prefect's usual one, if it is free, otherwise any free port. It counts as
started when it answers and the process that listens on the port is the one in the state file.

Several hosts may share one home. Each host has its own server and files, because process ids and
loopback addresses have a different meaning on another host. <host> is a digest of the machine's
name and boot id and of the process's namespaces. A container is therefore a separate host, and a
machine becomes a new host when it boots; the few small files of earlier hosts stay. All these
servers write to the same database:

* On one machine (for example in several containers) this is safe: SQLite's locks work there, and
  every server shows the runs of all hosts.
* On several machines at the same time (a home on a network filesystem) it is not safe: Prefect
  uses SQLite's write-ahead log, which works only on one machine. Set `PREFECT_HOME` to a separate
  directory on each machine, or `PREFECT_API_URL` to one server for all of them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from flows.services import server_start
from flows.services.errors import ServerError
from flows.services.process_identity import HostIdentity, ProcessIdentity
from flows.services.server_start import STOP_SECONDS
from pipeline.cluster.ports import is_free
from storage.locks import open_lock, release, try_lock, try_lock_shared

START_SECONDS = 300.0
"""Time limit for a start, which takes 8 s of processor time, or 18 s with a new database."""

ANSWER_SECONDS = 5.0
"""Time limit for the answer of a running server."""

POLL_SECONDS = 0.05

USUAL_PORT = 4200
"""The port that Prefect's documentation and its page assume."""

_LAUNCHES = 3
"""How often a start is tried if another process takes the chosen port first."""


class LocalServer:
    """One command's handle on the server that the commands of one home and host share."""

    def __init__(self, home: Path) -> None:
        self._home = home
        directory = home / "hinge"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        stem = f"server-{version('prefect')}-{HostIdentity.current().digest}"
        self._state = directory / f"{stem}.json"
        self._log = directory / f"{stem}.log"
        self._mutex = directory / f"{stem}.mutex"
        self._users_file = directory / f"{stem}.users"
        self._users = open_lock(self._users_file)
        self._launched: subprocess.Popen[bytes] | None = None
        self._abandoned = threading.Event()

    def url(self) -> str | None:
        """Return the URL of the API of a running server that answers, or None."""
        return self._read().url if self._answers() else None

    def launch(self) -> None:
        """Start the server if there is none, and return at once. `join` waits until it answers."""
        mutex = open_lock(self._mutex)
        try:
            if try_lock(mutex) and not self._is_there() and try_lock_shared(self._users):
                self._launch(_free_port(USUAL_PORT))
        finally:
            release(mutex)

    def join(self) -> str:
        """Become a user of the server, starting it if necessary, and return its API's URL."""
        with self._exclusively():
            if self._launched is None and self._is_there() and not self._answers():
                self._end_unless_used()
            self._until(
                lambda: try_lock_shared(self._users), START_SECONDS, "an unused server to end"
            )
            port, launches = _free_port(USUAL_PORT), 0
            while True:
                if not self._is_there():
                    self._launch(port)
                    launches += 1
                if url := self._await_url():
                    self._confirm_use()
                    return url
                taken = port != (port := _free_port(port))
                if not taken or launches == _LAUNCHES:
                    break
        raise ServerError(f"no Prefect server: {_last_line(self._log)} (see {self._log})")

    def abandon_start(self) -> None:
        """Make a waiting `join` give up."""
        self._abandoned.set()

    def leave(self) -> None:
        """Stop being a user. A server without users ends by itself."""
        release(self._users)
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._launched and self._launched.stdin:
            self._launched.stdin.close()

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Hold the mutex, so that only one command at a time starts or joins."""
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

    def _launch(self, port: int) -> None:
        """Start the server in a new session, which this terminal's signals do not reach."""
        state = open_lock(self._state)
        try:
            if not try_lock(state):  # another process took the lock meanwhile: await its address
                return
            os.ftruncate(state, 0)
            self._close_pipe()  # of a server that could not start
            with self._log.open("wb") as log:
                self._launched = process = subprocess.Popen(
                    # -P: do not import a folder `prefect` of the current directory
                    (
                        *(sys.executable, "-P", "-m", server_start.__name__),
                        *(str(self._users_file), "server", "start"),
                        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING"),
                    ),
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=_server_environment(self._home),
                    pass_fds=[state],  # the process holds the lock as long as it lives
                    start_new_session=True,
                )
            identity = ProcessIdentity.of(process.pid)
            # Without this, a server that ends before this command would stay as a zombie.
            threading.Thread(target=process.wait, name="prefect-server-end", daemon=True).start()
            if identity is not None:
                _State(identity, f"http://127.0.0.1:{port}/api").write(state)
        finally:
            os.close(state)  # not `release`: the process would lose the lock

    def _await_url(self) -> str | None:
        """Wait until the server answers, and return its API's URL, or None if it has ended."""
        self._until(
            lambda: self._answers() or not self._is_there(),
            START_SECONDS,
            f"the process that holds the lock on {self._state} to answer",
        )
        return self.url()

    def _confirm_use(self) -> None:
        """Tell a server that this process started that it is used, so that it stays for a while."""
        if self._launched and self._launched.stdin:
            with suppress(OSError):  # the server has just ended
                self._launched.stdin.write(b"\n")

    def _end_unless_used(self) -> None:
        """End a server that hangs: ask it to end, and kill it if it does not."""
        if not try_lock(self._users):
            return
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            process = self._read().process
            if process is None or not self._is_there():
                return
            process.send_signal(number)
            deadline = time.monotonic() + STOP_SECONDS
            while self._is_there() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)

    def _is_there(self) -> bool:
        """Return whether a live server, which may not answer, holds the lock on the state file."""
        state = open_lock(self._state)
        try:
            return not try_lock(state)
        finally:
            release(state)

    def _answers(self) -> bool:
        """Return whether the process in the state file listens on its port and answers there."""
        state = self._read()
        if state.process is None or state.url is None:
            return False
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{state.url}/health", timeout=ANSWER_SECONDS) as response:
                return response.status == 200 and _listens(state.process, state.url)
        except OSError:
            return False

    def _read(self) -> "_State":
        """Return the state file's content, or an empty state if its process is not alive here."""
        try:
            state = _State.from_json(json.loads(self._state.read_bytes()))
        except (OSError, ValueError):  # not written yet, or not written by a server
            return _State()
        return state if state.process and state.process.is_alive() else _State()

    def _until(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        """Poll `done` until it is true; `what` names the event in the error message.

        Raises ServerError after `seconds`, or when the start is abandoned.
        """
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline or self._abandoned.is_set():
                raise ServerError(f"no Prefect server: gave up waiting for {what}")
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class _State:
    """The process of a server, and the URL of its API."""

    process: ProcessIdentity | None = None
    url: str | None = None

    def write(self, descriptor: int) -> None:
        """Write the state to an empty file."""
        assert self.process is not None
        os.pwrite(
            descriptor,
            json.dumps({"process": self.process.to_json(), "url": self.url}).encode(),
            0,
        )

    @classmethod
    def from_json(cls, value: object) -> "_State":
        """Return the state that `write` wrote as `value`.

        Raises ValueError if `value` is not such a state.
        """
        match value:
            case {"process": process, **rest}:
                url = rest.get("url")
                return cls(
                    ProcessIdentity.from_json(process), url if isinstance(url, str) else None
                )
        raise ValueError(f"not the state of a server: {value!r}")


def _server_environment(home: Path) -> dict[str, str]:
    """Return the server's environment; the user's variables override these settings."""
    return {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",  # saves 1.5 s; blocks are unused
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",  # 8 ms per task, not 32
        # in whole seconds: Prefect 3.8.8 rounds down, and 0 is a busy loop
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_UI_API_URL": "/api",  # else the page calls the default port
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui"),  # else site-packages
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        **os.environ,
        "PREFECT_HOME": str(home),
    }


def _free_port(wanted: int) -> int:
    """Return the port `wanted` of the loopback interface if it is free, else any free port."""
    if is_free(wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(process: ProcessIdentity, url: str) -> bool:
    """Return whether this process, and no other, listens on the port of a URL."""
    port = urllib.parse.urlsplit(url).port
    try:
        connections = psutil.Process(process.pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(
        each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections
    )


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it ended and printed nothing"
