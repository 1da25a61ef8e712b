"""A data set that holds many copies of a few images has the gradient of the few."""

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.partial import Evaluation
from pipeline.inputs.examples import sample_numbers
from pipeline.inputs.random_streams import Purpose
from pipeline.objective import Objective

ORIGINALS, COPIES = 1_000, 1_200
"""The notes' example: 1.2 million images, of which only a thousand differ."""


class OriginalsAndCopies(NamedTuple):
    """The objective over some images, and over many copies of each."""

    originals: Evaluation
    copies: Evaluation
    seconds_originals: float
    seconds_copies: float

    @property
    def same_bits(self) -> bool:
        """Whether the loss and the whole gradient are bit for bit the same."""
        same_gradient = np.array_equal(self.originals.gradient, self.copies.gradient)
        return same_gradient and self.originals.loss == self.copies.loss


def evaluate_copies(
    objective: Objective, W: NDArray[np.float64], rows: int, seed: int, copies: int = COPIES
) -> OriginalsAndCopies:
    """Evaluate at `W` (C, D + 1) over a thousand of `rows` training images, and over their copies.

    The copies are whole copies of the set of originals, one after the other, as a data set would
    have them. Every copy is evaluated by itself. The originals are evaluated twice, and the second
    time is timed: the first includes what the workers do only once.
    """
    originals = sample_numbers(seed, Purpose.EXAMPLES, rows, min(ORIGINALS, rows))
    objective(W, originals)
    started = time.perf_counter()
    of_originals = objective(W, originals)
    between = time.perf_counter()
    of_copies = objective(W, np.tile(originals, copies))
    ended = time.perf_counter()
    return OriginalsAndCopies(of_originals, of_copies, between - started, ended - between)
