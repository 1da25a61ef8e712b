"""The schema of the stored data: shapes, splits, classes, and the layout in shards and chunks.

An image is 3,072 bytes, row-major (channel, height, width); a label is one byte, the class
index. Nothing is centred or scaled on disk.
"""

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from storage.errors import DataError

Split = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")

IMAGE_SHAPE = (3, 32, 32)
DIMENSIONS = ("image", "channel", "height", "width")
PIXELS = 3072
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
FORMAT_VERSION = 1
"""Version of the store's format; increased when older readers cannot read the new one."""

Bytes = NDArray[np.uint8]


class Identity(TypedDict):
    """The identity of a source's data, as JSON; equal for two sources with the same rows."""

    kind: str
    """The format, e.g. ``"cifar10-binary"``."""
    content: str
    """Digest of the source's files, or the parameters of generated data."""
    limit: int | None
    """Maximum number of images kept from the start of each split; None for all."""


@dataclass(frozen=True)
class Layout:
    """The number of rows per shard (one task's work) and per inner chunk (one random read).

    A Zarr shard consists of a whole number of inner chunks. `chunk_rows` is therefore replaced by
    the divisor of `shard_rows` whose ratio to the requested size is nearest to 1. If `shard_rows`
    is prime and less than the square of the requested size, this divisor is `shard_rows` itself,
    so each shard is one chunk. With chunks of a single row, a pass over the data would consist of
    thousands of small reads, which cost far more than coarse random reads.

    Raises:
        DataError: A size is less than 1.

    Examples:
        >>> Layout()
        Layout(shard_rows=5000, chunk_rows=250)
        >>> Layout(shard_rows=900)
        Layout(shard_rows=900, chunk_rows=225)
        >>> Layout(shard_rows=7001)
        Layout(shard_rows=7001, chunk_rows=7001)
        >>> Layout(shard_rows=50_000)
        Layout(shard_rows=50000, chunk_rows=250)
    """

    # Measured on two cores with all 50,000 images in the page cache (zarr 3.1.6 with its default
    # configuration). For each shard_rows/chunk_rows: seconds for all images, and milliseconds for
    # 256 random rows. 5000/250: 0.08-0.11 s, 68 ms. 5000/50: 0.22 s, 118 ms. 500/250: 0.15 s,
    # 114 ms. 50000/250: 0.20 s, 162 ms. 5000/5000: 0.10 s, 70 ms, but the random read transfers
    # 20 times the bytes, which matters on a network.
    shard_rows: int = 5000
    chunk_rows: int = 250

    def __post_init__(self) -> None:
        for name, value in (("shard_rows", self.shard_rows), ("chunk_rows", self.chunk_rows)):
            if value < 1:
                raise DataError(f"{name} must be a whole number of at least 1, not {value!r}")
        object.__setattr__(self, "chunk_rows", _nearest_divisor(self.shard_rows, self.chunk_rows))

    def fit(self, rows: int) -> "Layout":
        """Return the layout for a split of `rows` rows, with shards no longer than necessary.

        Examples:
            >>> Layout().fit(50_000)
            Layout(shard_rows=5000, chunk_rows=250)
            >>> Layout().fit(1009)
            Layout(shard_rows=1250, chunk_rows=250)
            >>> Layout().fit(10)
            Layout(shard_rows=10, chunk_rows=10)
        """
        if rows >= self.shard_rows:
            return self
        chunk_rows = min(self.chunk_rows, rows)
        return Layout(-(-rows // chunk_rows) * chunk_rows, chunk_rows)

    def shards(self, rows: int) -> tuple[range, ...]:
        """Return the row range of each shard of a split of `rows` rows, in order.

        Examples:
            >>> Layout(shard_rows=4).shards(10)
            (range(0, 4), range(4, 8), range(8, 10))
        """
        step = self.shard_rows
        return tuple(range(start, min(start + step, rows)) for start in range(0, rows, step))


def _nearest_divisor(number: int, wanted: int) -> int:
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    divisors = {*small, *(number // d for d in small)}
    return min(divisors, key=lambda d: (max(d, wanted) / min(d, wanted), d))


def check_range(start: int, stop: int, rows: int) -> None:
    """Check that rows `start` to `stop` exist in a split of `rows` rows.

    Raises:
        IndexError: They do not exist.
    """
    if not 0 <= start <= stop <= rows:
        raise IndexError(f"rows {start} to {stop} requested from a split of {rows} rows")


def check_labels(labels: Bytes, where: str, first: int = 0) -> None:
    """Check that every label is a class index; `first` is the first label's record number.

    Raises:
        DataError: A label is not a class index; the message names `where` and the record.
    """
    bad = np.flatnonzero(labels >= len(CLASSES))
    if len(bad):
        raise DataError(
            f"{where}, record {first + int(bad[0])}: label {labels[bad[0]]}, "
            f"wanted 0 to {len(CLASSES) - 1}; the file is damaged or not CIFAR-10"
        )
