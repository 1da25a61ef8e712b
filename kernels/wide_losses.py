"""The losses of many weights at once, in float64: one wide product with every row.

It is what `hinge.hinge_partial` sums with float64 scores, to the last bit, for each of the
weights; no structure that they share is made use of. Memory does not grow with the rows.
"""

from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import loops
from kernels.compilation import cached_njit
from kernels.hinge import check, check_bytes, fold, padded, picked
from kernels.partial import LossSum, Sums


def wide_losses(
    W: NDArray[np.float64],
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    mean: NDArray[np.float64],
    rows: NDArray[np.int64] | None = None,
    delta: float = 1.0,
) -> Sums[LossSum]:
    """Sum the rows' losses at each of the weights (B, C, D + 1), `mean` (D,) folded in.

    `rows` picks some of `images` (n, D) and `labels` (n,), both uint8.

    Raises ValueError for a label without weights, or arrays that do not fit together.
    """
    if W.ndim != 3 or not len(W):
        raise ValueError(f"weights must be (B, C, D + 1) with B at least 1, not {W.shape}")
    many, classes, columns = W.shape
    check(W[0, :, :-1], images, labels)
    check_bytes(images, labels)
    rows = picked(rows, len(images))
    scorer = fold(W.reshape(many * classes, columns), mean, np.float64)
    weights, images = padded(scorer.weights, images)
    offsets = scorer.offset.reshape(many, classes)
    sums = []
    for start in range(0, max(1, len(rows)), loops.LIMB_ROWS):
        some = rows[start : start + loops.LIMB_ROWS]
        limbs, overflows = np.zeros((many, loops.LOSS_LIMBS), np.int64), np.zeros(many, np.int64)
        _losses(images, labels, some, weights, offsets, float(delta), limbs, overflows)
        sums.append(
            Sums(
                LossSum.of_limbs(each, count, len(some))
                for each, count in zip(limbs, overflows.tolist(), strict=True)
            )
        )
    return reduce(Sums.combine, sums)


@cached_njit()
def _losses(
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

    A row that overflows for some weights (see `kernels.partial`) is counted for those alone.
    `weights` (B C, padded, D) and `offsets` (B, C) are float64.
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
