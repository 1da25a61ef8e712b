"""The exact minimum of the regularised loss along the ray W + a V, a >= 0.

    phi(a) = 1/N sum hinge(a) + reg ||W + a V||^2

The slope of phi never decreases as a grows: the slope of the hinges steps up at the breakpoints,
and the slope of the regulariser is linear. Multisection brackets the step size at which the slope
stops being negative. Each of its passes over the rows evaluates many step sizes. When the bracket
contains few enough breakpoints, they are fetched and sorted, and integer and rational arithmetic
finds the minimum. The result is the minimum of the function that `kernels.line` defines, rounded
at most once. It is bit-identical for every partition and every order of the rows.
"""

import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.exact_sum import LOSS_UNIT_BITS
from kernels.line import SlopeSum

Floats = NDArray[np.float64]
SlopesAt = Callable[[Floats], Sequence[SlopeSum]]
"""One pass: `line.slopes` of all rows at step sizes (K,), one `SlopeSum` per step size."""
BreakpointsWithin = Callable[[float, float], tuple[Floats, Floats]]
"""One pass: `line.breakpoints` of all rows in (low, high], in any order."""

SECTIONS = 32
"""Step sizes that a pass evaluates between the two ends of the bracket.

Three passes reduce the bracket to 1/33^3 of all non-negative float64 numbers. Its ends then differ
by less than 6 %. Two passes would need 189 step sizes each for that."""

MAX_FETCHED = 20_000
"""Largest number of breakpoints to fetch (320 kB)."""

LARGEST = sys.float_info.max
"""The end of the ray: the largest float64. Breakpoints beyond it are ignored."""


class LineMinimum(NamedTuple):
    """The minimum of the loss along a ray."""

    step_size: float
    """The smallest a >= 0 at which the loss is lowest: the left end of a flat bottom."""
    breakpoints: int
    """Number of breakpoints on the ray, at a > 0."""


class Penalty(NamedTuple):
    """`reg ||W + a V||^2` minus its value at a = 0: `linear * a + quadratic * a^2`."""

    linear: float = 0.0
    """`2 reg <W, V>`."""
    quadratic: float = 0.0
    """`reg ||V||^2`."""


def penalty(W: Floats, V: Floats, reg: float, *, reg_bias: bool = False) -> Penalty:
    """Return the regulariser along the line; with `reg_bias` it includes the bias (last column).

    The products are summed exactly (`math.fsum`), so their order does not matter.

    Examples:
        >>> penalty(np.array([[1.0, 9.0]]), np.array([[-2.0, 9.0]]), reg=0.5)
        Penalty(linear=-2.0, quadratic=2.0)
    """
    columns = W.shape[1] if reg_bias else W.shape[1] - 1
    along = V[:, :columns]
    product, square = math.fsum((W[:, :columns] * along).flat), math.fsum((along * along).flat)
    return Penalty(2.0 * reg * product, reg * square)


NO_PENALTY = Penalty()


