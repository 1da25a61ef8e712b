"""Which rows a step of training takes: a rule from a step's number to its rows.

Steps count from 0. `None` for the rows means all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from pipeline.errors import PipelineError
from pipeline.shards import Rows
from pipeline.streams import Purpose, stream

Batches = Callable[[int], Rows | None]


def full_batch(_step: int) -> None:
    """Take all rows at every step."""


@dataclass(frozen=True)
class UniformSamples:
    """`size` of `rows` rows at every step, drawn afresh and without repetition in a batch."""

    rows: int
    size: int
    seed: int

    def __post_init__(self) -> None:
        _check_size(self.size, self.rows)

    def __call__(self, step: int) -> Rows:
        """Return the sample (size,) of step `step`."""
        generator = stream(self.seed, Purpose.SAMPLE, step)
        return generator.choice(self.rows, self.size, replace=False, shuffle=False)


@dataclass(frozen=True)
class ShuffledEpochs:
    """Every row once an epoch, in a new order each, `size` at a time; the last may be fewer."""

    rows: int
    size: int
    seed: int

    def __post_init__(self) -> None:
        _check_size(self.size, self.rows)

    @property
    def steps_an_epoch(self) -> int:
        """How many batches the rows make."""
        return -(-self.rows // self.size)

    def __call__(self, step: int) -> Rows:
        """Return the rows (size,) of step `step`."""
        epoch, batch = divmod(step, self.steps_an_epoch)
        order = _order(self.rows, self.seed, epoch)
        return order[batch * self.size : (batch + 1) * self.size]


@lru_cache(maxsize=2)
def _order(rows: int, seed: int, epoch: int) -> Rows:
    return stream(seed, Purpose.SHUFFLE, epoch).permutation(rows)


def _check_size(size: int, rows: int) -> None:
    if not 1 <= size <= rows:
        raise PipelineError(f"a batch of {size} of {rows} images is not possible; take 1 to {rows}")
