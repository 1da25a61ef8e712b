"""Where the regularised loss along the ray W + a V, a >= 0, is lowest: found exactly.

    phi(a) = 1/N sum hinge(a) + reg ||W + a V||^2

Its slope never falls as a grows: that of the hinges steps up at the breakpoints, and that of
the regulariser is linear. Multisection closes in on the place where it stops being negative,
a pass over the rows for many step sizes, until the breakpoints between are few enough to
fetch; they are sorted, and the rest is integer and rational arithmetic. So the minimum is
that of the function that `kernels.line` defines, rounded once at most, and the same bits
however the rows are cut and ordered.
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
"""`line.slopes` of all rows at step sizes (K,), one `SlopeSum` each: a pass."""
BreakpointsWithin = Callable[[float, float], tuple[Floats, Floats]]
"""`line.breakpoints` of all rows in (low, high], in any order: a pass."""

SECTIONS = 32
"""Step sizes a pass looks at between two others.

Three passes leave 1/33^3 of all numbers: neighbours within 4 %. Two would take 189 a pass."""

MAX_FETCHED = 20_000
"""Breakpoints to fetch at most: 320 kB."""

LARGEST = sys.float_info.max
"""The end of the ray; a breakpoint beyond has no position."""


class LineMinimum(NamedTuple):
    """Where the loss along a ray is lowest."""

    step_size: float
    """The smallest a >= 0 of those where it is: the left end of a flat bottom."""
    breakpoints: int
    """How many lie on the ray, at a > 0."""


class Penalty(NamedTuple):
    """`reg ||W + a V||^2` without its value at a = 0, as `linear * a + quadratic * a^2`."""

    linear: float = 0.0
    """`2 reg <W, V>`."""
    quadratic: float = 0.0
    """`reg ||V||^2`."""


def penalty(W: Floats, V: Floats, reg: float, *, reg_bias: bool = False) -> Penalty:
    """Return the regulariser along the line; the bias, the last column, counts on demand.

    The products are summed exactly (`math.fsum`), and so in no order.

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
    """Return where the mean hinge loss plus the penalty is lowest on the ray a >= 0.

    Raises ValueError if there are no rows, a margin's slope is no usable number, the penalty
    is not convex, or the loss falls for as far as there are numbers.

    >>> from kernels.line import Line, breakpoints, slopes
    >>> line = Line(np.array([[1.0, 3.0, -1.0]]), np.array([[-1.0, -2.0, 2.0]]))
    >>> passes = lambda steps: slopes(line, steps), lambda low, high: breakpoints(line, low, high)
    >>> minimum(*passes)  # slopes -3 from 0, -1 from 0.5, 0 from 1 and 2 from 1.5
    LineMinimum(step_size=1.0, breakpoints=3)
    >>> minimum(*passes, Penalty(linear=0.0, quadratic=1 / 4.5))  # 4 a / 9 is 1 / 3 at 0.75
    LineMinimum(step_size=0.75, breakpoints=3)
    """
    steps = [0.0, *_between(0.0, LARGEST), LARGEST]
    sums = slopes_at(np.array(steps))
    slope = _Slope.of(sums[0], penalty)
    on_ray = sums[-1].breakpoints
    if slope(sums[0].slope, 0.0) >= 0:
        return LineMinimum(0.0, on_ray)
    if slope(sums[-1].slope, LARGEST) < 0:
        raise ValueError("the loss falls along the whole ray; take a direction of other scale")
    while True:
        i = next(i for i, a in enumerate(steps) if slope(sums[i].slope, a) >= 0)
        (low, high), (below, above) = steps[i - 1 : i + 1], sums[i - 1 : i + 1]
        between = _between(low, high)
        if above.breakpoints - below.breakpoints <= MAX_FETCHED or not between:
            break
        steps = [low, *between, high]
        sums = [below, *slopes_at(np.array(between)), above]
    positions, jumps = np.empty((2, 0))
    if between and above.breakpoints > below.breakpoints:  # else all of them are at `high`
        positions, jumps = breakpoints_within(low, high)
    return LineMinimum(_walk(slope, below.slope, positions, jumps, high), on_ray)


@dataclass(frozen=True)
class _Slope:
    """The derivative of phi, times N, in units of 2^-80: exact."""

    linear: Fraction
    quadratic: Fraction

    @classmethod
    def of(cls, total: SlopeSum, penalty: Penalty) -> "_Slope":
        if not total.rows:
            raise ValueError("the mean over no rows is not defined; sum at least one row")
        if total.overflows:
            raise ValueError(
                f"{total.overflows} margins, or what they gain for a step of size 1, are not "
                "finite or at least 2^80; take smaller weights and a shorter direction"
            )
        if not (all(map(math.isfinite, penalty)) and penalty.quadratic >= 0):
            raise ValueError(f"the penalty must be finite and not bend down, not {penalty}")
        unit = total.rows << LOSS_UNIT_BITS
        return cls(Fraction(penalty.linear) * unit, 2 * Fraction(penalty.quadratic) * unit)

    def __call__(self, data: int, a: float) -> Fraction:
        """Return the slope at `a`, where that of the summed hinges is `data`."""
        return data + self.linear + self.quadratic * Fraction(a)

    def zero(self, data: int) -> float:
        """Return where it is 0, rounded to the nearest number."""
        return float(-(data + self.linear) / self.quadratic)


def _walk(slope: _Slope, below: int, positions: Floats, jumps: Floats, high: float) -> float:
    """Return where the slope stops being negative.

    `below` is the hinges' slope where the breakpoints begin; the whole slope is negative
    there, and is not at `high`, at or after the last of them.
    """
    order = np.argsort(positions)
    ends: list[float] = [*positions[order].tolist(), high]
    gains = map(int, (jumps[order] * 2.0**LOSS_UNIT_BITS).tolist())  # cut, as the slopes are
    data = list(accumulate(gains, initial=below))  # data[i]: up to ends[i]

    def not_negative(i: int) -> bool:
        return slope(data[i + 1], ends[i]) >= 0

    i = bisect_left(range(len(positions)), True, key=not_negative)
    if slope(data[i], ends[i]) > 0:  # it was 0 on the way: the lowest point of a parabola
        return slope.zero(data[i])
    return ends[i]


def _between(low: float, high: float) -> list[float]:
    """Return up to `SECTIONS` numbers between two that are not negative, rising.

    They divide the numbers that float64 has between the two, not the distance: no scale is
    favoured, and none of 2^63 numbers is more than 13 passes away.
    """
    first, last = np.array([low, high]).view(np.int64).tolist()
    sections = range(1, SECTIONS + 1)
    bits = {first + (last - first) * k // (SECTIONS + 1) for k in sections} - {first, last}
    between: list[float] = np.array(sorted(bits), np.int64).view(np.float64).tolist()
    return between
