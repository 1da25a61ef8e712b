"""The losses of many weights at once in float64, as one wide product with every row.

For each of the weights the sum is bit-identical to that of `kernels.hinge.sum_rows` with float64
scores. The weights can be arbitrary: no common structure is used. Memory does not grow with the
number of rows.
"""

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from kernels.compiled.many_weights import add_losses
from kernels.exact_sum import LIMB_ROWS, LOSS_LIMBS, LossSum, Sums
from kernels.hinge import check_arrays, check_bytes, fold, pad, pick_rows


def losses_at_many_weights(
    W: NDArray[np.float64],
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    mean: NDArray[np.float64],
    rows: NDArray[np.int64] | None = None,
    delta: float = 1.0,
) -> Sums[LossSum]:
    """Sum the rows' losses at each of B weights `W` (B, C, D + 1), with `mean` (D,) folded in.

    `rows` selects rows of `images` (n, D) and `labels` (n,), both uint8.

    Raises ValueError if a label has no weights, or if shapes or types of the arrays do not match.
    """
    if W.ndim != 3 or not len(W):
        raise ValueError(f"weights must be (B, C, D + 1) with B at least 1, not {W.shape}")
    many, classes, columns = W.shape
    check_arrays(W[0, :, :-1], images, labels)
    check_bytes(images, labels)
    rows = pick_rows(rows, len(images))
    scorer = fold(W.reshape(many * classes, columns), mean, np.float64)
    weights, images = pad(scorer.weights, images)
    offsets = scorer.offset.reshape(many, classes)
    sums = []
    for start in range(0, max(1, len(rows)), LIMB_ROWS):
        some = rows[start : start + LIMB_ROWS]
        limbs, overflows = np.zeros((many, LOSS_LIMBS), np.int64), np.zeros(many, np.int64)
        add_losses(images, labels, some, weights, offsets, float(delta), limbs, overflows)
        sums.append(
            Sums(
                LossSum.of_limbs(each, count, len(some))
                for each, count in zip(limbs, overflows.tolist(), strict=True)
            )
        )
    return reduce(Sums.combine, sums)
