"""Compiled loops for the differences of hinges in every coordinate of the weights.

As in `kernels.compiled.gradient`, functions are compiled at the first call, cached on disk, and
release the interpreter lock. The entry point is `kernels.structured_difference`, which checks the
arrays and defines the sums.

Shapes: n rows, D columns, C classes. A "padded" axis is filled up to whole tiles. The tiles of the
differences may differ in size from the tiles of the scores.
"""

from typing import Any

import numpy as np
from numba import njit

from kernels.compiled import gradient as loops
from kernels.compiled.compilation import cached_njit
from kernels.simd.difference_tiles import TILE_CLASSES, TILE_COLUMNS, centred_tile, forward_tile
from kernels.simd.tiles import multiply_add

BLOCK_ROWS = 256
"""Rows processed together: enough for several rows per label, few enough for the caches."""

LIMB_BITS = 32
"""Number of bits in the lower of a sum's two int64 limbs. A block's sums are added to the limbs
after every block, before an int64 could overflow."""

PIXEL_BITS = 20
"""Sums of pixels that serve only as a bound are in units of 2^-20."""


@cached_njit()
def block_margins(products: Any, offset: Any, labels: Any, delta: Any, margins: Any) -> Any:
    """Write the margins of rows, given their dot products; return how many are non-finite.

    `margins` is (rows, padded C). Minus infinity replaces the margin of the row's own class, the
    margin of a class that only fills the tile, and a non-finite margin. A hinge of minus infinity
    stays 0 however far the margin moves. The order of operations is the same as in
    `loops.margins`.
    """
    not_finite = 0
    margins[:] = -np.inf
    for i in range(len(labels)):
        label = labels[i]
        correct = products[i, label] + offset[label]
        for j in range(len(offset)):
            if j != label:
                margin = products[i, j] + offset[j] - correct + delta
                if np.isfinite(margin):
                    margins[i, j] = margin
                else:
                    not_finite += 1
    return not_finite


@njit(inline="always")
def hinge(margin: Any) -> Any:
    """Return `max(0, margin)`."""
    return margin if margin > 0 else 0.0


@cached_njit()
def by_label(rows: Any, labels: Any, ordered: Any, starts: Any) -> None:
    """Write `rows` to `ordered`, sorted by label.

    The rows of label y are written from position `starts[y]`; `starts` is (C + 1,).
    """
    starts[:] = 0
    for row in rows:
        starts[labels[row] + 1] += 1
    for j in range(1, len(starts)):
        starts[j] += starts[j - 1]
    places = starts.copy()
    for row in rows:
        ordered[places[labels[row]]] = row
        places[labels[row]] += 1


@cached_njit()
def add_differences(
    addresses: Any,
    starts: Any,
    margins: Any,
    mean: Any,
    step: Any,
    magic: Any,
    centred: Any,
    sums: Any,
) -> None:
    """Add the differences of a block of rows, in the weight of every pixel, to `sums`.

    `sums` is (padded C, padded D + 1). The rows are sorted by label: the rows of label y are
    `starts[y]` to `starts[y + 1]`.
    """
    for column in range(0, len(mean), TILE_COLUMNS):
        for label in range(len(starts) - 1):
            start = starts[label]
            for first in range(0, sums.shape[0], TILE_CLASSES):
                tile = (
                    addresses.ctypes.data + start * addresses.itemsize,
                    starts[label + 1] - start,
                    column,
                    margins.ctypes.data + start * margins.strides[0] + first * margins.itemsize,
                    margins.strides[0],
                    mean.ctypes.data + column * mean.itemsize,
                    step,
                    magic,
                    sums.ctypes.data + column * sums.itemsize,
                    first,
                    label,
                    sums.strides[0],
                )
                if centred:
                    centred_tile(*tile)
                else:
                    forward_tile(*tile)


@cached_njit()
def plain_add_differences(
    images: Any,
    rows: Any,
    labels: Any,
    margins: Any,
    mean: Any,
    step: Any,
    magic: Any,
    centred: Any,
    sums: Any,
) -> None:
    """Add the same integers as `add_differences`, one difference at a time."""
    for i in range(len(rows)):
        for d in range(len(mean)):
            x = np.float64(images[rows[i], d]) - mean[d]
            for j in range(margins.shape[1]):
                _add_difference(margins[i, j], x, step, labels[i], j, d, magic, centred, sums)


