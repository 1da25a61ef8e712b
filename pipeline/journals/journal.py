"""What a run has finished, entry after entry: it survives a run that is killed at any point.

The file is a SQLite database. An entry is in it whole or not at all.
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
"""What NumPy and `zipfile` say of arrays that are not as they were written."""


class Journal:
    """An append-only list of entries, each some named arrays; a context manager.

    Raises PipelineError if the file is there and no journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Prefect may run one task after another in other threads
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
        """Add an entry; it is there once this returns.

        Raises OSError if it cannot be written.
        """
        written, entry = io.BytesIO(), dict[str, Any](arrays)
        np.savez(written, **entry)
        try:
            self._database.execute("INSERT INTO entries (arrays) VALUES (?)", (written.getvalue(),))
        except sqlite3.DatabaseError as error:  # a full disk, say
            raise OSError(f"{self._path} cannot be written: {error}") from error

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries from the first on.

        Raises PipelineError if one is damaged.
        """
        try:
            for (arrays,) in self._database.execute("SELECT arrays FROM entries ORDER BY number"):
                with np.load(io.BytesIO(arrays)) as entry:
                    yield dict(entry)
        except (sqlite3.DatabaseError, *_DAMAGED_ARRAYS) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> PipelineError:
        return PipelineError(
            f"{self._path} is no journal of this run ({error}); start the run anew"
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
