"""`Partial`: what a block of rows adds to the loss and its gradient, as exact integers.

It is the one value that crosses the cluster. Integers add up to the same total in any
order and in any grouping, so the number of workers, the size of a shard and a worker's
death cannot change a bit of the result; what is rounded is rounded once, in `finalize`.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kernels import loops

LOSS_UNIT_BITS = loops.LIMB_BITS * (loops.LOSS_LIMBS // 2)
"""Losses are summed in units of 2^-80."""


@dataclass(frozen=True, eq=False)
class Partial:
    """The sums over a set of rows; `Partial.zero` and `combine` make them a monoid."""

    gradient: NDArray[np.integer]
    """`sum_i k_i (outer) image_i` (C, D): int32 for a block, int64 once combined."""
    indicators: NDArray[np.int64]
    """`sum_i k_i` (C,)."""
    loss: int
    """Sum of the rows' losses in units of 2^-80, without the rows that overflow."""
    overflows: int
    """Rows whose loss is not finite or at least 2^80."""
    rows: int
    """How many rows were summed."""
    correct: int
    """How many of them have their highest score at their label."""

    @classmethod
    def zero(cls, classes: int, columns: int) -> Self:
        """Return the sums over no row."""
        return cls(
            gradient=np.zeros((classes, columns), np.int64),
            indicators=np.zeros(classes, np.int64),
            loss=0,
            overflows=0,
            rows=0,
            correct=0,
        )

    def combine(self, other: "Partial") -> "Partial":
        """Return the sums over both sets of rows.

        >>> one = Partial(np.ones((2, 3), np.int32), np.array([1, -1]), 5, 0, 1, 1)
        >>> both = one.combine(one).combine(Partial.zero(2, 3))
        >>> both.rows, both.loss, both.gradient.sum()
        (2, 10, np.int64(12))
        """
        return Partial(
            gradient=np.add(self.gradient, other.gradient, dtype=np.int64),
            indicators=self.indicators + other.indicators,
            loss=self.loss + other.loss,
            overflows=self.overflows + other.overflows,
            rows=self.rows + other.rows,
            correct=self.correct + other.correct,
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The objective at some weights, over some rows."""

    loss: float
    """Mean hinge loss plus the regulariser; inf where a row's loss is no usable number."""
    gradient: NDArray[np.float64]
    """The subgradient (C, D + 1), the bias in the last column."""
    accuracy: float
    """Fraction of the rows predicted right."""
    rows: int
    """How many rows it is the mean of."""


def finalize(
    total: Partial, W: NDArray[np.float64], mean: NDArray[np.float64], *, reg: float = 0.0
) -> Evaluation:
    """Turn sums into the loss, its subgradient and the accuracy.

    `W` (C, D + 1) are the weights the sums were taken at, `mean` (D,) the mean image.
    1/N comes first, so that rows repeated any number of times give the same bits; then the
    mean, once, as a correction of rank one; then the regulariser
    `reg * ||W without bias||^2`, whose gradient is `2 reg W`.

    Raises ValueError if no row was summed.
    """
    if total.rows == 0:
        raise ValueError("the mean over no rows is not defined; sum at least one row")
    gradient = np.empty(W.shape)
    pixels, bias = gradient[:, :-1], gradient[:, -1:]
    np.divide(total.indicators[:, None], total.rows, out=bias)
    np.divide(total.gradient, total.rows, out=pixels)
    pixels -= bias * mean
    loss = total.loss / (total.rows << LOSS_UNIT_BITS)
    if reg:
        loss += reg * float(loops.squared_norm(W))
        with np.errstate(over="ignore"):  # the loss says so
            pixels += 2.0 * reg * W[:, :-1]
    if total.overflows:
        loss = math.inf
    return Evaluation(loss, gradient, total.correct / total.rows, total.rows)
