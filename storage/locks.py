"""File locks of the operating system (`flock`).

The operating system releases a lock when its process ends, even by a crash, so no lock can be
stale.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def open_lock(path: Path) -> int:
    """Open the file to lock, creating it if it does not exist, and return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def lock_shared(descriptor: int) -> None:
    """Take a shared lock; wait while another process has the exclusive lock."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def try_lock_shared(descriptor: int) -> bool:
    """Take a shared lock and return True, or return False if another has the exclusive one."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_lock(descriptor: int) -> bool:
    """Take the exclusive lock and return True, or return False if another process has a lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_lock_path(path: Path) -> int | None:
    """Lock the file at `path` and return its descriptor, or None if it is already locked.

    The holder of the lock may remove the file. A lock on a removed file protects nothing. If
    the path no longer refers to the locked file, this function therefore tries again.
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
    """Return whether the file exists and a process has a lock on it."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        release(descriptor)


def release(descriptor: int) -> None:
    """Release the lock and close the file."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough: a forked child may share it
    os.close(descriptor)