def minimum(
    slopes_at: SlopesAt, breakpoints_within: BreakpointsWithin, penalty: Penalty = NO_PENALTY
) -> LineMinimum:
    """Return the minimum of the mean hinge loss plus the penalty on the ray a >= 0.

    Raises ValueError if there are no rows, if a margin overflows (see `SlopeSum`), if the penalty
    is not finite or not convex, or if the loss still falls at the largest float64.

    Examples:
        >>> from kernels.line import Line, breakpoints, slopes
        >>> line = Line(np.array([[1.0, 3.0, -1.0]]), np.array([[-1.0, -2.0, 2.0]]))
        >>> def slopes_at(steps):
        ...     return slopes(line, steps)
        >>> def breakpoints_within(low, high):
        ...     return breakpoints(line, low, high)

        The slope is -3 from 0, -1 from 0.5, 0 from 1 and 2 from 1.5.

        >>> minimum(slopes_at, breakpoints_within)
        LineMinimum(step_size=1.0, breakpoints=3)

        The slope of the penalty, 4 a / 9, is 1 / 3 at 0.75.

        >>> minimum(slopes_at, breakpoints_within, Penalty(linear=0.0, quadratic=1 / 4.5))
        LineMinimum(step_size=0.75, breakpoints=3)
    """
    steps = [0.0, *_between(0.0, LARGEST), LARGEST]
    sums = slopes_at(np.array(steps))
    slope = _Slope.of(sums[0], penalty)
    on_ray = sums[-1].breakpoints
    if slope(sums[0].slope, 0.0) >= 0:
        return LineMinimum(0.0, on_ray)
    if slope(sums[-1].slope, LARGEST) < 0:
        raise ValueError("the loss falls along the whole ray; use a direction of another scale")
    while True:
        i = next(i for i, a in enumerate(steps) if slope(sums[i].slope, a) >= 0)
        (low, high), (below, above) = steps[i - 1 : i + 1], sums[i - 1 : i + 1]
        between = _between(low, high)
        if above.breakpoints - below.breakpoints <= MAX_FETCHED or not between:
            break
        steps = [low, *between, high]
        sums = [below, *slopes_at(np.array(between)), above]
    positions, jumps = np.empty((2, 0))
    # If no number is between the two ends, all breakpoints are at `high` and none is fetched.
    if between and above.breakpoints > below.breakpoints:
        positions, jumps = breakpoints_within(low, high)
    return LineMinimum(_walk(slope, below.slope, positions, jumps, high), on_ray)


@dataclass(frozen=True)
class _Slope:
    """The exact derivative of phi times N, in units of 2^-80."""

    linear: Fraction
    quadratic: Fraction

    @classmethod
    def of(cls, total: SlopeSum, penalty: Penalty) -> "_Slope":
        if not total.rows:
            raise ValueError("the mean over no rows is not defined; sum at least one row")
        if total.overflows:
            raise ValueError(
                f"{total.overflows} margins are not finite, or their slope is not finite or at "
                "least 2^80 in size; use smaller weights and a shorter direction"
            )
        if not (all(map(math.isfinite, penalty)) and penalty.quadratic >= 0):
            raise ValueError(f"the penalty must be finite and convex, not {penalty}")
        unit = total.rows << LOSS_UNIT_BITS
        return cls(Fraction(penalty.linear) * unit, 2 * Fraction(penalty.quadratic) * unit)

    def __call__(self, data: int, a: float) -> Fraction:
        """Return the slope at `a`, given the slope `data` of the summed hinges there."""
        return data + self.linear + self.quadratic * Fraction(a)

    def zero(self, data: int) -> float:
        """Return the a at which the slope is 0, rounded, given the slope `data` of the hinges."""
        return float(-(data + self.linear) / self.quadratic)


def _walk(slope: _Slope, below: int, positions: Floats, jumps: Floats, high: float) -> float:
    """Return the step size at which the slope stops being negative.

    `below` is the slope of the hinges before the first breakpoint. The slope of the hinges plus
    the penalty is negative there, and not negative at `high`, which is at or after the last
    breakpoint.
    """
    order = np.argsort(positions)
    ends: list[float] = [*positions[order].tolist(), high]
    # Rounded towards zero, as slopes are.
    gains = map(int, (jumps[order] * 2.0**LOSS_UNIT_BITS).tolist())
    data = list(accumulate(gains, initial=below))  # data[i] is the slope up to ends[i]

    def not_negative(i: int) -> bool:
        return slope(data[i + 1], ends[i]) >= 0

    i = bisect_left(range(len(positions)), True, key=not_negative)
    if slope(data[i], ends[i]) > 0:  # the slope is 0 earlier, at the lowest point of a parabola
        return slope.zero(data[i])
    return ends[i]


def _between(low: float, high: float) -> list[float]:
    """Return up to `SECTIONS` increasing numbers between two non-negative ones.

    They divide the set of float64 numbers between the two evenly, not the distance, so that no
    scale is favoured. 13 passes isolate any of the 2^63 non-negative numbers.
    """
    first, last = np.array([low, high]).view(np.int64).tolist()
    sections = range(1, SECTIONS + 1)
    bits = {first + (last - first) * k // (SECTIONS + 1) for k in sections} - {first, last}
    between: list[float] = np.array(sorted(bits), np.int64).view(np.float64).tolist()
    return between
