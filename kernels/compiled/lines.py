"""Compiled loops over the margins along a line: hinges, exact sums and breakpoints.

As in `kernels.compiled.gradient`, functions are compiled at the first call, cached on disk, and
release the interpreter lock. `kernels.line` checks the arrays and is the entry point. Shapes: n
rows, C - 1 wrong classes, K step sizes. `margins` and `slopes` are (C - 1, n) float64 and
C-contiguous, so that a vector contains the same class of consecutive rows. Every row is summed in
the order of its classes, independently of the other rows.
"""

from typing import Any

import numpy as np
from numba import njit

from kernels.compiled.compilation import cached_njit
from kernels.exact_sum import LARGEST_LOSS, LIMB_BITS, LOSS_LIMBS
from kernels.simd.line_tiles import (
    COARSE_BITS,
    FINE_BITS,
    MOST_VECTORS,
    ROWS,
    STEPS,
    sum_losses_tile,
)
from kernels.simd.tiles import multiply_add

BLOCK = 512
"""Margins that are processed while they are in the first-level cache."""

BLOCK_ROWS = ROWS * MOST_VECTORS
"""Rows whose losses are summed while their margins are in the first-level cache."""

LIMBS = LOSS_LIMBS + 1
"""Number of limbs of a sum, one more than in `kernels.compiled.gradient`.

`_carry` moves the excess of each limb to the next higher one. The highest limb does not overflow
for any number of rows, and the lower limbs do not overflow between two carries."""

LARGEST_TERM = 2.0**1022
"""The sum of two numbers of at most this size is finite."""

_UNIT = float(2**LIMB_BITS)
_MASK = 2**LIMB_BITS - 1


@cached_njit()
def differences(scores: Any, labels: Any, constant: float, out: Any) -> None:
    """Write `scores[i, j] - scores[i, y_i] + constant` for the wrong classes to `out`."""
    for i in range(len(labels)):
        label = labels[i]
        own = scores[i, label]
        for j in range(label):
            out[j, i] = scores[i, j] - own + constant
        for j in range(label + 1, scores.shape[1]):
            out[j - 1, i] = scores[i, j] - own + constant


@njit(inline="always")
def _split(x: Any) -> Any:
    """Split |x| < 2^80 into four limbs, highest first, and drop the part below 2^-80.

    The limbs are rounded towards zero, so they have the sign of `x` and every remainder is exact.
    Rounding down, as in `gradient.add_loss`, is suitable only for numbers that are not negative:
    the remainder of a small negative number would not fit in a float64.
    """
    x /= _UNIT
    a = np.int64(x)
    x = (x - a) * _UNIT
    b = np.int64(x)
    x = (x - b) * _UNIT
    c = np.int64(x)
    return a, b, c, np.int64((x - c) * _UNIT)


@cached_njit()
def _carry(limbs: Any) -> None:
    """Reduce every limb except the highest to 0..2^40 - 1, without changing the sum."""
    for k in range(len(limbs) - 1):
        limbs[k + 1] += limbs[k] >> LIMB_BITS
        limbs[k] &= _MASK


@cached_njit()
def losses(margins: Any, slopes: Any, steps: Any, limbs: Any, overflows: Any) -> None:
    """Add the rows' losses at each step size to `limbs` (K, LIMBS) int64.

    Rows that overflow (see `kernels.partial`) are counted in `overflows` (K,) instead.
    """
    rows, sizes = margins.shape[1], whole_tiles(steps)
    largest_slope = largest_finite_slope(sizes)
    # Two arrays, because Numba treats parts of one array as strided.
    block_margins = np.empty((len(margins), BLOCK_ROWS))
    block_slopes = np.empty_like(block_margins)
    for start in range(0, rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, rows)
        copy_block(margins[:, start:stop], -1.0, block_margins)
        copy_block(slopes[:, start:stop], 0.0, block_slopes)
        finite = within(block_margins, LARGEST_TERM) and within(block_slopes, largest_slope)
        add_block(block_margins, block_slopes, stop - start, sizes, finite, limbs, overflows)


