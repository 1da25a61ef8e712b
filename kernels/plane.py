"""The hinge loss over a plane W + a U + b V.

A margin is linear in a and b,

    m_ij(a, b) = m_ij + a d_ij + b e_ij

where d and e are the differences of the scores of U and of V (see `kernels.line`). Three passes
over the images give m, d and e. The losses at all points are computed from these, without another
pass.

In floating point a margin is rounded twice: when `b e_ij` is added, and then when `a d_ij` is
added. Losses are summed as integers in units of 2^-80, so the sums do not depend on the order or
the grouping of the rows. If b is 0 and V is finite, the losses are bit-identical to those along
the line W + a U.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernels.compiled import lines as line_loops
from kernels.compiled import planes as plane_loops
from kernels.exact_sum import LIMB_BITS, LOSS_UNIT_BITS
from kernels.hinge import Scorer
from kernels.line import Line, check_steps, differences, margins_along_line


@dataclass(frozen=True, eq=False)
class Plane:
    """The margins of some rows over a plane."""

    line: Line
    """The margins along the first direction, at b = 0."""
    second: NDArray[np.float64]
    """(C - 1, n): the change of a margin per unit of b."""

    def __post_init__(self) -> None:
        Line(self.line.margins, self.second)  # checks the arrays

    def __sizeof__(self) -> int:
        """Return the size in bytes, which Dask uses to place tasks and to account for memory."""
        return self.line.__sizeof__() + self.second.nbytes


def margins_over_plane(
    scorer: Scorer,
    first: Scorer,
    second: Scorer,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    delta: float = 1.0,
) -> Plane:
    """Return the plane through the weights of `scorer` in the directions `first` and `second`.

    Arguments and errors are those of `kernels.line.margins_along_line`. The function makes three
    passes over the images.

    Examples:
        >>> weights = Scorer(np.array([[1.0], [0.0], [2.0]]), np.zeros(3))
        >>> first = Scorer(np.array([[0.0], [0.0], [-1.0]]), np.zeros(3))
        >>> second = Scorer(np.array([[1.0], [0.0], [0.0]]), np.zeros(3))
        >>> images, labels = np.array([[3]], np.uint8), np.array([0], np.uint8)
        >>> plane = margins_over_plane(weights, first, second, images, labels)
        >>> losses(plane, [0.0, 1.0, 2.0], [0.0, -1.0]).means
        array([[4., 1., 0.],
               [8., 5., 2.]])
    """
    line = margins_along_line(scorer, first, images, labels, delta=delta)
    if second.weights.shape != scorer.weights.shape:
        raise ValueError(
            f"weights {scorer.weights.shape} need a second direction of the same shape, "
            f"not {second.weights.shape}"
        )
    return Plane(line, differences(second, images, labels, 0.0))


@dataclass(frozen=True, eq=False)
class PlaneSum:
    """The sums of the losses of a set of rows at each point of a plane."""

    limbs: NDArray[np.int64]
    """(M, K, LIMBS): in units of 2^-80, 40 bits per limb, without the rows that overflow."""
    overflows: NDArray[np.int64]
    """(M, K): number of rows that overflow; see `kernels.partial`."""
    rows: int

    def combine(self, other: Self) -> Self:
        """Return the sums over both sets of rows."""
        limbs = self.limbs + other.limbs
        for k in range(limbs.shape[-1] - 1):  # carry, as the compiled loop does
            limbs[..., k + 1] += limbs[..., k] >> LIMB_BITS
            limbs[..., k] &= (1 << LIMB_BITS) - 1
        return type(self)(limbs, self.overflows + other.overflows, self.rows + other.rows)

    @property
    def means(self) -> NDArray[np.float64]:
        """The mean loss at each point (M, K), rounded once; inf where a row overflows.

        Raises ValueError if no row was summed.
        """
        if self.rows == 0:
            raise ValueError("the mean over no rows is not defined; sum at least one row")
        shape, unit = self.overflows.shape, self.rows << LOSS_UNIT_BITS
        limbs = self.limbs.reshape(-1, line_loops.LIMBS).tolist()
        means = [
            math.inf if overflows else _joined(point) / unit
            for point, overflows in zip(limbs, self.overflows.flat, strict=True)
        ]
        return np.array(means).reshape(shape)


def _joined(limbs: list[int]) -> int:
    return sum(limb << (k * LIMB_BITS) for k, limb in enumerate(limbs))


def losses(plane: Plane, a: ArrayLike, b: ArrayLike) -> PlaneSum:
    """Return the summed losses at all pairs of `a` (K,) and `b` (M,), without the regulariser.

    Raises ValueError if a step size is not finite.
    """
    across, up = check_steps(a), check_steps(b)
    limbs = np.zeros((len(up), len(across), line_loops.LIMBS), np.int64)
    overflows = np.zeros((len(up), len(across)), np.int64)
    line = plane.line
    plane_loops.losses(line.margins, line.slopes, plane.second, across, up, limbs, overflows)
    return PlaneSum(limbs, overflows, line.rows)
