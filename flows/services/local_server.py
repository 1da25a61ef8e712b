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
hangs is signalled, or that of `hinge serve` at its end, and never another process.

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

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TypeVar

from flows.services import server_start
from flows.services.errors import ServerError
from flows.services.process_identity import ProcessIdentity
from flows.services.server_files import ServerFiles, ServerState
from flows.services.server_start import STOP_SECONDS
from pipeline.cluster.ports import is_free
from storage.locks import open_lock, release, try_lock, try_lock_shared

T = TypeVar("T")

START_SECONDS = 300.0
"""Time limit for a start, which takes 8 s of processor time, or 18 s with a new database."""

IDLE_VARIABLE = "HINGE_SERVER_IDLE_SECONDS"
"""The environment variable with the time in seconds that an unused server stays. With 0, the last
command ends the server and waits for its end."""

_IDLE_SECONDS = 60.0
"""The default."""

_RECORD_SECONDS = 2.0
"""The least time. Prefect's server writes the task runs that it has received once a second."""

_END_SECONDS = 3 * STOP_SECONDS
"""Time limit for the end of a server that has begun to end; then it is killed."""

POLL_SECONDS = 0.05

USUAL_PORT = 4200
"""The port that Prefect's documentation and its page assume."""

_LAUNCHES = 3
"""How often a start is tried if another process takes the chosen port first."""


class LocalServer:
    """One command's handle on the server that the commands of one home and host share."""

    def __init__(self, home: Path) -> None:
        self._home, self._files = home, ServerFiles(home)
        self._files.users.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._users = open_lock(self._files.users)
        self._launched: subprocess.Popen[bytes] | None = None
        self._port = USUAL_PORT
        self._abandoned = threading.Event()

    def launch(self) -> None:
        """Start the server unless there is one, and return at once; keep it for `join`."""
        mutex = open_lock(self._files.mutex)
        try:
            if try_lock_shared(self._users) and try_lock(mutex) and not self._files.is_there():
                self._launch()
        finally:
            release(mutex)

    def join(self) -> str:
        """Become a user of the server, starting it if necessary, and return its API's URL.

        Raises ServerError if the server does not start.
        """
        with self._exclusively():
            if self._launched is None and self._files.is_there() and not self._files.url():
                self._end_if_unused()
            self._become_user()
            launches = 0
            while True:
                if not self._files.is_there():
                    self._launch()
                    launches += 1
                if url := self._await_url():
                    self._confirm_use()
                    return url
                port_was_taken = self._launched is None or not is_free(self._port)
                if not port_was_taken or launches == _LAUNCHES:
                    break
        raise ServerError(
            f"no Prefect server: {self._files.last_line_of_log()} (see {self._files.log})"
        )

    def abandon_start(self) -> None:
        """Make a waiting `join` give up."""
        self._abandoned.set()

    def leave(self) -> None:
        """Stop being a user. A server without users ends by itself after `idle_seconds`."""
        release(self._users)
        self._close_pipe()

    def end_in_order(self) -> None:
        """Let the server write what it has received, and end it if it has no other users."""
        if not try_lock(self._users):
            return
        try_lock_shared(self._users)  # a command that starts meanwhile uses the server
        if self._files.url():
            time.sleep(_RECORD_SECONDS)
        self._end_if_unused()

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Hold the mutex, so that only one command at a time starts or joins."""
        mutex = open_lock(self._files.mutex)
        try:
            self._until(
                lambda: try_lock(mutex),
                START_SECONDS,
                f"another command to release {self._files.mutex}",
            )
            yield
        finally:
            release(mutex)

    def _become_user(self) -> None:
        """Take the shared lock of the users. A server that is ending holds it until its end."""
        started, what = time.monotonic(), "an unused server to end"
        while not try_lock_shared(self._users):
            self._give_up_if_abandoned(what)
            waited = time.monotonic() - started
            if waited > START_SECONDS:
                self._give_up(what)
            if waited > _END_SECONDS and (process := self._files.read().process):
                process.send_signal(signal.SIGKILL)  # it hangs
            time.sleep(POLL_SECONDS)

    def _launch(self) -> None:
        """Start the server in a new session, which this terminal's signals do not reach."""
        idle = max(_RECORD_SECONDS, idle_seconds())
        state = open_lock(self._files.state)
        try:
            if not try_lock(state):  # another process took the lock meanwhile: await its address
                return
            os.ftruncate(state, 0)
            self._close_pipe()  # of a server that could not start
            self._port = _free_port(self._port)
            with self._files.log.open("wb") as log:
                self._launched = process = subprocess.Popen(
                    # -P: do not import a folder `prefect` of the current directory
                    (
                        *(sys.executable, "-P", "-m", server_start.__name__),
                        *(str(self._files.users), str(idle), "server", "start"),
                        *("--host", "127.0.0.1", "--port", str(self._port)),
                        *("--log-level", "WARNING"),
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
                ServerState(identity, f"http://127.0.0.1:{self._port}/api").write(state)
        finally:
            os.close(state)  # not `release`: the process would lose the lock

    def _await_url(self) -> str | None:
        """Wait until the server answers, and return its API's URL, or None if it has ended."""
        found = self._until(
            lambda: self._files.url() or not self._files.is_there(),
            START_SECONDS,
            f"the process that holds the lock on {self._files.state} to answer",
        )
        return found if isinstance(found, str) else None

    def _confirm_use(self) -> None:
        """Tell a server that this process started that it is used, so that it stays for a while."""
        if self._launched and self._launched.stdin:
            with suppress(OSError):  # the server has just ended
                self._launched.stdin.write(b"\n")

    def _close_pipe(self) -> None:
        if self._launched and self._launched.stdin:
            self._launched.stdin.close()

    def _end_if_unused(self) -> None:
        """Unless other commands use the server, ask it to end; kill it if it does not."""
        if not try_lock(self._users):
            return
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            process = self._files.read().process
            if process is None or not self._files.is_there():
                return
            process.send_signal(number)
            deadline = time.monotonic() + STOP_SECONDS
            while self._files.is_there() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)

    def _until(self, done: Callable[[], T], seconds: float, what: str) -> T:
        """Poll `done` until its value is true, and return the value.

        `what` names the event in the error message.

        Raises ServerError after `seconds`, or when the start is abandoned.
        """
        deadline = time.monotonic() + seconds
        while not (value := done()):
            self._give_up_if_abandoned(what)
            if time.monotonic() > deadline:
                self._give_up(what)
            time.sleep(POLL_SECONDS)
        return value

    def _give_up_if_abandoned(self, what: str) -> None:
        if self._abandoned.is_set():
            self._give_up(what)

    def _give_up(self, what: str) -> NoReturn:
        raise ServerError(f"no Prefect server: gave up waiting for {what}")


def idle_seconds() -> float:
    """Return the time in seconds that an unused server stays.

    Raises ServerError if the environment variable for it is not a number.
    """
    given = os.environ.get(IDLE_VARIABLE) or str(_IDLE_SECONDS)
    try:
        return float(given)
    except ValueError:
        raise ServerError(f"{IDLE_VARIABLE} is {given!r}, not a number of seconds") from None


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
