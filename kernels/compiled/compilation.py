"""Compilation of the kernels by Numba, with a cache that is valid until a kernel source changes.

Numba itself checks only the file that defines a function. Kernels inline functions and
constants of other modules, so after an edit there Numba alone would load stale machine code.
This module therefore puts a digest of every source file of the package into the name of the
cache directory. An edit anywhere selects a new, empty directory.

The directory is created in the first of these places that is writable:

1. `numba.config.CACHE_DIR` (the variable NUMBA_CACHE_DIR) if it is set, else `__pycache__` of
   the package;
2. the user's cache directory, on Linux `$XDG_CACHE_HOME/hinge` or `~/.cache/hinge`.

If neither is writable, every process compiles the kernels that it calls, and the command prints
one notice.
"""

import hashlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np

import kernels

UNUSED_DAYS = 30
"""Days without use after which a cache directory is deleted."""

_PACKAGE = Path(kernels.__file__).parent
_PREFIX = "hinge-kernels-"
_LOCK = threading.Lock()


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function at its first call, cache the result, and release the interpreter lock.

    `options` are those of `numba.njit`, for example `@cached_njit(error_model="numpy")`.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        # Workers import kernels from several threads, which share Numba's settings.
        with _LOCK:
            directory = cache_directory()
            if directory is None:
                return numba.njit(nogil=True, **options)(function)
            with _numba_caches_in(directory):
                return numba.njit(cache=True, nogil=True, **options)(function)

    return decorate


@contextmanager
def _numba_caches_in(directory: Path) -> Iterator[None]:
    """Set Numba's cache directory for the functions that are decorated in the `with` block.

    Numba chooses the cache directory of a function when the function is decorated. The settings
    are restored afterwards, so other functions of the process keep their usual cache.
    """
    # CACHE_LOCATOR_CLASSES could name classes that ignore CACHE_DIR.
    settings = {"CACHE_DIR": str(directory), "CACHE_LOCATOR_CLASSES": ""}
    kept = {name: getattr(numba.config, name, "") for name in settings}
    try:
        for name, value in settings.items():
            setattr(numba.config, name, value)
        yield
    finally:
        for name, value in kept.items():
            setattr(numba.config, name, value)


@cache
def cache_directory() -> Path | None:
    """Return the cache directory for the current sources.

    If no place is writable, print a notice and return None.
    """
    chosen: str = getattr(numba.config, "CACHE_DIR", "")
    roots = [Path(chosen or _PACKAGE / "__pycache__").absolute()]
    if directory := _open_directory(roots[0]):
        return directory
    if user_root := _user_root():
        roots.append(user_root)
        if directory := _open_directory(user_root):
            return directory
    # Only the main process prints. The name identifies it: while a worker imports the main module,
    # `parent_process()` is still None.
    if multiprocessing.current_process().name == "MainProcess":
        print(
            "hinge: kernels are compiled again in every process, because their cache cannot be "
            f"written to {' or '.join(map(str, roots))}; set NUMBA_CACHE_DIR to a writable "
            "directory",
            file=sys.stderr,
        )
    return None


def _user_root() -> Path | None:
    """Return the user's cache directory, or None if there is no home directory."""
    from platformdirs import user_cache_path  # noqa: PLC0415  # seldom needed

    try:
        path = user_cache_path("hinge", appauthor=False)
    except RuntimeError:
        return None
    return path if path.is_absolute() else None  # older releases return "~" unexpanded


def _open_directory(root: Path) -> Path | None:
    """Create the directory for the current sources in `root`; return None if it is not writable.

    A test file is written, because permission bits are not sufficient: a file system can be
    read-only, and root passes every permission check.
    """
    directory = root / f"{_PREFIX}{_digest()}"
    try:
        is_new = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
        os.utime(directory)  # records the time of the last use
    except OSError:
        return None
    if is_new:
        _prune(root)
    return directory


def _prune(root: Path) -> None:
    """Delete the directories of earlier sources that have not been used for `UNUSED_DAYS`.

    Another process may delete the same directory at the same time. A process whose directory is
    deleted compiles again.
    """
    oldest = time.time() - UNUSED_DAYS * 86_400
    for directory in root.glob(f"{_PREFIX}*"):
        try:
            unused = directory.stat().st_mtime < oldest
        except OSError:  # another process deleted it
            continue
        if unused:
            shutil.rmtree(directory, ignore_errors=True)


@cache
def _digest() -> str:
    """Return a digest of the package's sources and of the versions of the compiling libraries.

    It omits signatures, processors, instruction sets and Python versions, because Numba itself
    keeps separate files for them.
    """
    versions = numba.__version__, llvmlite.__version__, np.__version__
    digest = hashlib.sha256(repr(versions).encode())
    sources = (path for path in _PACKAGE.rglob("*.py") if path.is_file())  # no dangling links
    for path in sorted(sources):
        name = path.relative_to(_PACKAGE).as_posix()
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
