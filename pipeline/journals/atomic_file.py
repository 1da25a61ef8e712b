"""Atomic replacement of a file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Yield an open file that replaces `path` when the block ends.

    The new content is flushed to disk first, so a reader sees either the old file or the new one,
    even after a power failure. If the block raises, `path` is unchanged.

    Only one writer may replace a file at a time. Raises OSError if the directory cannot be written.
    """
    beside = path.with_name(f"{path.name}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
