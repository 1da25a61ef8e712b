"""The rows of each step of training, as functions of the step's number.

Steps count from 0. `None` means all rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Rows
from pipeline.inputs.random_streams import Purpose, random_stream

Batches = Callable[[int], Rows | None]
"""A function that returns the rows of a step, given the step's number."""


def full_batch(_step: int) -> None:
    """Return None, which means all rows, for every step."""


@dataclass(frozen=True)
class UniformSamples:
    """Batches of `size` out of `rows` rows, drawn at random, without repetition within a batch."""

    rows: int
    size: int
    seed: int

    def __post_init__(self) -> None:
        _check_size(self.size, self.rows)

    def __call__(self, step: int) -> Rows:
        """Return the sample (size,) of step `step`."""
        generator = random_stream(self.seed, Purpose.SAMPLE, step)
        return generator.choice(self.rows, self.size, replace=False, shuffle=False)


@dataclass(frozen=True)
class ShuffledEpochs:
    """Batches of `size` rows. Every epoch uses each row once, in a new random order.

    The last batch of an epoch may be smaller.
    """

    rows: int
    size: int
    seed: int

    def __post_init__(self) -> None:
        _check_size(self.size, self.rows)

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return -(-self.rows // self.size)

    def __call__(self, step: int) -> Rows:
        """Return the rows (size,) of step `step`."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        order = _order(self.rows, self.seed, epoch)
        return order[batch * self.size : (batch + 1) * self.size]


@lru_cache(maxsize=2)
def _order(rows: int, seed: int, epoch: int) -> Rows:
    return random_stream(seed, Purpose.SHUFFLE, epoch).permutation(rows)


def _check_size(size: int, rows: int) -> None:
    if not 1 <= size <= rows:
        raise PipelineError(
            f"the batch size must be from 1 to {rows}, the number of images, not {size}"
        )
