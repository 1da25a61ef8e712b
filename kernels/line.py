"""The hinge loss along a line W + a V: exact sums of its values, slopes and breakpoints.

Scores are linear in the weights, so a margin is linear in the step size a,

    m_ij(a) = m_ij + a d_ij,    m_ij = s_ij - s_i,y_i + delta,    d_ij = t_ij - t_i,y_i

where s are the scores of W, t those of V, and j != y_i. The sum of the hinges max(0, m_ij(a)) is
convex and piecewise linear in a, with a breakpoint where a margin is 0. Two passes over the
images give m and d. After them, each step size costs O(N C).

The following rules define the results in floating point. Everything is float64.

* A row's loss at a is the sum of `max(0, m_ij + a * d_ij)` in the order of the classes. A margin
  is rounded once. The loss is summed in units of 2^-80, as in `kernels.exact_sum`.
* The breakpoint of a margin is at `p_ij = -m_ij / d_ij`, rounded. At a, a rising margin (d > 0)
  is active if p <= a, and a falling margin if p > a. This gives the right-hand derivative.
  Slopes and breakpoints are computed only by comparing positions with a, never from the sign of
  a margin. They therefore describe the same function.
* A slope is summed in units of 2^-80, rounded towards zero. V must not be so short that this
  rounding matters.

Sums are integers, so they do not depend on the order or the grouping of the rows. Sum over the
`Line` of every shard and combine the sums; `kernels.line_minimum` needs nothing else.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernels.compiled import lines as line_loops
from kernels.exact_sum import LOSS_UNIT_BITS, LossSum
from kernels.hinge import Scorer, scores


@dataclass(frozen=True, eq=False)
class Line:
    """The margins of some rows along a line: m_ij and d_ij of the module's docstring."""

    margins: NDArray[np.float64]
    """(C - 1, n): entry [k, i] is the margin of image i for its k-th wrong class."""
    slopes: NDArray[np.float64]
    """(C - 1, n): the change of a margin per unit of the step size."""

    def __post_init__(self) -> None:
        for array in (self.margins, self.slopes):
            if array.ndim != 2 or array.dtype != np.float64 or not array.flags.c_contiguous:
                raise ValueError(
                    "margins and slopes must be (C - 1, n) float64 in C order, "
                    f"not {array.shape} {array.dtype}"
                )
        if self.margins.shape != self.slopes.shape:
            raise ValueError(
                f"margins {self.margins.shape} need slopes of the same shape, "
                f"not {self.slopes.shape}"
            )

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.margins.shape[1])

    def __sizeof__(self) -> int:
        """Return the size in bytes, which Dask uses to place tasks and to account for memory."""
        return self.margins.nbytes + self.slopes.nbytes


def margins_along_line(
    scorer: Scorer,
    direction: Scorer,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    delta: float = 1.0,
) -> Line:
    """Return the line that starts at the weights of `scorer` in the direction `direction`.

    Both scorers are float64, with the mean image folded in by `hinge.fold`. `images` (n, D) and
    `labels` (n,) are uint8. The function makes two passes over the images.

    Raises ValueError if a scorer is not float64, if a label has no weights, or if shapes or types
    of the arrays do not match.

    Examples:
        >>> weights = Scorer(np.array([[1.0], [0.0], [2.0]]), np.zeros(3))
        >>> falling = Scorer(np.array([[0.0], [0.0], [-1.0]]), np.zeros(3))
        >>> images, labels = np.array([[3]], np.uint8), np.array([0], np.uint8)
        >>> line = margins_along_line(weights, falling, images, labels)
        >>> line.margins.tolist(), line.slopes.tolist()
        ([[-2.0], [4.0]], [[0.0], [-3.0]])
        >>> [total.mean for total in losses(line, [0.0, 1.0, 2.0])]
        [4.0, 1.0, 0.0]
    """
    if direction.weights.shape != scorer.weights.shape:
        raise ValueError(
            f"weights {scorer.weights.shape} need a direction of the same shape, "
            f"not {direction.weights.shape}"
        )
    return Line(
        differences(scorer, images, labels, delta), differences(direction, images, labels, 0.0)
    )