@cached_njit()
def whole_tiles(steps: Any) -> Any:
    """Return the step sizes, padded with zeros to whole tiles."""
    sizes = np.zeros(-(-len(steps) // STEPS) * STEPS)
    sizes[: len(steps)] = steps
    return sizes


@cached_njit()
def copy_block(values: Any, filling: float, out: Any) -> None:
    """Copy rows to the start of `out` (C - 1, BLOCK_ROWS), and fill the rest with `filling`."""
    rows = values.shape[1]
    for j in range(len(values)):
        out[j, :rows] = values[j]
        out[j, rows:] = filling


@cached_njit()
def largest_finite_slope(steps: Any) -> Any:
    """Return a slope up to which no step size changes a margin by more than `LARGEST_TERM`."""
    largest = 1.0
    for step in steps:
        largest = max(largest, abs(step))
    return LARGEST_TERM / largest


@cached_njit()
def within(values: Any, largest: Any) -> Any:
    """Return whether all values (C - 1, BLOCK_ROWS) are at most `largest` in size; nan is not."""
    beyond = 0
    for j in range(values.shape[0]):
        for i in range(values.shape[1]):
            beyond += not abs(values[j, i]) <= largest  # also counts nan
    return beyond == 0


@cached_njit()
def add_block(
    margins: Any, slopes: Any, rows: int, sizes: Any, finite: Any, limbs: Any, overflows: Any
) -> None:
    """Add the losses of `rows` rows at each step size to `limbs` and `overflows`.

    The arrays have `BLOCK_ROWS` rows, and the rows after the first `rows` must have no loss.
    `sizes` contains the step sizes, padded to whole tiles. `finite` states that all margins are
    finite at all step sizes. The tile is used only in that case, because it would count a margin
    of -inf as no loss.
    """
    sums = np.empty(2 * STEPS + 1, np.int64)
    for first in range(0, len(sizes), STEPS):
        if finite:
            sum_losses_tile(
                margins.ctypes.data,
                slopes.ctypes.data,
                BLOCK_ROWS * 8,
                len(margins),
                -(-rows // ROWS),
                sizes.ctypes.data + 8 * first,
                sums.ctypes.data,
            )
        plainly = not finite or sums[2 * STEPS] != 0
        for k in range(first, min(first + STEPS, len(limbs))):
            if plainly:
                overflows[k] += add_plainly(margins[:, :rows], slopes[:, :rows], sizes[k], limbs[k])
            else:
                _add_parts(limbs[k], sums[2 * (k - first)], sums[2 * (k - first) + 1])


@cached_njit()
def _add_parts(limbs: Any, coarse: Any, fine: Any) -> None:
    """Add a sum in units of 2^-31 and a sum in units of 2^-80 to the limbs."""
    low = FINE_BITS - COARSE_BITS - LIMB_BITS  # a coarse unit is 2^low units of the second limb
    high = LIMB_BITS - low
    _add_limbs(limbs, 0, coarse >> high, (coarse & ((1 << high) - 1)) << low, fine)


@cached_njit()
def add_plainly(margins: Any, slopes: Any, step: float, limbs: Any) -> Any:
    """Add the rows' losses at one step size; return how many overflow.

    Plain implementation of `sum_losses_tile`, for losses of any size.
    """
    loss = np.zeros(margins.shape[1])
    for j in range(len(margins)):
        for i in range(len(loss)):
            margin: Any = multiply_add(step, slopes[j, i], margins[j, i])
            # a non-finite margin is added unchanged, so that the loss is also non-finite
            loss[i] += 0.0 if -np.inf < margin < 0.0 else margin
    return _add_losses(loss, limbs)


@cached_njit()
def _add_losses(losses: Any, limbs: Any) -> Any:
    """Add losses to limbs; return how many overflow (see `kernels.partial`)."""
    a = b = c = d = overflows = 0
    for i in range(len(losses)):
        fits = (losses[i] >= 0.0) & (losses[i] < LARGEST_LOSS)
        overflows += not fits
        limb = _split(losses[i] if fits else 0.0)
        a, b, c, d = a + limb[0], b + limb[1], c + limb[2], d + limb[3]
    _add_limbs(limbs, a, b, c, d)
    return overflows


@cached_njit()
def _add_limbs(limbs: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    limbs[3] += a
    limbs[2] += b
    limbs[1] += c
    limbs[0] += d
    _carry(limbs)


@njit(inline="always")
def _usable(margin: Any, slope: Any) -> Any:
    """Return whether a margin counts in the sum of slopes; the other margins overflow."""
    return (abs(margin) < np.inf) & (abs(slope) < LARGEST_LOSS)


@cached_njit(error_model="numpy")
def _positions(margins: Any, slopes: Any, positions: Any) -> None:
    """Write the step size at which each margin is 0, or nan if the margin does not count.

    Slopes and breakpoints are both computed from these positions, so that they agree. nan is
    neither before nor after any step size.
    """
    for i in range(len(margins)):
        usable = _usable(margins[i], slopes[i])
        positions[i] = -margins[i] / slopes[i] if usable else np.nan


@cached_njit()
def slopes(margins: Any, slopes: Any, steps: Any, limbs: Any, breakpoints: Any) -> Any:
    """Add the right-hand slopes at each step size to `limbs` (K, LIMBS) int64.

    Adds the number of breakpoints in (0, step] to `breakpoints` (K,). Returns how many margins do
    not count. `margins` and `slopes` are flat, (n (C - 1),).
    """
    overflows = 0
    positions, parts = np.empty(BLOCK), np.empty((4, BLOCK), np.int64)
    for start in range(0, len(margins), BLOCK):
        stop = min(start + BLOCK, len(margins))
        n = stop - start
        _positions(margins[start:stop], slopes[start:stop], positions)
        overflows += _split_slopes(margins[start:stop], slopes[start:stop], parts)
        for k in range(len(steps)):
            breakpoints[k] += _add_slopes(
                positions[:n], slopes[start:stop], parts, steps[k], limbs[k]
            )
    return overflows


@cached_njit()
def _split_slopes(margins: Any, slopes: Any, parts: Any) -> Any:
    """Write the slopes' limbs to `parts` (4, n), and return how many margins do not count.

    The limbs of a margin that does not count are 0.
    """
    overflows = 0
    for i in range(len(slopes)):
        usable = _usable(margins[i], slopes[i])
        overflows += not usable
        parts[0, i], parts[1, i], parts[2, i], parts[3, i] = _split(slopes[i] if usable else 0.0)
    return overflows


@cached_njit()
def _add_slopes(positions: Any, slopes: Any, parts: Any, step: Any, limbs: Any) -> Any:
    """Add the slopes of the margins that are active at `step`; count breakpoints in (0, step]."""
    a = b = c = d = breakpoints = 0
    for i in range(len(positions)):
        passed = positions[i] <= step
        # A rising margin is active after its zero, a falling margin before it.
        active = passed == (slopes[i] > 0.0)
        a += parts[0, i] if active else 0
        b += parts[1, i] if active else 0
        c += parts[2, i] if active else 0
        d += parts[3, i] if active else 0
        breakpoints += passed & (positions[i] > 0.0)
    _add_limbs(limbs, a, b, c, d)
    return breakpoints


@cached_njit()
def breakpoints(margins: Any, slopes: Any, low: Any, high: Any, out: Any) -> Any:
    """Write the positions and jumps of the breakpoints in (low, high] to `out` (2, n (C - 1)).

    Returns the number of breakpoints. `margins` and `slopes` are flat, (n (C - 1),).
    """
    found = 0
    positions = np.empty(BLOCK)
    for start in range(0, len(margins), BLOCK):
        stop = min(start + BLOCK, len(margins))
        _positions(margins[start:stop], slopes[start:stop], positions)
        for i in range(stop - start):
            if low < positions[i] <= high:
                out[0, found], out[1, found] = positions[i], abs(slopes[start + i])
                found += 1
    return found
