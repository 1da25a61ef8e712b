"""Duplicated data: many copies of a few images have the same gradient as the few images."""

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.partial import Evaluation
from pipeline.inputs.examples import sample_numbers
from pipeline.inputs.random_streams import Purpose
from pipeline.objective import Objective

ORIGINALS, COPIES = 1_000, 1_200
"""The example of the notes: 1.2 million images that are copies of a thousand."""


class OriginalsAndCopies(NamedTuple):
    """The objective over some images, and over many copies of each image."""

    originals: Evaluation
    copies: Evaluation
    seconds_originals: float
    seconds_copies: float

    @property
    def same_bits(self) -> bool:
        """Whether both losses and both gradients are bit-identical."""
        same_gradient = np.array_equal(self.originals.gradient, self.copies.gradient)
        return same_gradient and self.originals.loss == self.copies.loss


def evaluate_copies(
    objective: Objective, W: NDArray[np.float64], rows: int, seed: int, copies: int = COPIES
) -> OriginalsAndCopies:
    """Evaluate the objective over 1,000 of the `rows` training images, and over their copies.

    `W` has shape (C, D + 1). All images are used if there are fewer than 1,000. The set of
    originals is repeated as a whole, as in a data set with duplicates. Every copy is evaluated
    separately. The originals are evaluated twice, and only the second evaluation is timed, because
    the first includes work that the workers do only once.
    """
    originals = sample_numbers(seed, Purpose.EXAMPLES, rows, min(ORIGINALS, rows))
    objective(W, originals)
    started = time.perf_counter()
    of_originals = objective(W, originals)
    between = time.perf_counter()
    of_copies = objective(W, np.tile(originals, copies))
    ended = time.perf_counter()
    return OriginalsAndCopies(of_originals, of_copies, between - started, ended - between)
