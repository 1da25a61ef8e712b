"""The process of the local Prefect server, which ends when nobody uses it any more.

    python -P -m flows.services.server_start USERS ARGUMENTS

runs `prefect ARGUMENTS`, Prefect's own command, with two additions:

* A thread ends the process when no command has held a lock on the file USERS for `idle_seconds`.
  Standard input is a pipe from the command that started the server. That command writes a byte
  when it uses the server. If it ends before that, and no other command uses the server at that
  time, the server ends at once.
* The garbage collector runs rarely. Prefect's server creates a million objects while it imports its
  modules, and nearly all of them stay. With Python's default threshold, looking at them over and
  over takes a fifth of the processor time of the start.
"""

import gc
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from threading import Thread

from storage.locks import is_locked, open_lock, try_lock

IDLE_VARIABLE = "HINGE_SERVER_IDLE_SECONDS"
"""The environment variable with the time in seconds that an unused server stays."""

IDLE_SECONDS = 60.0
"""The default. A command that starts within this time finds the server running."""

_RECORD_SECONDS = 3.0
"""The least time. Prefect's server writes the task runs that it has received once a second."""

STOP_SECONDS = 5.0
"""Time limit for the end, which takes 0.2 s, and again for one that does not wait for connections
to close; then the process is ended at once."""

_LOOK_SECONDS = 0.5
"""Time between two looks for users."""

_NEW_OBJECTS = 100_000
"""The number of new objects between two garbage collections."""


def idle_seconds() -> float:
    """Return the time that an unused server stays, in seconds."""
    return max(_RECORD_SECONDS, float(os.environ.get(IDLE_VARIABLE, IDLE_SECONDS)))


def end_when_unused(users: Path) -> None:
    """Wait until nobody uses the server, then end this process.

    The users' file stays locked until the end, so a command that starts meanwhile waits for the end
    and then starts a new server.
    """
    was_used = os.read(sys.stdin.fileno(), 1) != b""
    _lock_when_unused(users, idle_seconds() if was_used else 0.0)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
        time.sleep(STOP_SECONDS)
    os._exit(1)


def _lock_when_unused(users: Path, idle: float) -> None:
    """Lock the file for as long as this process lives, once it was unlocked for `idle` seconds."""
    last_use = time.monotonic()
    while True:
        if is_locked(users):
            last_use, idle = time.monotonic(), idle_seconds()
        elif time.monotonic() - last_use >= idle:
            lock = open_lock(users)
            if try_lock(lock):
                return
            os.close(lock)
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    gc.set_threshold(_NEW_OBJECTS)
    users = Path(sys.argv.pop(1))
    Thread(target=end_when_unused, args=[users], name="users", daemon=True).start()
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
