"""The compiled pass over a block of rows for the smoothed hinge: scores, alphas, exact sums.

Scores, sums of losses and tiles are those of `kernels.compiled.gradient`. `kernels.smoothed` is the
entry point: it checks and pads the arrays, and defines the alphas and their levels. The arrays are
C-contiguous.

Shapes: n rows, D columns (a multiple of `vector.VECTOR_BYTES`), C classes. The weights are padded
to a multiple of `vector.TILE_CLASSES` classes.
"""

from typing import Any

import numpy as np

from kernels.compiled import gradient as loops
from kernels.compiled.compilation import cached_njit

_GROUPS = loops.BLOCK_ROWS // 4


@cached_njit()
def alphas(
    row: Any, label: Any, offset: Any, delta: Any, mu: Any, levels: Any, k: Any, sums: Any
) -> Any:
    """Return the smoothed loss, hinge loss and prediction of one row of dot products.

    Writes the row's factors k (C,) int64, in units of 1/levels. Adds its alphas and their
    squares, in units of 1/levels and 1/levels^2, to `sums` (2,) int64. The margins are those of
    `loops.margins`; the losses are summed in float64, in the order of the classes.
    """
    smoothed, hinge, best, total = 0.0, 0.0, 0, 0
    correct_score = row[label] + offset[label]
    best_score = row[0] + offset[0]
    for j in range(len(offset)):
        score = row[j] + offset[j]
        if score > best_score:
            best, best_score = j, score
        k[j] = 0
        if j != label:
            margin = score - correct_score + delta
            if margin > 0:
                m = np.float64(margin)
                # `levels` is a power of two, so the product with it is not rounded.
                level = int(min(m / mu, 1.0) * levels + 0.5)
                alpha = level / levels
                k[j] = level
                total += level
                sums[1] += level * level
                hinge += m
                # Only rounding can make this term negative.
                smoothed += max(0.0, alpha * (m - 0.5 * mu * alpha))
            elif not margin > -np.inf:  # -inf or nan: the row overflows
                smoothed = hinge = np.nan
    k[label] = -total
    sums[0] += total
    return smoothed, hinge, best


@cached_njit()
def _write_digits(k: Any, i: Any, digits: Any) -> None:
    """Write row `i`'s `k = 256 high + low` (C,) as 2 C int8 factors, the high digits first."""
    for j in range(len(k)):
        high = (k[j] + 128) >> 8
        digits[i // 4, j, i % 4] = high
        digits[i // 4, len(k) + j, i % 4] = k[j] - (high << 8)


@cached_njit()
def _add_gradient_plain(images: Any, rows: Any, factors: Any, gradient: Any) -> None:
    """Add the block's `sum_i k_i (outer) image_i` to `gradient` (C, D) int64, without digits.

    An int32 sum is over at most `loops.BLOCK_ROWS` rows, so it fits: 64 * 255 * 2^15 < 2^31.
    """
    columns = gradient.shape[1]
    short = np.empty(columns, np.int32)
    for j in range(gradient.shape[0]):
        short[:] = 0
        for i in range(len(rows)):
            k = np.int32(factors[i, j])
            if k != 0:
                image = images[rows[i]]
                for d in range(columns):
                    short[d] += k * np.int32(image[d])
        for d in range(columns):
            gradient[j, d] += short[d]


@cached_njit()
def add_smoothed_rows(
    images: Any,
    labels: Any,
    rows: Any,
    weights: Any,
    offset: Any,
    delta: Any,
    mu: Any,
    levels: Any,
    tiles: bool,
    gradient: Any,
    digit_gradient: Any,
    indicators: Any,
    sums: Any,
    smoothed_limbs: Any,
    hinge_limbs: Any,
) -> Any:
    """Sum both losses, the gradient and the alphas of `images[rows]` in one pass.

    With `tiles`, adds the gradient to `digit_gradient` (2 C, D) int32, the sums of the high digits
    first; without, to `gradient` (C, D) int64. Adds to `indicators` (C,), to `sums` (2,) of alphas
    and of their squares, and to the limbs, all int64.

    Returns the number of correct predictions, the number of rows whose smoothed loss overflows,
    and the number of rows whose hinge loss overflows.
    """
    addresses = np.empty(loops.BLOCK_ROWS, np.int64)
    block = np.empty((loops.BLOCK_ROWS, weights.shape[0]), weights.dtype)
    factors = np.zeros((loops.BLOCK_ROWS, weights.shape[0]), np.int64)
    digits = np.empty((_GROUPS, 2 * weights.shape[0], 4), np.int8)
    correct = smoothed_overflows = hinge_overflows = 0
    for start in range(0, len(rows), loops.BLOCK_ROWS):
        n = min(loops.BLOCK_ROWS, len(rows) - start)
        block_rows = rows[start : start + n]
        loops.row_addresses(images, block_rows, addresses)
        loops.block_scores(images, addresses, n, weights, block)
        digits[:] = 0
        for i in range(n):
            label, k = labels[block_rows[i]], factors[i]
            smoothed, hinge, best = alphas(block[i], label, offset, delta, mu, levels, k, sums)
            if not loops.add_loss(smoothed, smoothed_limbs):
                smoothed_overflows += 1
            if not loops.add_loss(hinge, hinge_limbs):
                hinge_overflows += 1
            for j in range(len(offset)):
                indicators[j] += k[j]
            correct += best == label
            if tiles:
                _write_digits(k, i, digits)
        if tiles:
            loops.add_gradient(addresses, n, digits, digit_gradient)
        else:
            _add_gradient_plain(images, block_rows, factors, gradient)
    return correct, smoothed_overflows, hinge_overflows
