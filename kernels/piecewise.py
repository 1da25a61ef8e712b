"""The mean hinge loss along a line, whole: between two breakpoints it is a straight line.

From the slope at one end, the breakpoints and what the slope gains at each (`kernels.line`), and
the loss at one place come the loss and the slope everywhere. Sums are exact and rounded once
each, so that slopes never fall, as those of a convex function do not.
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
"""Of a sum of losses; a row's is below 2^80."""


@dataclass(frozen=True, eq=False)
class PiecewiseLinear:
    """A continuous function whose graph is made of straight lines."""

    positions: Floats
    """(k + 2,): its two ends and the k breakpoints between, rising."""
    values: Floats
    """(k + 2,): what it is there."""
    slopes: Floats
    """(k + 1,): that of the line to the right of each, but of the last."""

    def __call__(self, x: Floats) -> Floats:
        """Return its values at `x`, between its ends."""
        found: Floats = np.interp(x, self.positions, self.values)
        return found

    @property
    def breakpoints(self) -> int:
        """How many it has, those at one place each counted."""
        return len(self.positions) - 2

    @property
    def minimum(self) -> tuple[float, float]:
        """Where it is lowest, the leftmost of such places, and how low."""
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

    `slope` is the sum at `low`; `positions` and `jumps` (k,) are those of all breakpoints in
    (low, high], in any order. `loss_at` gives the summed loss at a step size, and is asked once:
    where the loss is lowest, so that what is summed from there on, either way, only grows.

    Raises ValueError if there are no rows, the ends do not rise, or a row's loss or a margin's
    slope is no usable number.

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
            f"a line goes from a lower step size to a higher one, not from {low} to {high}"
        )
    if slope.overflows:
        raise ValueError("a slope along the line is no usable number")
    positions = positions + 0.0  # -0 is 0
    order = np.lexsort((jumps, positions))  # the same order in whichever they came
    ends = np.concatenate([[low], positions[order], [high]])
    sums = list(accumulate(_units(jumps[order]), initial=slope.slope))
    slopes = np.array([total / (slope.rows << LOSS_UNIT_BITS) for total in sums])
    lowest = bisect_left(sums, 0)
    return PiecewiseLinear(ends, _values(ends, slopes, lowest, loss_at(ends[lowest])), slopes)


def _values(ends: Floats, slopes: Floats, lowest: int, loss: LossSum) -> Floats:
    """Return the mean loss at each end of a piece, from the summed one where it is lowest."""
    if loss.overflows:
        raise ValueError("a loss along the line is no usable number")
    [least] = _units(np.array([loss.mean]))
    with np.errstate(over="ignore"):  # `_units` refuses what is out of range
        rises = _units(np.abs(slopes * np.diff(ends)))
    left = [*accumulate(rises[:lowest][::-1], initial=least)]
    right = [*accumulate(rises[lowest:], initial=least)]
    return np.array([value / (1 << LOSS_UNIT_BITS) for value in [*left[::-1], *right[1:]]])


def _units(numbers: Floats) -> list[int]:
    """Return numbers in units of 2^-80, cut towards zero; raise ValueError for too large ones."""
    if not (np.abs(numbers) < LARGEST).all():
        raise ValueError("the loss grows beyond all usable numbers along the line")
    return [int(number) for number in np.ldexp(numbers, LOSS_UNIT_BITS).tolist()]