def differences(
    scorer: Scorer, images: NDArray[np.uint8], labels: NDArray[np.uint8], constant: float
) -> NDArray[np.float64]:
    """Return `s_ij - s_i,y_i + constant` (C - 1, n): [k, i] is for the k-th wrong class of row i.

    The function makes one pass over the images (n, D).

    Raises ValueError if the scorer is not float64, if a label has no weights, or if shapes or
    types of the arrays do not match.
    """
    classes = len(scorer.offset)
    if scorer.weights.dtype != np.float64:
        raise ValueError(f"weights must be float64, not {scorer.weights.dtype}")
    if labels.dtype != np.uint8 or labels.shape != (len(images),):
        raise ValueError(
            f"{len(images)} images need labels ({len(images)},) uint8, "
            f"not {labels.shape} {labels.dtype}"
        )
    if len(labels) and labels.max() >= classes:
        raise ValueError(f"labels must be in 0..{classes - 1}, not {labels.max()}")
    out = np.empty((classes - 1, len(labels)))
    line_loops.differences(scores(scorer, images), labels, float(constant), out)
    return out


def losses(line: Line, steps: ArrayLike) -> tuple[LossSum, ...]:
    """Return the summed loss of the rows at each step size (K,), without the regulariser.

    At step size 0 the sum is bit-identical to that of `kernels.hinge.sum_rows` with float64
    scores.

    Raises ValueError if a step size is not finite.
    """
    sizes = check_steps(steps)
    limbs = np.zeros((len(sizes), line_loops.LIMBS), np.int64)
    overflows = np.zeros(len(sizes), np.int64)
    line_loops.losses(line.margins, line.slopes, sizes, limbs, overflows)
    return tuple(
        LossSum.of_limbs(row, count, line.rows)
        for row, count in zip(limbs, overflows.tolist(), strict=True)
    )


@dataclass(frozen=True)
class SlopeSum:
    """The sum of the slopes of a set of rows' losses. `SlopeSum()` is the sum over no rows."""

    slope: int = 0
    """Sum of the right-hand derivatives in units of 2^-80, without the margins that overflow."""
    breakpoints: int = 0
    """Number of breakpoints in (0, a]."""
    overflows: int = 0
    """Margins that are not finite, or whose slope is not finite or at least 2^80 in size."""
    rows: int = 0
    """Number of rows."""

    def combine(self, other: "SlopeSum") -> "SlopeSum":
        """Return the sum over both sets of rows."""
        return SlopeSum(
            self.slope + other.slope,
            self.breakpoints + other.breakpoints,
            self.overflows + other.overflows,
            self.rows + other.rows,
        )

    @property
    def mean(self) -> float:
        """The derivative of the mean loss; nan if a margin overflows.

        Raises ValueError if no row was summed.
        """
        if self.rows == 0:
            raise ValueError("the mean over no rows is not defined; sum at least one row")
        return math.nan if self.overflows else self.slope / (self.rows << LOSS_UNIT_BITS)


def slopes(line: Line, steps: ArrayLike) -> tuple[SlopeSum, ...]:
    """Return the right-hand derivative of the summed loss at each step size (K,).

    For 0 <= low, the number of breakpoints in (low, high] is the difference of the counts at both
    ends. If a margin is 0 at a = 0, the right-hand derivative there can differ from the slope
    along the subgradient, which has the indicator 0 at a kink.

    Raises ValueError if a step size is not finite.
    """
    sizes = check_steps(steps)
    limbs = np.zeros((len(sizes), line_loops.LIMBS), np.int64)
    counts = np.zeros(len(sizes), np.int64)
    flat_margins, flat_slopes = line.margins.ravel(), line.slopes.ravel()
    overflows = line_loops.slopes(flat_margins, flat_slopes, sizes, limbs, counts)
    return tuple(
        SlopeSum(LossSum.of_limbs(row, 0, 0).loss, count, overflows, line.rows)
        for row, count in zip(limbs, counts.tolist(), strict=True)
    )


def breakpoints(
    line: Line, low: float, high: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the positions (k,) of the breakpoints in (low, high], and their jumps (k,).

    A jump is the increase of the slope at the breakpoint, |d_ij|. The breakpoints are in no
    particular order.

    Raises ValueError if a bound is not finite.
    """
    low, high = check_steps([low, high]).tolist()
    out = np.empty((2, line.margins.size))
    found = line_loops.breakpoints(line.margins.ravel(), line.slopes.ravel(), low, high, out)
    positions, jumps = out[:, :found].copy()
    return positions, jumps


def check_steps(steps: ArrayLike) -> NDArray[np.float64]:
    """Return the step sizes as (K,) float64; raise ValueError unless they are finite."""
    sizes = np.array(steps, np.float64, order="C")
    if sizes.ndim != 1 or not np.isfinite(sizes).all():
        raise ValueError(f"step sizes must be (K,) finite numbers, not {steps!r}")
    return sizes
