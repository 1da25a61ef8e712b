"""`Partial`: the contribution of a block of rows to the loss and its gradient, in integers.

Workers return a `Partial`, or only its `LossSum` if no gradient is wanted. Integers add up to the
same total in any order and in any grouping. So the result is bit-identical for any number of
workers and any shard size, and after the death of a worker. Rounding happens once, in `finalize`.

This module defines the meaning of non-finite numbers for all kernels. A score that leaves the
range of its type becomes inf, -inf or nan, and the margins computed from it have lost their sign.
Therefore:

* A row overflows if any of its margins is non-finite, of either sign, or if its loss is 2^80 or
  more. A finite margin below 0 adds nothing, however large it is.
* A row that overflows is counted in `LossSum.overflows` and adds nothing to the sum of losses.
  Its predicted class and its part of the gradient are meaningless.
* The mean loss is inf if a row overflows. The objective is inf if a row overflows or the
  regulariser is non-finite (`regularised`).
* Along a line and over a plane, the margins are those at the point, as rounded there. A sum of
  slopes uses the margins at step size 0 instead, at every step size. A margin overflows in it if
  it is non-finite, or if its slope is non-finite or has an absolute value of 2^80 or more
  (`kernels.line.SlopeSum`).
* A finite difference is rejected if a margin is non-finite
  (`kernels.structured_difference.Differences.overflows`, `kernels.data_difference`).
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import gradient as loops
from kernels.exact_sum import LossSum


@dataclass(frozen=True, eq=False)
class Partial:
    """The sums over a set of rows; `Partial.zero` and `combine` make them a monoid."""

    gradient: NDArray[np.integer]
    """`sum_i k_i (outer) image_i` (C, D): int32 for a block, int64 once combined."""
    indicators: NDArray[np.int64]
    """`sum_i k_i` (C,)."""
    losses: LossSum
    """The sum of the rows' losses, and the number of rows."""
    correct: int
    """The number of rows whose label has the highest score."""

    @classmethod
    def zero(cls, classes: int, columns: int) -> Self:
        """Return the sums over no rows."""
        gradient = np.zeros((classes, columns), np.int64)
        return cls(gradient, np.zeros(classes, np.int64), LossSum(), 0)

    def combine(self, other: "Partial") -> "Partial":
        """Return the sums over both sets of rows.

        Examples:
            >>> one = Partial(np.ones((2, 3), np.int32), np.array([1, -1]), LossSum(5, 0, 1), 1)
            >>> both = one.combine(one).combine(Partial.zero(2, 3))
            >>> both.losses, both.gradient.sum()
            (LossSum(loss=10, overflows=0, rows=2), np.int64(12))
        """
        return Partial(
            gradient=np.add(self.gradient, other.gradient, dtype=np.int64),
            indicators=self.indicators + other.indicators,
            losses=self.losses.combine(other.losses),
            correct=self.correct + other.correct,
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The objective at one set of weights, over a set of rows."""

    loss: float
    """Mean hinge loss plus the regulariser; inf if a row overflows."""
    gradient: NDArray[np.float64]
    """The subgradient (C, D + 1), the bias in the last column."""
    accuracy: float
    """Fraction of the rows predicted correctly."""
    rows: int
    """The number of rows over which the loss is averaged."""


def finalize(
    total: Partial,
    W: NDArray[np.float64],
    mean: NDArray[np.float64],
    *,
    reg: float = 0.0,
    reg_bias: bool = False,
) -> Evaluation:
    """Return the loss, its subgradient and the accuracy from the sums over rows.

    `W` (C, D + 1) are the weights at which the rows were summed, and `mean` (D,) is the mean
    image. The order of the operations is fixed. First the sums are divided by N, so that repeating
    all rows gives a bit-identical result. Then the mean image is subtracted once, as a rank-1
    correction. Last, the regulariser `reg * ||W without bias||^2` adds `2 reg W`; with `reg_bias`
    its norm includes the bias.

    Raises ValueError if no rows were summed.
    """
    penalty = reg * squared_norm(W, bias=reg_bias) if reg else 0.0
    loss, rows = regularised(total.losses, penalty), total.losses.rows
    gradient = np.empty(W.shape)
    pixels, bias = gradient[:, :-1], gradient[:, -1:]
    np.divide(total.indicators[:, None], rows, out=bias)
    np.divide(total.gradient, rows, out=pixels)
    pixels -= bias * mean
    if reg:
        columns = W.shape[1] if reg_bias else W.shape[1] - 1
        with np.errstate(over="ignore"):  # the loss becomes inf
            gradient[:, :columns] += 2.0 * reg * W[:, :columns]
    return Evaluation(loss, gradient, total.correct / rows, rows)


def regularised(losses: LossSum, regulariser: float) -> float:
    """Return the mean loss plus the regulariser; inf if a row overflows or the sum is non-finite.

    Examples:
        >>> regularised(LossSum(3 << 80, 0, 2), 1.0), regularised(LossSum(3 << 80, 0, 2), math.nan)
        (2.5, inf)

    Raises ValueError if no rows were summed.
    """
    loss = losses.mean + regulariser
    return loss if math.isfinite(loss) else math.inf


def squared_norm(W: NDArray[np.float64], *, bias: bool = False) -> float:
    """Return `||W||^2` of weights (C, D + 1), without the bias or with it.

    Examples:
        >>> W = np.array([[1.0, 2.0, 3.0]])
        >>> squared_norm(W), squared_norm(W, bias=True)
        (5.0, 14.0)
    """
    return float(loops.squared_norm(W, W.shape[1] if bias else W.shape[1] - 1))
