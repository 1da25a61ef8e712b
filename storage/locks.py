"""Locks on files that the kernel keeps (`flock`).

They end with the process that holds them, however it goes, so that none can be stale.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def open_lock(path: Path) -> int:
    """Open the file to lock, made if it is not there, and return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def lock_shared(descriptor: int) -> None:
    """Take a lock that others may share, waiting for one who has it alone."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def try_lock(descriptor: int) -> bool:
    """Take the exclusive lock if nobody else holds any."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_lock_path(path: Path) -> int | None:
    """Lock a file that its holder removes, and return its descriptor, or None if it is locked.

    A lock on a file that was removed after it was opened protects nothing. So the lock counts only
    if the path still names the locked file.
    """
    while True:
        descriptor = open_lock(path)
        if not try_lock(descriptor):
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds a lock on the file, if it is there."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        release(descriptor)


def release(descriptor: int) -> None:
    """Give the lock back and close the file."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child forked just now has the descriptor too
    os.close(descriptor)