@cached_njit()
def _add_difference(
    margin: Any, x: Any, step: Any, label: Any, j: Any, d: Any, magic: Any, centred: Any, sums: Any
) -> None:
    """Add one margin's differences in column `d`, where the centred pixel is `x`."""
    unit = np.spacing(magic)
    up, down = hinge(multiply_add(x, step, margin)), hinge(multiply_add(-x, step, margin))
    here = hinge(margin)
    if centred:
        units = np.int64(np.rint((up - down) / unit))
        sums[j, d] += units
        sums[label, d] -= units
    else:
        sums[j, d] += np.int64(np.rint((up - here) / unit))
        sums[label, d] += np.int64(np.rint((down - here) / unit))


@cached_njit()
def add_bias_differences(
    labels: Any, margins: Any, step: Any, magic: Any, centred: Any, sums: Any
) -> None:
    """Add the differences in the bias, which moves a margin by the difference step itself.

    They go to the last column of `sums`.
    """
    last = sums.shape[1] - 1
    for i in range(len(labels)):
        for j in range(margins.shape[1]):
            _add_difference(margins[i, j], 1.0, step, labels[i], j, last, magic, centred, sums)


@njit(inline="always")
def departure(margin: Any, moved: Any, back: Any) -> Any:
    """Return the difference minus the subgradient's prediction, for a margin that crosses 0.

    The difference is `hinge(moved) - hinge(back)`. The subgradient predicts `moved - back` if the
    margin is positive, else 0. Exactly one of `moved` and `back` is positive, so the result is
    one of the two values or its negative.
    """
    if margin > 0:
        return back if moved > 0 else -moved
    return moved if moved > 0 else -back


@cached_njit()
def _add_crossing(
    margin: Any, moved: Any, back: Any, class_row: Any, d: Any, unit: Any, out: Any
) -> None:
    """Count a crossing and add its departure, if `moved` and `back` are on different sides of 0."""
    crossings, departures = out
    if (moved > 0) == (back > 0):
        return
    crossings[class_row, d] += 1
    departures[class_row, d] += np.int64(np.rint(departure(margin, moved, back) / unit))


@cached_njit()
def add_crossings(
    images: Any,
    rows: Any,
    labels: Any,
    margins: Any,
    mean: Any,
    step: Any,
    reach: Any,
    unit: Any,
    centred: Any,
    crossings: Any,
    departures: Any,
) -> None:
    """Count crossings and add up their departures, for margins within `reach` of their kink.

    Adds to `crossings` and `departures`, both (padded C, D + 1), with the bias last.
    """
    columns = crossings.shape[1] - 1
    out = crossings, departures
    for i in range(len(rows)):
        label = labels[i]
        for j in range(margins.shape[1]):
            margin = margins[i, j]
            if abs(margin) <= reach:
                for d in range(columns + 1):
                    x = 1.0
                    if d < columns:
                        x = np.float64(images[rows[i], d]) - mean[d]
                    up: Any = multiply_add(x, step, margin)
                    down: Any = multiply_add(-x, step, margin)
                    _add_crossing(margin, up, down if centred else margin, j, d, unit, out)
                    _add_crossing(margin, down, up if centred else margin, label, d, unit, out)


@cached_njit()
def add_active(labels: Any, margins: Any, reach: Any, counts: Any, sizes: Any) -> Any:
    """Count and sum the active margins: those whose hinge may be positive within `reach`.

    A margin counts for both of its classes. Adds the number of active margins to `counts` (padded
    C,) int64 and their absolute values to `sizes` (padded C, `LOSS_LIMBS`). Returns how many are
    too large for the limbs.
    """
    overflows = 0
    for i in range(len(labels)):
        for j in range(margins.shape[1]):
            if margins[i, j] + reach > 0:
                size = abs(margins[i, j])
                if loops.add_loss(size, sizes[j]) and loops.add_loss(size, sizes[labels[i]]):
                    counts[j] += 1
                    counts[labels[i]] += 1
                else:
                    overflows += 1
    return overflows


