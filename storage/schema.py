"""What the stored data is: shapes, splits, classes, and how rows lie in shards and chunks.

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
"""Version of the store's layout; raised when an older reader could not read it."""

Bytes = NDArray[np.uint8]


class Identity(TypedDict):
    """Which data a source holds, as JSON; equal for two sources that hold the same rows."""

    kind: str
    """The format, e.g. ``"cifar10-binary"``."""
    content: str
    """Digest of the files read, or the parameters of generated data."""
    limit: int | None
    """At most this many first images of each split; None for all."""


@dataclass(frozen=True)
class Layout:
    """How many rows a shard (one task's work) and an inner chunk (one random read) hold.

    A shard of Zarr's is a whole number of inner chunks, so `chunk_rows` becomes the divisor
    of `shard_rows` that is nearest to what was asked, by ratio. A prime number of rows has no
    divisor worth having and its shard is one chunk: single-row chunks would make every read
    of the whole set thousands of times smaller, which costs far more than coarse random reads.

    Raises:
        DataError: a size is not a positive whole number.

    >>> Layout()
    Layout(shard_rows=5000, chunk_rows=250)
    >>> Layout(shard_rows=900), Layout(shard_rows=7001), Layout(shard_rows=50_000)
    (Layout(shard_rows=900, chunk_rows=225), Layout(shard_rows=7001, chunk_rows=7001), \
Layout(shard_rows=50000, chunk_rows=250))
    """

    # Measured on two cores with all 50,000 images in the page cache (zarr 3.1.6, its default
    # configuration; ms for all images, ms for 256 random rows): 5000/250 0.08-0.11 s and 68,
    # 5000/50 0.22 s and 118, 500/250 0.15 s and 114, 50000/250 0.20 s and 162, 5000/5000
    # 0.10 s and 70, but the last reads 20 times the bytes, which counts on a network.
    shard_rows: int = 5000
    chunk_rows: int = 250

    def __post_init__(self) -> None:
        for name, value in (("shard_rows", self.shard_rows), ("chunk_rows", self.chunk_rows)):
            if value < 1:
                raise DataError(f"{name} must be a whole number from 1, not {value!r}")
        object.__setattr__(self, "chunk_rows", _nearest_divisor(self.shard_rows, self.chunk_rows))

    def fit(self, rows: int) -> "Layout":
        """Return the layout of a split of `rows` rows: no shard longer than the split needs.

        >>> Layout().fit(50_000), Layout().fit(1009), Layout().fit(10)
        (Layout(shard_rows=5000, chunk_rows=250), Layout(shard_rows=1250, chunk_rows=250), \
Layout(shard_rows=10, chunk_rows=10))
        """
        if rows >= self.shard_rows:
            return self
        chunk_rows = min(self.chunk_rows, rows)
        return Layout(-(-rows // chunk_rows) * chunk_rows, chunk_rows)

    def shards(self, rows: int) -> tuple[range, ...]:
        """Return the rows of each shard of a split of `rows` rows, in order.

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
    """Check that `start` to `stop` are rows of a split of `rows` rows.

    Raises:
        IndexError: they are not.
    """
    if not 0 <= start <= stop <= rows:
        raise IndexError(f"rows {start} to {stop} asked of a split of {rows} rows")


def check_labels(labels: Bytes, where: str, first: int = 0) -> None:
    """Check that every label is a class index; `first` is the first label's record number.

    Raises:
        DataError: one is not; it names `where` and the record.
    """
    bad = np.flatnonzero(labels >= len(CLASSES))
    if len(bad):
        raise DataError(
            f"{where}, record {first + int(bad[0])}: label {labels[bad[0]]}, "
            f"wanted 0 to {len(CLASSES) - 1}; the file is damaged or not CIFAR-10"
        )
