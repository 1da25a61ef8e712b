"""Sources of images by name: files, archives, the data set's own page, or made ones."""

import re
from pathlib import Path
from typing import Protocol

from storage.archive import unpack
from storage.cifar10 import open_directory
from storage.download import BINARY_MD5, BINARY_URL, Progress, download
from storage.errors import DataError
from storage.schema import Bytes, Identity, Split
from storage.synthetic import TRAIN_ROWS, Synthetic

_WANTED = "a directory or .tar.gz of CIFAR-10, 'download', 'synthetic' or 'synthetic:N'"


class Source(Protocol):
    """Rows of images and labels to ingest: a frozen value that can be sent to any worker."""

    @property
    def kind(self) -> str:
        """The format's name, e.g. ``"cifar10-binary"``."""

    @property
    def name(self) -> str:
        """The data set's name: ``"cifar10"`` or ``"synthetic"``."""

    @property
    def description(self) -> str:
        """What the data is, in words."""

    @property
    def identity(self) -> Identity:
        """Which data this is, as JSON: equal for two sources of the same rows."""

    def rows(self, split: Split) -> int:
        """Return the number of images of `split`."""

    def read(self, split: Split, start: int, stop: int) -> tuple[Bytes, Bytes]:
        """Read rows `start` to `stop`: images (n, 3072) uint8 and labels (n,) uint8.

        Raises:
            DataError: what is read is damaged.
            IndexError: there are no such rows.
        """


def open_source(
    name: str,
    *,
    limit: int | None = None,
    workdir: Path,
    progress: Progress | None = None,
) -> Source:
    """Open the source called `name`, checked as far as it can be without reading every label.

    `name` is a directory that holds the binary or the python version of CIFAR-10 (or the
    official subdirectory of either), a `.tar.gz` of one, `download` for the data set's own
    page, `synthetic` for 50,000 + 10,000 made images, or `synthetic:N` for N and, for the
    test, a fifth of N but at least 100 and at most 10,000. A directory called so is meant with
    a slash: `./synthetic`.

    Args:
        name: which source.
        limit: keep at most this many first images of each split.
        workdir: where archives are unpacked and downloads kept; workers must see it too.
        progress: told of a download's bytes.

    Raises:
        DataError: there is no such source, or it is damaged.
    """
    if limit is not None and limit < 1:
        raise DataError(f"the limit must be at least 1 image, not {limit}")
    if made := re.fullmatch(r"synthetic(?::(.*))?", name):
        return _open_synthetic(made[1], limit)
    if not name:
        raise DataError(f"'' names no source; wanted {_WANTED}")
    try:
        if name == "download":
            path = download(BINARY_URL, BINARY_MD5, workdir, progress)
        else:
            path = Path(name).expanduser()
        if path.is_dir():
            return open_directory(path, limit)
        if path.is_file():
            return open_directory(unpack(path, workdir), limit)
    except OSError as error:
        raise DataError(f"cannot open the source {name}: {error}") from error
    raise DataError(f"{name}: no such directory or file; wanted {_WANTED}")


def _open_synthetic(size: str | None, limit: int | None) -> Synthetic:
    if size is None:
        return Synthetic.of_size(TRAIN_ROWS, limit)
    if not re.fullmatch(r"[0-9_]{1,15}", size) or not size.strip("_"):
        raise DataError(f"synthetic:{size}: wanted a number of images, as in synthetic:1200000")
    return Synthetic.of_size(int(size), limit)
