"""The hinge loss along a line W + a V: exactly known, and so is where it is lowest.

Scores are linear in the weights, so a margin is linear in the step size a,

    m_ij(a) = m_ij + a d_ij,    m_ij = s_ij - s_i,y_i + delta,    d_ij = t_ij - t_i,y_i

with s the scores of W and t those of V, j != y_i. The sum of the hinges max(0, m_ij(a)) is
convex and piecewise linear in a, with a breakpoint where a margin is 0. Two passes over the
images give m and d; after them, no step size costs more than O(N C).

What floating point makes of it is said here, once; everything is float64.

* A row's loss at a is the sum, in the order of the classes, of `max(0, m_ij + a * d_ij)`, where
  a margin is rounded once, and counts in units of 2^-80, as in `kernels.partial`.
* The breakpoint of a margin is at `p_ij = -m_ij / d_ij`, rounded. A rising margin (d > 0) is
  active at a where p <= a, a falling one where p > a: the right-hand derivative. All that
  speaks of slopes compares positions with a, and never asks for the sign of a margin; so the
  sums of slopes and the breakpoints describe one and the same function.
* A slope counts in units of 2^-80, cut towards zero: V is not to be so short that this shows.

Sums are integers: neither the order of the rows nor their grouping changes a bit. Sum over
the `Line` of every shard, and combine; `kernels.line_minimum` needs no more than that.
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
    """The margins of some rows along a line; see the module's m_ij and d_ij."""

    margins: NDArray[np.float64]
    """(C - 1, n): row k is the k-th wrong class of each of n rows."""
    slopes: NDArray[np.float64]
    """(C - 1, n): what a margin gains for a step of size 1."""

    def __post_init__(self) -> None:
        for array in (self.margins, self.slopes):
            if array.ndim != 2 or array.dtype != np.float64 or not array.flags.c_contiguous:
                raise ValueError(
                    "margins and slopes must be (C - 1, n) float64, one row after the other, "
                    f"not {array.shape} {array.dtype}"
                )
        if self.margins.shape != self.slopes.shape:
            raise ValueError(
                f"margins {self.margins.shape} need as many slopes, not {self.slopes.shape}"
            )

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return int(self.margins.shape[1])

    def __sizeof__(self) -> int:
        """Return its bytes, by which Dask places and counts it."""
        return self.margins.nbytes + self.slopes.nbytes


def margins_along_line(
    scorer: Scorer,
    direction: Scorer,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    delta: float = 1.0,
) -> Line:
    """Return the line from the weights of `scorer` in the direction of another's.

    Both are float64, and folded with the mean image by `hinge.fold`. `images` (n, D) and
    `labels` (n,) are uint8. It takes two passes over the images.

    Raises ValueError for scorers of other types, or arrays that do not fit together.

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
            f"weights {scorer.weights.shape} need a direction of their shape, "
            f"not {direction.weights.shape}"
        )
    return Line(
        differences(scorer, images, labels, delta), differences(direction, images, labels, 0.0)
    )


def differences(
    scorer: Scorer, images: NDArray[np.uint8], labels: NDArray[np.uint8], constant: float
) -> NDArray[np.float64]:
    """Return `s_ij - s_i,y_i + constant` (C - 1, n), row k that of each row's k-th wrong class.

    It takes a pass over the images (n, D).

    Raises ValueError for scores that are not float64, or arrays that do not fit together.
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
    """Return the rows' loss at each of the step sizes (K,), without the regulariser.

    At 0 it is, to the bit, what `kernels.hinge.sum_rows` sums with float64 scores.

    Raises ValueError for step sizes that are not finite.
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
    """The slopes of a set of rows' losses; `SlopeSum()` and `combine` make them a monoid."""

    slope: int = 0
    """Sum of the right-hand derivatives in units of 2^-80, without what overflows."""
    breakpoints: int = 0
    """How many lie in (0, a]."""
    overflows: int = 0
    """Margins that are not finite, or whose slope is not finite or 2^80 or more in size."""
    rows: int = 0
    """How many rows were summed."""

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
    """Return the right-hand derivative of the summed loss at each of the step sizes (K,).

    The breakpoints in (low, high] are the difference of the counts at both. At a = 0 it is
    not the slope of the subgradient that descent takes where a margin is 0.

    Raises ValueError for step sizes that are not finite.
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

    A jump is what the slope gains there, |d_ij|. Their order means nothing.

    Raises ValueError for bounds that are not finite.
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
