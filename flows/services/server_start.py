"""The process of the local Prefect server, which ends some time after its last use.

    python -P -m flows.services.server_start USERS SECONDS ARGUMENTS

runs `prefect ARGUMENTS`, Prefect's own command, with two additions:

* A thread ends the process when no command has held a lock on the file USERS for SECONDS.
  Standard input is a pipe from the command that started the server. That command writes a byte
  when it uses the server. If it ends before that, and no other command uses the server at that
  time, the server ends at once.
* The garbage collector runs rarely. Prefect's server creates a million objects while it imports its
  modules, and nearly all of them stay. With Python's default threshold, looking at them over and
  over takes a fifth of the processor time of the start.
"""

import gc
import math
import os
import runpy
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

from storage.locks import is_locked, open_lock, try_lock

STOP_SECONDS = 5.0
"""Time limit for each of two signals. The server takes 0.2 s to end after the first one. If open
connections keep it, it ends after the second one. After that the process ends at once."""

_LOOK_SECONDS = 0.5
"""Time between two looks for users."""

_NEW_OBJECTS = 100_000
"""The number of new objects between two garbage collections."""


def end_when_unused(users: Path, idle: float) -> None:
    """End this process when no command has used the server for `idle` seconds.

    The users' file stays locked until the end, so a command that starts meanwhile waits for the end
    and then starts a new server.
    """
    was_used = os.read(sys.stdin.fileno(), 1) != b""
    with suppress(OSError):  # Prefect's home has been removed, for example
        _lock_when_unused(users, idle, since=time.monotonic() if was_used else -math.inf)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
        time.sleep(STOP_SECONDS)
    os._exit(1)


def _lock_when_unused(users: Path, idle: float, since: float) -> None:
    """Lock the file for as long as this process lives, once it was unlocked for `idle` seconds.

    `since` is the value of `time.monotonic()` at the last use.
    """
    while True:
        if is_locked(users):
            since = time.monotonic()
        elif time.monotonic() - since >= idle:
            lock = open_lock(users)
            if try_lock(lock):
                return
            os.close(lock)
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    gc.set_threshold(_NEW_OBJECTS)
    users, idle = Path(sys.argv.pop(1)), float(sys.argv.pop(1))
    Thread(target=end_when_unused, args=[users, idle], name="users", daemon=True).start()
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
