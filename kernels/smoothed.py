"""The smoothed hinge, its gradient, and a lower bound on the best loss, as exact integers.

The hinge of a margin m, smoothed at width mu (Nesterov's smoothing):

    h(m) = max over alpha of  alpha m - mu alpha^2 / 2,    alpha in {0, 1/Q, ..., 1}

The grid of Q levels makes h piecewise linear, not more than mu / (8 Q^2) below the smooth
one, and the gradient an integer matrix again, so that here too order, grouping and workers
change no bit. The maximum is at the level next to m / mu, which is then the slope.

Any alpha in [0, 1] is a feasible point of the dual of the Weston-Watkins SVM. Let
k_ij = alpha_ij for j != y_i, k_i,y_i = -sum_j alpha_ij, and G = 1/N sum_i k_i (outer) x_i with
x_i = (image_i - mean, 1). As h(m) >= alpha m for the hinge h, the least loss over all W is

    min  1/N sum_ij max(0, m_ij) + reg ||W||^2
      >= min  delta/N sum_ij alpha_ij + <G, W> + reg ||W||^2
       = delta/N sum_ij alpha_ij - ||G||^2 / (4 reg)

which is `SmoothedEvaluation.lower_bound`. The norm of W has the bias in it, as it must for the
bound to be more than -inf whatever G's last column is.

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
"""The largest k that two signed bytes hold: k = 256 high + low."""

_LONGEST_RUN = min((2**31 - 1) // (255 * 128), LIMB_ROWS)
"""Rows whose digits' sums fit int32, whatever their pixels; it is more than a shard has."""


def levels(classes: int) -> int:
    """Return Q, the levels of alpha above 0: a power of two whose Q (C - 1) fits two bytes.

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
    """How many rows have their highest score at their label."""

    @classmethod
    def zero(cls, classes: int, columns: int) -> Self:
        """Return the sums over no row."""
        gradient = np.zeros((classes, columns), np.int64)
        return cls(gradient, np.zeros(classes, np.int64), LossSum(), LossSum(), 0, 0, 0)

    def combine(self, other: "SmoothedPartial") -> "SmoothedPartial":
        """Return the sums over both sets of rows.

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
    """Sum the smoothed and the true hinge loss, the alphas and their gradient over rows.

    Margins are taken in the scorer's type, as `kernels.hinge.sum_rows` takes them.
    `tiles=False` sums the gradient without the processor's dot product of bytes: the same
    integers, slower.

    >>> from kernels.hinge import fold
    >>> W = np.array([[1.0, 0.0], [0.75, 0.0]])  # two classes, one pixel, and the bias
    >>> images, labels = np.array([[3]], np.uint8), np.array([0], np.uint8)
    >>> total = sum_smoothed_rows(fold(W), images, labels, mu=0.5)
    >>> total.alphas / levels(2), total.hinge.mean, total.smoothed.mean  # its margin is 0.25
    (0.5, 0.25, 0.0625)

    Raises ValueError for mu not above 0 or not finite, a label without weights, or arrays
    whose shapes or types do not fit.
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
    """What the compiled loop adds to."""

    gradient: NDArray[np.int64]
    digit_gradient: NDArray[np.int32]
    indicators: NDArray[np.int64]
    alphas: NDArray[np.int64]
    smoothed_limbs: NDArray[np.int64]
    hinge_limbs: NDArray[np.int64]

    @classmethod
    def zero(cls, weights: NDArray[np.floating], tiles: bool) -> "_Sums":
        """Return zeros, of which that gradient is empty that is not used."""
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
        """Return the sums without the padding, the digits and the limbs joined."""
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
    """The smoothed objective at some weights, and what it says of the true one's minimum."""

    loss: float
    """Mean smoothed loss plus the regulariser; inf if a row overflows."""
    gradient: NDArray[np.float64]
    """The gradient of `loss` (C, D + 1), the bias in the last column."""
    hinge_loss: float
    """Mean hinge loss plus the regulariser."""
    lower_bound: float
    """Never above the least `hinge_loss` of any weights."""
    smoothed_lower_bound: float
    """Never above the least `loss` of any weights: `loss` less it is ||gradient||^2 / (4 reg)."""
    accuracy: float
    """Fraction of the rows predicted right."""
    rows: int
    """How many rows it is the mean of."""


def finalize(
    total: SmoothedPartial,
    W: NDArray[np.float64],
    mean: NDArray[np.float64],
    *,
    mu: float,
    reg: float,
    delta: float = 1.0,
) -> SmoothedEvaluation:
    """Turn sums into the smoothed loss, its gradient, the hinge loss and the bounds.

    `W` (C, D + 1), `mean` (D,), `mu` and `delta` are what the sums were taken with. The
    regulariser is `reg ||W||^2`, the bias included. 1/N comes first, so that rows repeated
    any number of times give the same bits.

    Raises ValueError if no row was summed or `reg` is not above 0: there is no bound then.
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
    with np.errstate(over="ignore"):  # the losses say so
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
