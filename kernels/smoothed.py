"""The smoothed hinge, its gradient and a lower bound on the minimum loss, from exact integer sums.

The hinge of a margin m, smoothed at width mu (Nesterov's smoothing):

    h(m) = max over alpha of  alpha m - mu alpha^2 / 2,    alpha in {0, 1/Q, ..., 1}

The grid of Q levels makes h piecewise linear. h is at most mu / (8 Q^2) below the smoothed hinge
without a grid. As for the true hinge, the gradients of the rows are summed in integers, here in
units of 1/Q. The result is therefore bit-identical for any order and grouping of the rows and any
number of workers. The maximum is at the level nearest to m / mu, and that level is the slope of h.

Any alpha in [0, 1] is a feasible point of the dual of the Weston-Watkins SVM. Let
k_ij = alpha_ij for j != y_i, k_i,y_i = -sum_j alpha_ij, and G = 1/N sum_i k_i (outer) x_i with
x_i = (image_i - mean, 1). Because max(0, m) >= alpha m, the minimum loss over all W satisfies

    min  1/N sum_ij max(0, m_ij) + reg ||W||^2
      >= min  delta/N sum_ij alpha_ij + <G, W> + reg ||W||^2
       = delta/N sum_ij alpha_ij - ||G||^2 / (4 reg)

which is `SmoothedEvaluation.lower_bound`. Here ||W|| includes the bias. Without it, the bound
would be -inf unless the last column of G is 0.

Shapes: images (n, D) uint8, labels (n,) uint8, W (C, D + 1) float64 with the bias last, mean
(D,) float64.

Y. Nesterov, "Smooth minimization of non-smooth functions", Math. Program. 103, 2005.
"""

import math
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import smoothed_hinge as smoothed_loops
from kernels.exact_sum import LIMB_ROWS, LOSS_LIMBS, LossSum
from kernels.hinge import Scorer, check_arrays, pad
from kernels.partial import regularised, squared_norm
from kernels.simd import tiles as vector

_LARGEST_FACTOR = 127 * 256 + 127
"""The largest k that fits two signed bytes: k = 256 high + low."""

