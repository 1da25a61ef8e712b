"""A journal of the work that a run has finished. It survives a kill at any point.

The file is an SQLite database. An entry is stored completely or not at all.
"""

import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.inputs.errors import PipelineError

Entry = dict[str, NDArray[Any]]

_DAMAGED_ARRAYS = (OSError, ValueError, EOFError, RuntimeError, TypeError, BadZipFile)
"""The errors that NumPy and `zipfile` raise for damaged arrays."""


class Journal:
    """An append-only list of entries, each a set of named arrays. Use it as a context manager.

    Raises PipelineError if the file exists and is not a journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Prefect may run successive tasks in different threads
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, arrays BLOB)"
            )
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise self._damaged(error) from error

    def append(self, **arrays: ArrayLike) -> None:
        """Add an entry. It is stored once this returns.

        Raises OSError if it cannot be written.
        """
        written, entry = io.BytesIO(), dict[str, Any](arrays)
        np.savez(written, **entry)
        try:
            self._database.execute("INSERT INTO entries (arrays) VALUES (?)", (written.getvalue(),))
        except sqlite3.DatabaseError as error:  # for example, a full disk
            raise OSError(f"{self._path} cannot be written: {error}") from error

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in the order in which they were added.

        Raises PipelineError if an entry is damaged.
        """
        try:
            for (arrays,) in self._database.execute("SELECT arrays FROM entries ORDER BY number"):
                with np.load(io.BytesIO(arrays)) as entry:
                    yield dict(entry)
        except (sqlite3.DatabaseError, *_DAMAGED_ARRAYS) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> PipelineError:
        return PipelineError(
            f"{self._path} is not a journal of this run ({error}); start a new run"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._database.close()
