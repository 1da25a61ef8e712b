"""Shards: runs of a split's rows, as bytes in a worker's memory or read as they are needed."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from kernels.hinge import fold, sum_rows
from pipeline.inputs.examples import Rows
from storage.dataset import Dataset
from storage.schema import PIXELS, Split

if TYPE_CHECKING:
    from pipeline.cluster.map_shards import Summable

STREAM_ROWS = 2_000
"""Rows of a streamed shard in memory at a time: 6 MB."""

T = TypeVar("T")
S = TypeVar("S", bound="Summable")


class Block(NamedTuple):
    """Some of a shard's rows, in memory."""

    images: NDArray[np.uint8]
    """(n, D)."""
    labels: NDArray[np.uint8]
    """(n,)."""
    rows: Rows | None = None
    """Which of them, in this order; None for all."""

    @property
    def chosen(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The images and labels of those rows alone."""
        if self.rows is None:
            return self.images, self.labels
        return self.images[self.rows], self.labels[self.rows]


class ShardMemory(dict[str, Any]):
    """What functions of a shard have found out and may want again, by the function's name.

    It may be gone at the next call, and is not sent with its shard: then it is found out again.
    """

    def recall(self, name: str, inputs: Sequence[Any], find: Callable[[], T]) -> T:
        """Return what `find` finds; if it was found last time by equal inputs, the same again."""
        known, found = self.get(name, ((), None))
        if len(known) != len(inputs) or not all(map(np.array_equal, known, inputs)):
            self.pop(name, None)  # or there would be two in memory
            found = find()
            self[name] = [copy(each) for each in inputs], found  # the caller may change its own
        return found  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[type["ShardMemory"], tuple[()]]:
        """Pickle as an empty one."""
        return ShardMemory, ()


class Shard(Protocol):
    """A run of rows that can be gone through."""

    @property
    def start(self) -> int:
        """Number of its first row in the split."""
        ...

    @property
    def stop(self) -> int:
        """Number after its last row."""
        ...

    @property
    def memory(self) -> ShardMemory:
        """What stays with it between calls."""
        ...

    def blocks(self, rows: Rows | None = None) -> Iterator[Block]:
        """Yield all rows, or those of `rows`, numbered in the split, that it has: a block at least.

        Blocks follow the order of the rows.
        """
        ...


@dataclass(frozen=True, eq=False)
class ResidentShard:
    """A shard held as bytes."""

    start: int
    stop: int
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    memory: ShardMemory = field(default_factory=ShardMemory)

    def blocks(self, rows: Rows | None = None) -> Iterator[Block]:
        """Yield the rows as one block; see `Shard`."""
        own = None if rows is None else rows_within(self, rows) - self.start
        yield Block(self.images, self.labels, own)

    def __sizeof__(self) -> int:
        """Return its bytes, by which Dask places and counts it."""
        return int(self.images.nbytes + self.labels.nbytes)


@dataclass(frozen=True, eq=False)
class StreamedShard:
    """A shard that stays in the store and is read a few rows at a time."""

    dataset: Dataset
    split: Split
    start: int
    stop: int
    memory: ShardMemory = field(default_factory=ShardMemory)

    def blocks(self, rows: Rows | None = None) -> Iterator[Block]:
        """Yield `STREAM_ROWS` rows at a time; see `Shard`."""
        if rows is None:
            for start in range(self.start, self.stop, STREAM_ROWS):
                stop = min(start + STREAM_ROWS, self.stop)
                yield Block(*self.dataset.read(self.split, start, stop))
        else:
            own = rows_within(self, rows)
            for start in range(0, max(1, len(own)), STREAM_ROWS):
                some = own[start : start + STREAM_ROWS]
                yield Block(*self.dataset.read_rows(self.split, some))


def load_shard(dataset: Dataset, split: Split, start: int, stop: int) -> ResidentShard:
    """Read the rows from `start` to `stop` into memory.

    Loads or compiles the kernel as well, so that the first step is as fast as the others.
    """
    shard = ResidentShard(start, stop, *dataset.read(split, start, stop))
    scorer = fold(np.zeros((len(dataset.classes), PIXELS + 1)))
    sum_rows(scorer, shard.images, shard.labels, rows=np.zeros(1, np.int64))
    return shard


def concatenate_blocks(parts: Sequence[NDArray[Any]], axis: int = 0) -> NDArray[Any]:
    """Return the blocks' arrays as one; that of a single block as it is, not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)


def sum_over_blocks(shard: Shard, rows: Rows | None, function: Callable[[Block], S]) -> S:
    """Return the sum of `function(block)` over the shard's blocks of `rows`, None for all rows."""
    return reduce(lambda a, b: a.combine(b), map(function, shard.blocks(rows)))


def rows_within(shard: Shard, rows: Rows) -> Rows:
    """Return those of `rows`, numbered in the split, that the shard has, in their order."""
    return rows[(rows >= shard.start) & (rows < shard.stop)]
