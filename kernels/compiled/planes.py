"""Compiled loop over the margins of a plane, which is a line for each b.

The arrays are those of `kernels.compiled.lines`, and `second`, which has the shape of `margins`.
`kernels.plane` checks them and is the entry point. A block of rows stays in the first-level cache
for all points.
"""

from typing import Any

import numpy as np

from kernels.compiled.compilation import cached_njit
from kernels.compiled.lines import (
    BLOCK_ROWS,
    LARGEST_TERM,
    add_block,
    copy_block,
    largest_finite_slope,
    whole_tiles,
    within,
)
from kernels.simd.tiles import multiply_add


@cached_njit()
def losses(
    margins: Any, first: Any, second: Any, a: Any, b: Any, limbs: Any, overflows: Any
) -> None:
    """Add the rows' losses at each point to `limbs` (M, K, LIMBS) int64.

    The points are all pairs of `b` (M,) and `a` (K,). Rows that overflow (see `kernels.partial`)
    are counted in `overflows` (M, K) instead.
    """
    rows, sizes = margins.shape[1], whole_tiles(a)
    largest_slope = largest_finite_slope(sizes)
    # Two arrays, because Numba treats parts of one array as strided.
    block_margins = np.empty((len(margins), BLOCK_ROWS))
    block_slopes = np.empty_like(block_margins)
    for start in range(0, rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, rows)
        copy_block(first[:, start:stop], 0.0, block_slopes)
        finite_slopes = within(block_slopes, largest_slope)
        for k in range(len(b)):
            copy_block(margins[:, start:stop], -1.0, block_margins)
            _move(block_margins, second[:, start:stop], b[k])
            finite = finite_slopes and within(block_margins, LARGEST_TERM)
            add_block(
                block_margins, block_slopes, stop - start, sizes, finite, limbs[k], overflows[k]
            )


@cached_njit()
def _move(margins: Any, second: Any, step: float) -> None:
    """Move the margins by `step` along the second direction, in place."""
    for j in range(len(second)):
        for i in range(second.shape[1]):
            margins[j, i] = multiply_add(step, second[j, i], margins[j, i])
