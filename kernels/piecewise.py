"""The mean hinge loss along a line as a piecewise linear function.

The loss is linear between two breakpoints. The slope at one end, the breakpoints with their jumps
of the slope (`kernels.line`) and the loss at one step size determine the loss and the slope
everywhere. Sums are exact, and each is rounded once. The slopes therefore never decrease, as for
every convex function.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from kernels.exact_sum import LOSS_UNIT_BITS, LossSum
from kernels.line import SlopeSum

Floats = NDArray[np.float64]

LARGEST = 2.0**100
"""Upper bound for a sum of losses. The loss of one row is below 2^80."""


@dataclass(frozen=True, eq=False)
class PiecewiseLinear:
    """A continuous, piecewise linear function."""

    positions: Floats
    """(k + 2,): the two ends and the k breakpoints between them, in ascending order."""
    values: Floats
    """(k + 2,): the function's values at the positions."""
    slopes: Floats
    """(k + 1,): the slope to the right of each position except the last."""

    def __call__(self, x: Floats) -> Floats:
        """Return the function's values at `x`, which must be between the ends."""
        found: Floats = np.interp(x, self.positions, self.values)
        return found

    @property
    def breakpoints(self) -> int:
        """The number of breakpoints; several at one position are counted separately."""
        return len(self.positions) - 2

    @property
    def minimum(self) -> tuple[float, float]:
        """The leftmost position at which the function is lowest, and its value there."""
        lowest = int(np.argmin(self.values))
        return float(self.positions[lowest]), float(self.values[lowest])


def piecewise_linear(
    low: float,
    high: float,
    slope: SlopeSum,
    positions: Floats,
    jumps: Floats,
    loss_at: Callable[[float], LossSum],
) -> PiecewiseLinear:
    """Return the mean loss from `low` to `high`.

    `slope` is the summed slope at `low`. `positions` and `jumps` (k,) describe all breakpoints in
    (low, high], in any order. `loss_at` returns the summed loss at a step size. It is called once,
    at the position where the loss is lowest. Every other value is this loss plus a sum of rises,
    none of which is negative.

    Raises ValueError if there are no rows, if `low` is above `high`, if a row or a margin
    overflows (see `LossSum` and `SlopeSum`), or if the loss reaches 2^100.

    Examples:
        >>> from kernels.line import Line, breakpoints, losses, slopes
        >>> line = Line(np.array([[1.0, 3.0]]), np.array([[-1.0, -2.0]]))
        >>> [slope] = slopes(line, [0.0])
        >>> jumps = breakpoints(line, 0.0, 2.0)
        >>> function = piecewise_linear(0.0, 2.0, slope, *jumps, lambda a: losses(line, [a])[0])
        >>> function.positions.tolist(), function.values.tolist(), function.slopes.tolist()
        ([0.0, 1.0, 1.5, 2.0], [2.0, 0.5, 0.0, 0.0], [-1.5, -1.0, 0.0])
    """
    if not slope.rows:
        raise ValueError("the mean over no rows is not defined; sum at least one row")
    if not low <= high:
        raise ValueError(
            f"the first step size of a line must be at most the last, not {low} and {high}"
        )
    if slope.overflows:
        raise ValueError(
            "a margin of the line is not finite, or its slope is not finite or at least 2^80"
        )
    positions = positions + 0.0  # turns -0 into 0
    order = np.lexsort((jumps, positions))  # independent of the order of the input
    ends = np.concatenate([[low], positions[order], [high]])
    sums = list(accumulate(_units(jumps[order]), initial=slope.slope))
    slopes = np.array([total / (slope.rows << LOSS_UNIT_BITS) for total in sums])
    lowest = bisect_left(sums, 0)
    return PiecewiseLinear(ends, _values(ends, slopes, lowest, loss_at(ends[lowest])), slopes)


def _values(ends: Floats, slopes: Floats, lowest: int, loss: LossSum) -> Floats:
    """Return the mean loss at all `ends`, given the summed loss at the end of index `lowest`."""
    if loss.overflows:
        raise ValueError("a row's loss along the line is not finite or at least 2^80")
    [least] = _units(np.array([loss.mean]))
    with np.errstate(over="ignore"):  # `_units` raises an error if out of range
        rises = _units(np.abs(slopes * np.diff(ends)))
    left = [*accumulate(rises[:lowest][::-1], initial=least)]
    right = [*accumulate(rises[lowest:], initial=least)]
    return np.array([value / (1 << LOSS_UNIT_BITS) for value in [*left[::-1], *right[1:]]])


def _units(numbers: Floats) -> list[int]:
    """Return numbers in units of 2^-80, rounded towards zero.

    Raises ValueError if a number is not finite or not below `LARGEST` in size.
    """
    if not (np.abs(numbers) < LARGEST).all():
        raise ValueError("the loss along the line is not finite or at least 2^100")
    return [int(number) for number in np.ldexp(numbers, LOSS_UNIT_BITS).tolist()]
