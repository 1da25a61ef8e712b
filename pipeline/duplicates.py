"""A data set of many copies of few images: the gradient over all of it is that over the few."""

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.partial import Evaluation
from pipeline.examples import sample
from pipeline.objective import Objective
from pipeline.streams import Purpose

UNIQUE, COPIES = 1_000, 1_200
"""The notes' example: 1.2 million images, of which only a thousand differ."""


class Duplicated(NamedTuple):
    """The objective over some images, and over many copies of each."""

    once: Evaluation
    copied: Evaluation
    seconds_once: float
    seconds_copied: float

    @property
    def same_bits(self) -> bool:
        """Whether the loss and the whole gradient are the same, to the last bit."""
        same = np.array_equal(self.once.gradient, self.copied.gradient)
        return same and self.once.loss == self.copied.loss


def duplicated(
    objective: Objective, W: NDArray[np.float64], rows: int, seed: int, copies: int = COPIES
) -> Duplicated:
    """Evaluate at `W` over a thousand of `rows` training images, and over copies of them.

    The copies follow each other, as a data set would have them, and are gone over one by one.
    They are timed once the workers are ready: at the second time for the few.
    """
    few = sample(seed, Purpose.EXAMPLES, rows, min(UNIQUE, rows))
    many = np.tile(few, copies)
    objective(W, few)
    clock = time.perf_counter()
    once = objective(W, few)
    between = time.perf_counter()
    copied = objective(W, many)
    return Duplicated(once, copied, between - clock, time.perf_counter() - between)
