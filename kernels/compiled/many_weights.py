"""Compiled loop over rows that sums their losses for many weights at once.

As in `kernels.compiled.gradient`, arrays are C-contiguous and padded. `kernels.many_weights` checks
them and is the entry point.
"""

from typing import Any

import numpy as np

from kernels.compiled import gradient as loops
from kernels.compiled.compilation import cached_njit


@cached_njit()
def add_losses(
    images: Any,
    labels: Any,
    rows: Any,
    weights: Any,
    offsets: Any,
    delta: Any,
    limbs: Any,
    overflows: Any,
) -> None:
    """Add the losses of `images[rows]` to `limbs` (B, LOSS_LIMBS) and `overflows` (B,).

    A row that overflows for some weights (see `kernels.partial`) is counted only for those.
    `weights` (B C, D), padded on both axes, and `offsets` (B, C) are float64.
    """
    classes = offsets.shape[1]
    addresses = np.empty(loops.BLOCK_ROWS, np.int64)
    block = np.empty((loops.BLOCK_ROWS, weights.shape[0]))
    k = np.zeros(classes, np.int8)
    for start in range(0, len(rows), loops.BLOCK_ROWS):
        some = rows[start : start + loops.BLOCK_ROWS]
        loops.row_addresses(images, some, addresses)
        loops.block_scores(images, addresses, len(some), weights, block)
        for i in range(len(some)):
            label = labels[some[i]]
            for b in range(len(offsets)):
                row = block[i, b * classes : (b + 1) * classes]
                loss, _ = loops.margins(row, label, offsets[b], delta, k)
                if not loops.add_loss(loss, limbs[b]):
                    overflows[b] += 1
