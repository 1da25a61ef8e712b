"""`Partial`: what a block of rows adds to the loss and its gradient, as exact integers.

It is the value that crosses the cluster, or its `LossSum` alone where no gradient is wanted.
Integers add up to the same total in any order and in any grouping, so the number of workers, the
size of a shard and a worker's death cannot change a bit of the result. What is rounded is rounded
once, in `finalize`.

What a non-finite number means is decided here, for all kernels. A score that leaves the range
of its type becomes inf, -inf or nan, and the margins taken from it have lost their sign. So:

* A row overflows if any of its margins is not finite, whatever the sign, or if its loss is 2^80
  or more. A finite margin below 0 adds nothing, however large it is.
* A row that overflows is counted in `LossSum.overflows` and adds nothing to the sum of losses.
  Its predicted class and its part of the gradient mean nothing.
* The mean loss is inf if one row overflows. So is the objective, and also if the regulariser is
  not finite (`regularised`).
* Along a line and over a plane the margins are those at the point, as they are rounded there.
  A sum of slopes never looks at a point: a margin overflows there if it is not finite at step
  size 0, or if its slope is not finite or 2^80 or more in size (`kernels.line.SlopeSum`).
* A finite difference that meets a margin that is not finite refuses
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
    """The rows' losses, and how many rows they are."""
    correct: int
    """How many of them have their highest score at their label."""

    @classmethod
    def zero(cls, classes: int, columns: int) -> Self:
        """Return the sums over no row."""
        gradient = np.zeros((classes, columns), np.int64)
        return cls(gradient, np.zeros(classes, np.int64), LossSum(), 0)

    def combine(self, other: "Partial") -> "Partial":
        """Return the sums over both sets of rows.

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
    """The objective at some weights, over some rows."""

    loss: float
    """Mean hinge loss plus the regulariser; inf if a row overflows."""
    gradient: NDArray[np.float64]
    """The subgradient (C, D + 1), the bias in the last column."""
    accuracy: float
    """Fraction of the rows predicted right."""
    rows: int
    """How many rows it is the mean of."""


def finalize(
    total: Partial,
    W: NDArray[np.float64],
    mean: NDArray[np.float64],
    *,
    reg: float = 0.0,
    reg_bias: bool = False,
) -> Evaluation:
    """Turn sums into the loss, its subgradient and the accuracy.

    `W` (C, D + 1) are the weights the sums were taken at, `mean` (D,) the mean image.
    1/N comes first, so that rows repeated any number of times give the same bits; then the
    mean, once, as a correction of rank one; then the regulariser
    `reg * ||W without bias||^2`, whose gradient is `2 reg W`; with `reg_bias` the bias counts
    in its norm as well.

    Raises ValueError if no row was summed.
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
        with np.errstate(over="ignore"):  # the loss says so
            gradient[:, :columns] += 2.0 * reg * W[:, :columns]
    return Evaluation(loss, gradient, total.correct / rows, rows)


def regularised(losses: LossSum, regulariser: float) -> float:
    """Return the mean loss plus the regulariser; inf if a row overflows or it is not finite.

    >>> regularised(LossSum(3 << 80, 0, 2), 1.0), regularised(LossSum(3 << 80, 0, 2), math.nan)
    (2.5, inf)

    Raises ValueError if no row was summed.
    """
    loss = losses.mean + regulariser
    return loss if math.isfinite(loss) else math.inf


def squared_norm(W: NDArray[np.float64], *, bias: bool = False) -> float:
    """Return `||W||^2` of weights (C, D + 1), without the bias or with it.

    >>> W = np.array([[1.0, 2.0, 3.0]])
    >>> squared_norm(W), squared_norm(W, bias=True)
    (5.0, 14.0)
    """
    return float(loops.squared_norm(W, W.shape[1] if bias else W.shape[1] - 1))