@cached_njit()
def add_undecided(
    images: Any,
    rows: Any,
    labels: Any,
    margins: Any,
    sizes: Any,
    slack: Any,
    mean: Any,
    undecided: Any,
) -> None:
    """Add up the pixels of margins whose sign may be wrong if scores are rounded.

    `sizes` (rows, padded C) is the sum of the absolute products of each score, and `slack * sizes`
    bounds the score's error. For both classes of such a margin, adds `|pixel - mean|` and 1 for
    the bias, in units of 2^-`PIXEL_BITS` and rounded up, to `undecided` (padded C, D + 1).
    """
    columns = undecided.shape[1] - 1
    one = 2.0**PIXEL_BITS
    for i in range(len(rows)):
        label = labels[i]
        for j in range(min(sizes.shape[1], margins.shape[1])):
            if abs(margins[i, j]) <= slack * (sizes[i, j] + sizes[i, label]):
                for d in range(columns + 1):
                    pixel = one
                    if d < columns:
                        pixel = abs(np.float64(images[rows[i], d]) - mean[d]) * one
                    undecided[j, d] += np.int64(np.ceil(pixel))
                    undecided[label, d] += np.int64(np.ceil(pixel))


@cached_njit()
def carry(sums: Any, limbs: Any) -> None:
    """Add `sums` (padded C, columns) to `limbs` (2, padded C, columns), and set `sums` to 0.

    The lower limb comes first.
    """
    mask = 2**LIMB_BITS - 1
    for j in range(sums.shape[0]):
        for d in range(sums.shape[1]):
            limbs[0, j, d] += sums[j, d] & mask
            limbs[1, j, d] += sums[j, d] >> LIMB_BITS
            sums[j, d] = 0


@cached_njit()
def differences(
    images: Any,
    labels: Any,
    rows: Any,
    scorer: Any,
    absolute: Any,
    mean: Any,
    probe: Any,
    tiles: Any,
    out: Any,
) -> Any:
    """Add up all sums of a probe in one pass over `images[rows]`.

    `scorer` contains the padded weights and the offsets, `absolute` their absolute values, and
    `mean` is padded. `probe` contains the numbers of a `structured_difference.Probe`, and `out`
    the arrays to add to. Returns how many margins are non-finite or too large to be summed.
    """
    weights, offset = scorer
    delta, step, reach, magic, slack, centred = probe
    limbs, departures, crossings, undecided, counts, sizes = out
    addresses, ordered = np.empty(BLOCK_ROWS, np.int64), np.empty(BLOCK_ROWS, np.int64)
    starts = np.empty(len(offset) + 1, np.int64)
    block = np.empty((BLOCK_ROWS, weights.shape[0]))
    kept = np.empty((BLOCK_ROWS, limbs.shape[1]))
    sums, departed = np.zeros(limbs.shape[1:], np.int64), np.zeros(crossings.shape, np.int64)
    overflows = 0
    for start in range(0, len(rows), BLOCK_ROWS):
        n = min(BLOCK_ROWS, len(rows) - start)
        some, margins = ordered[:n], kept[:n]
        by_label(rows[start : start + n], labels, some, starts)
        own = labels[some]
        loops.row_addresses(images, some, addresses)
        loops.block_scores(images, addresses, n, weights, block)
        overflows += block_margins(block, offset, own, delta, margins)
        step_of = step, magic, centred
        if tiles:
            add_differences(addresses, starts, margins, mean, *step_of, sums)
        else:
            plain_add_differences(images, some, own, margins, mean, *step_of, sums)
        add_bias_differences(own, margins, *step_of, sums)
        carry(sums, limbs)
        near = images, some, own, margins
        add_crossings(*near, mean, step, reach, np.spacing(magic), centred, crossings, departed)
        carry(departed, departures)
        overflows += add_active(own, margins, reach, counts, sizes)
        if slack > 0:
            loops.block_scores(images, addresses, n, absolute[0], block)
            block += absolute[1]
            add_undecided(*near, block, slack, mean, undecided)
    return overflows
