"""Replace a file whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Yield an open file that takes the place of `path` when the block ends.

    The new content is flushed to disk first, so that a reader, or a machine that loses power,
    sees the old file or the new one. If the block raises, `path` is left as it was.

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