_LONGEST_RUN = min((2**31 - 1) // (255 * 128), LIMB_ROWS)
"""The most rows whose digit sums always fit int32; a shard has fewer."""


def levels(classes: int) -> int:
    """Return Q, the number of levels of alpha above 0.

    Q is the largest power of two for which Q (C - 1) fits two bytes.

    Examples:
        >>> [levels(classes) for classes in (2, 10, 128)]
        [16384, 2048, 256]
    """
    return 1 << ((_LARGEST_FACTOR // (classes - 1)).bit_length() - 1)


@dataclass(frozen=True, eq=False)
class SmoothedPartial:
    """The sums over a set of rows; `SmoothedPartial.zero` and `combine` make them a monoid."""

    gradient: NDArray[np.int64]
    """`sum_i k_i (outer) image_i` (C, D), in units of 1/Q."""
    indicators: NDArray[np.int64]
    """`sum_i k_i` (C,), in units of 1/Q."""
    smoothed: LossSum
    """The rows' smoothed losses."""
    hinge: LossSum
    """The rows' hinge losses."""
    alphas: int
    """Sum of all alpha_ij, in units of 1/Q."""
    squared_alphas: int
    """Sum of all alpha_ij^2, in units of 1/Q^2."""
    correct: int
    """The number of rows whose label has the highest score."""

    @classmethod
    def zero(cls, classes: int, columns: int) -> Self:
        """Return the sums over no rows."""
        gradient = np.zeros((classes, columns), np.int64)
        return cls(gradient, np.zeros(classes, np.int64), LossSum(), LossSum(), 0, 0, 0)

    def combine(self, other: "SmoothedPartial") -> "SmoothedPartial":
        """Return the sums over both sets of rows.

        Examples:
            >>> zero = SmoothedPartial.zero(2, 3)
            >>> zero.combine(zero).smoothed
            LossSum(loss=0, overflows=0, rows=0)
        """
        return SmoothedPartial(
            gradient=self.gradient + other.gradient,
            indicators=self.indicators + other.indicators,
            smoothed=self.smoothed.combine(other.smoothed),
            hinge=self.hinge.combine(other.hinge),
            alphas=self.alphas + other.alphas,
            squared_alphas=self.squared_alphas + other.squared_alphas,
            correct=self.correct + other.correct,
        )


def sum_smoothed_rows(
    scorer: Scorer,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    mu: float,
    delta: float = 1.0,
    tiles: bool = vector.BYTE_DOT_PRODUCT,
) -> SmoothedPartial:
    """Sum the smoothed loss and its gradient, the true hinge loss, and the alphas over rows.

    Margins are computed in the scorer's type, as in `kernels.hinge.sum_rows`. `tiles=False` sums
    the gradient without the processor's dot product of bytes, which gives the same integers more
    slowly.

    Examples:
        >>> from kernels.hinge import fold
        >>> W = np.array([[1.0, 0.0], [0.75, 0.0]])  # two classes, one pixel, and the bias
        >>> images, labels = np.array([[3]], np.uint8), np.array([0], np.uint8)
        >>> total = sum_smoothed_rows(fold(W), images, labels, mu=0.5)
        >>> total.alphas / levels(2), total.hinge.mean, total.smoothed.mean  # the margin is 0.25
        (0.5, 0.25, 0.0625)

    Raises ValueError if mu is not positive and finite, if a label has no weights, or if the shapes
    or types of the arrays do not fit.
    """
    if not 0 < mu < math.inf:
        raise ValueError(f"mu must be above 0 and finite, not {mu}")
    check_arrays(scorer.weights, images, labels)
    if images.dtype != np.uint8 or labels.dtype != np.uint8:
        raise ValueError(f"images and labels must be uint8, not {images.dtype}, {labels.dtype}")
    weights, images = pad(scorer.weights, images)
    grid, tiles = levels(len(scorer.offset)), tiles and vector.BYTE_DOT_PRODUCT
    settings = (weights.dtype.type(delta), float(mu), grid, tiles)
    parts = []
    for start in range(0, max(1, len(images)), _LONGEST_RUN):
        rows = np.arange(start, min(start + _LONGEST_RUN, len(images)))
        sums = _Sums.zero(weights, tiles)
        inputs = (images, labels, rows, weights, scorer.offset)
        counts = smoothed_loops.add_smoothed_rows(*inputs, *settings, *sums)
        parts.append(sums.to_partial(scorer.weights.shape, len(rows), counts))
    return reduce(SmoothedPartial.combine, parts)


class _Sums(NamedTuple):
    """The arrays that the compiled loop adds to."""

    gradient: NDArray[np.int64]
    digit_gradient: NDArray[np.int32]
    indicators: NDArray[np.int64]
    alphas: NDArray[np.int64]
    smoothed_limbs: NDArray[np.int64]
    hinge_limbs: NDArray[np.int64]

    @classmethod
    def zero(cls, weights: NDArray[np.floating], tiles: bool) -> "_Sums":
        """Return zeros; of the two gradients, the one that is not used is empty."""
        classes, columns = weights.shape
        return cls(
            np.zeros((0 if tiles else classes, columns), np.int64),
            np.zeros((2 * classes if tiles else 0, columns), np.int32),
            np.zeros(classes, np.int64),
            np.zeros(2, np.int64),
            np.zeros(LOSS_LIMBS, np.int64),
            np.zeros(LOSS_LIMBS, np.int64),
        )

    def to_partial(
        self, shape: tuple[int, ...], rows: int, counts: tuple[int, int, int]
    ) -> SmoothedPartial:
        """Return the sums without the padding, with digits and limbs joined."""
        classes, columns = shape
        correct, smoothed_overflows, hinge_overflows = counts
        gradient = self.gradient
        if len(self.digit_gradient):
            high, low = np.split(self.digit_gradient, 2)
            gradient = np.multiply(high, 256, dtype=np.int64)
            gradient += low
        return SmoothedPartial(
            gradient[:classes, :columns],
            self.indicators[:classes],
            LossSum.of_limbs(self.smoothed_limbs, smoothed_overflows, rows),
            LossSum.of_limbs(self.hinge_limbs, hinge_overflows, rows),
            alphas=int(self.alphas[0]),
            squared_alphas=int(self.alphas[1]),
            correct=correct,
        )


@dataclass(frozen=True, eq=False)
class SmoothedEvaluation:
    """The smoothed objective at one set of weights, and bounds on the minimum of the true one."""

    loss: float
    """Mean smoothed loss plus the regulariser; inf if a row overflows."""
    gradient: NDArray[np.float64]
    """The gradient of `loss` (C, D + 1), the bias in the last column."""
    hinge_loss: float
    """Mean hinge loss plus the regulariser."""
    lower_bound: float
    """A lower bound on `hinge_loss` over all weights."""
    smoothed_lower_bound: float
    """A lower bound on `loss` over all weights: `loss` minus ||gradient||^2 / (4 reg)."""
    accuracy: float
    """Fraction of the rows predicted correctly."""
    rows: int
    """The number of rows over which the losses are averaged."""


def finalize(
    total: SmoothedPartial,
    W: NDArray[np.float64],
    mean: NDArray[np.float64],
    *,
    mu: float,
    reg: float,
    delta: float = 1.0,
) -> SmoothedEvaluation:
    """Return the smoothed loss, its gradient, the hinge loss and the bounds from the sums.

    `W` (C, D + 1), `mean` (D,), `mu` and `delta` must be those used for the sums. The regulariser
    is `reg ||W||^2`, including the bias. The sums are divided by N first, so that repeating all
    rows gives a bit-identical result.

    Raises ValueError if no rows were summed, or if `reg` is not positive and finite, because there
    is no bound then.
    """
    if not 0 < reg < math.inf:
        raise ValueError(f"a lower bound needs a reg above 0 and finite, not {reg}")
    rows, grid = total.hinge.rows, levels(len(W))
    if rows == 0:
        raise ValueError("the mean over no rows is not defined; sum at least one row")
    gradient = np.empty(W.shape)
    pixels, bias = gradient[:, :-1], gradient[:, -1:]
    np.divide(total.indicators[:, None], rows * grid, out=bias)
    np.divide(total.gradient, rows * grid, out=pixels)
    pixels -= bias * mean
    bound = delta * (total.alphas / (rows * grid)) - squared_norm(gradient, bias=True) / (4 * reg)
    with np.errstate(over="ignore"):  # the losses become inf
        gradient += 2.0 * reg * W
        regulariser = reg * squared_norm(W, bias=True)
    return SmoothedEvaluation(
        loss=regularised(total.smoothed, regulariser),
        gradient=gradient,
        hinge_loss=regularised(total.hinge, regulariser),
        lower_bound=bound,
        smoothed_lower_bound=bound - 0.5 * mu * (total.squared_alphas / (rows * grid**2)),
        accuracy=total.correct / rows,
        rows=rows,
    )
