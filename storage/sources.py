"""Sources of images, opened by name: files, archives, the official page, or synthetic images."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from storage.archive import unpack
from storage.cifar10 import open_directory
from storage.errors import DataError
from storage.schema import Bytes, Identity, Split
from storage.synthetic import TRAIN_ROWS, Synthetic

if TYPE_CHECKING:
    from storage.download import Progress

_WANTED = "a directory or .tar.gz of CIFAR-10, 'download', 'synthetic' or 'synthetic:N'"


class Source(Protocol):
    """Images and labels to ingest, as an immutable value that can be sent to any worker."""

    @property
    def kind(self) -> str:
        """The name of the format, e.g. ``"cifar10-binary"``."""

    @property
    def name(self) -> str:
        """The name of the data set: ``"cifar10"`` or ``"synthetic"``."""

    @property
    def description(self) -> str:
        """A human-readable description of the data."""

    @property
    def identity(self) -> Identity:
        """The identity of the data, as JSON; equal for two sources with the same rows."""

    def rows(self, split: Split) -> int:
        """Return the number of images of `split`."""

    def read(self, split: Split, start: int, stop: int) -> tuple[Bytes, Bytes]:
        """Read rows `start` to `stop`: images (n, 3072) uint8 and labels (n,) uint8.

        Raises:
            DataError: The data of these rows is damaged.
            IndexError: The split does not have these rows.
        """


def open_source(
    name: str,
    *,
    limit: int | None = None,
    workdir: Path,
    progress: "Progress | None" = None,
) -> Source:
    """Open the source `name` and check it, except for the range of its labels.

    `name` is one of

    * a directory with the binary or the python version of CIFAR-10, or with the official
      subdirectory of either,
    * a `.tar.gz` of such a directory,
    * `download`, to download CIFAR-10 from its official page,
    * `synthetic`, for 50,000 training and 10,000 test images, or
    * `synthetic:N`, for N training images and a fifth as many test images, but at least 100 and
      at most 10,000.

    Write `./synthetic` for a directory that has one of these names.

    Args:
        name: The source.
        limit: Maximum number of images to keep from the start of each split; None for all.
        workdir: The directory for unpacked archives and downloads; all workers must see it.
        progress: Called with the number of downloaded bytes and the total (None if not known).

    Raises:
        DataError: The source does not exist or is damaged.
    """
    if limit is not None and limit < 1:
        raise DataError(f"the limit must be at least 1 image, not {limit}")
    if made := re.fullmatch(r"synthetic(?::(.*))?", name):
        return _open_synthetic(made[1], limit)
    if not name:
        raise DataError(f"no source named ''; wanted {_WANTED}")
    try:
        if name == "download":
            from storage.download import (  # noqa: PLC0415 (a store is read without its packages)
                BINARY_MD5,
                BINARY_URL,
                download,
            )

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
