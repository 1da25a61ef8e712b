"""Shards: ranges of a split's rows, as bytes in a worker's memory or read when they are needed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from kernels.hinge import fold, sum_rows
from pipeline.cluster.wanted import check_wanted
from pipeline.inputs.examples import Rows
from storage.dataset import Dataset
from storage.schema import PIXELS, Split

if TYPE_CHECKING:
    from pipeline.cluster.map_shards import Summable

STREAM_ROWS = 2_000
"""How many rows of a streamed shard are in memory at a time: 6 MB."""

PIECE_ROWS = 5_000
"""How many rows a long task processes before it looks whether it is still wanted."""

T = TypeVar("T")
S = TypeVar("S", bound="Summable")


class Block(NamedTuple):
    """Some of a shard's rows, in memory."""

    images: NDArray[np.uint8]
    """(n, D)."""
    labels: NDArray[np.uint8]
    """(n,)."""
    rows: Rows | None = None
    """Indices of the chosen rows within the block, in this order; None for all rows."""

    @property
    def chosen(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The images and labels of the chosen rows only."""
        if self.rows is None:
            return self.images, self.labels
        return self.images[self.rows], self.labels[self.rows]


class ShardMemory(dict[str, Any]):
    """Results that functions of a shard may reuse, stored by name.

    If the memory is empty at the next call, for example because it is not sent with its shard, the
    results are computed again.
    """

    def recall(self, name: str, inputs: Sequence[Any], find: Callable[[], T]) -> T:
        """Return the result of `find`, or the stored one if the inputs equal the last inputs."""
        known, found = self.get(name, ((), None))
        if len(known) != len(inputs) or not all(map(np.array_equal, known, inputs)):
            self.pop(name, None)  # so that two results are never in memory at once
            found = find()
            self[name] = [copy(each) for each in inputs], found  # the caller may change its arrays
        return found  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[type["ShardMemory"], tuple[()]]:
        """Pickle as an empty memory."""
        return ShardMemory, ()


class Shard(Protocol):
    """A range of rows that can be read block by block."""

    @property
    def start(self) -> int:
        """The number of its first row in the split."""
        ...

    @property
    def stop(self) -> int:
        """The number of its last row, plus 1."""
        ...

    @property
    def memory(self) -> ShardMemory:
        """Results that stay with the shard between calls."""
        ...

    def blocks(self, rows: Rows | None = None) -> Iterator[Block]:
        """Yield the shard's rows in blocks, at least one.

        `rows` are row numbers in the split; rows outside the shard are ignored. None means all
        rows. The blocks follow the order of `rows`.
        """
        ...


@dataclass(frozen=True, eq=False)
class ResidentShard:
    """A shard in memory, as bytes."""

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
        """Return the shard's size in bytes. Dask uses it to schedule and to track memory."""
        return int(self.images.nbytes + self.labels.nbytes)


@dataclass(frozen=True, eq=False)
class StreamedShard:
    """A shard that stays in the store and is read one block at a time."""

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
    """Read the rows from `start` up to `stop` into memory.

    Also load or compile the kernel, so that the first step is as fast as the later ones.
    """
    shard = ResidentShard(start, stop, *dataset.read(split, start, stop))
    scorer = fold(np.zeros((len(dataset.classes), PIXELS + 1)))
    sum_rows(scorer, shard.images, shard.labels, rows=np.zeros(1, np.int64))
    return shard


def concatenate_blocks(parts: Sequence[NDArray[Any]], axis: int = 0) -> NDArray[Any]:
    """Return the blocks' arrays as one array. The array of a single block is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)


def sum_over_blocks(shard: Shard, rows: Rows | None, function: Callable[[Block], S]) -> S:
    """Return the sum of `function(block)` over the shard's blocks of `rows` (None: all rows).

    Raises UnwantedTaskError between two blocks if this is a cancelled task.
    """
    return _sum(shard.blocks(rows), function)


def sum_over_pieces(shard: Shard, rows: Rows | None, function: Callable[[Block], S]) -> S:
    """Return the same sum as `sum_over_blocks`, for a function that takes long for each row.

    The blocks are cut into pieces of at most `PIECE_ROWS` rows, so that a cancelled task ends soon.
    """
    return _sum((piece for block in shard.blocks(rows) for piece in _cut(block)), function)


def _sum(blocks: Iterable[Block], function: Callable[[Block], S]) -> S:
    def sum_block(block: Block) -> S:
        check_wanted()
        return function(block)

    return reduce(lambda a, b: a.combine(b), map(sum_block, blocks))


def _cut(block: Block) -> Iterator[Block]:
    """Yield views of at most `PIECE_ROWS` of the chosen rows of a block, at least one view."""
    chosen = len(block.images) if block.rows is None else len(block.rows)
    for start in range(0, max(1, chosen), PIECE_ROWS):
        piece = slice(start, start + PIECE_ROWS)
        if block.rows is None:
            yield Block(block.images[piece], block.labels[piece])
        else:
            yield block._replace(rows=block.rows[piece])


def images_used(shard: Shard, inputs: Any) -> int:
    """Return how many of the shard's images a function with these inputs uses."""
    rows = getattr(inputs, "rows", None)
    return shard.stop - shard.start if rows is None else len(rows_within(shard, rows))


def rows_within(shard: Shard, rows: Rows) -> Rows:
    """Return those of `rows` (numbers in the split) that are in the shard, in their order."""
    return rows[(rows >= shard.start) & (rows < shard.stop)]
