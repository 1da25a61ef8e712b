"""Shards: runs of a split's rows, as bytes in a worker's memory or read as they are needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kernels.hinge import Scorer, fold, hinge_partial
from kernels.partial import Partial
from storage.dataset import Dataset
from storage.schema import PIXELS, Split

STREAM_ROWS = 2_000
"""Rows of a streamed shard in memory at a time: 6 MB."""

Rows = NDArray[np.int64]


class Shard(Protocol):
    """A run of rows that can be summed over."""

    @property
    def start(self) -> int:
        """Number of its first row in the split."""
        ...

    @property
    def stop(self) -> int:
        """Number after its last row."""
        ...

    def partial(self, scorer: Scorer, rows: Rows | None = None) -> Partial:
        """Sum over all its rows, or over those of `rows`, numbered in the split, that it has."""
        ...


@dataclass(frozen=True, eq=False)
class ResidentShard:
    """A shard held as bytes."""

    start: int
    stop: int
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def partial(self, scorer: Scorer, rows: Rows | None = None) -> Partial:
        """Sum over its rows; see `Shard`."""
        own = None if rows is None else _within(self, rows) - self.start
        return hinge_partial(scorer, self.images, self.labels, rows=own)

    def __sizeof__(self) -> int:
        """Return its bytes, by which Dask places and counts it."""
        return int(self.images.nbytes + self.labels.nbytes)


@dataclass(frozen=True)
class StoredShard:
    """A shard that stays in the store and is read a few rows at a time."""

    dataset: Dataset
    split: Split
    start: int
    stop: int

    def partial(self, scorer: Scorer, rows: Rows | None = None) -> Partial:
        """Sum over its rows; see `Shard`."""
        zero = Partial.zero(*scorer.weights.shape)
        blocks = self._blocks() if rows is None else self._picked(_within(self, rows))
        return reduce(
            Partial.combine,
            (hinge_partial(scorer, images, labels) for images, labels in blocks),
            zero,
        )

    def _blocks(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        for start in range(self.start, self.stop, STREAM_ROWS):
            yield self.dataset.read(self.split, start, min(start + STREAM_ROWS, self.stop))

    def _picked(self, rows: Rows) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        for start in range(0, len(rows), STREAM_ROWS):
            yield self.dataset.read_rows(self.split, rows[start : start + STREAM_ROWS])


def load_shard(dataset: Dataset, split: Split, start: int, stop: int) -> ResidentShard:
    """Read the rows from `start` to `stop` into memory.

    The kernel is loaded too, or compiled, so that the first step is as quick as the others.
    """
    shard = ResidentShard(start, stop, *dataset.read(split, start, stop))
    shard.partial(fold(np.zeros((len(dataset.classes), PIXELS + 1))), np.array([start]))
    return shard


def _within(shard: Shard, rows: Rows) -> Rows:
    return rows[(rows >= shard.start) & (rows < shard.stop)]
