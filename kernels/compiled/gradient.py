"""Compiled loops over blocks of rows: scores, margins and the integer gradient sum.

Every function here is compiled by Numba at its first call, cached on disk (see
`kernels.compiled.compilation`), and releases the interpreter lock. `kernels.hinge` is the entry
point: it checks and pads the arrays, and defines the factors k. The arrays are C-contiguous.
Shapes: n rows, D columns (a multiple of `vector.VECTOR_BYTES`) and C classes. The weights are
padded to a multiple of `vector.TILE_CLASSES` classes, so that every tile is full.
"""

from typing import Any

import numpy as np
from numba import njit

from kernels.compiled.compilation import cached_njit
from kernels.exact_sum import LARGEST_LOSS, LIMB_BITS, LOSS_LIMBS
from kernels.simd import tiles as vector

BLOCK_ROWS = 64
"""Rows that are scored and added to the gradient while they are in the second-level cache."""

_LIMB = float(2**LIMB_BITS)
_ROWS, _CLASSES, _COLUMNS = vector.TILE_ROWS, vector.TILE_CLASSES, vector.VECTOR_BYTES


if _ROWS == 4:

    @njit(inline="always")
    def _tile(addresses: Any, i: Any) -> Any:
        return addresses[i], addresses[i + 1], addresses[i + 2], addresses[i + 3]
else:

    @njit(inline="always")
    def _tile(addresses: Any, i: Any) -> Any:
        return addresses[i], addresses[i + 1]


@cached_njit()
def row_addresses(images: Any, rows: Any, addresses: Any) -> None:
    """Write the addresses of `images[rows]`; fill the rest of `addresses` with the last one."""
    base, stride = images.ctypes.data, images.strides[0]
    for i in range(len(addresses)):
        addresses[i] = base + rows[min(i, len(rows) - 1)] * stride


@cached_njit()
def block_scores(images: Any, addresses: Any, n: Any, weights: Any, scores: Any) -> None:
    """Write the dot products of the first `n` rows (rounded up to a tile) to `scores`."""
    columns, step, out_step = weights.shape[1], weights.strides[0], scores.strides[0]
    for i in range(0, n, _ROWS):
        rows = _tile(addresses, i)
        out = scores.ctypes.data + i * out_step
        for j in range(0, weights.shape[0], _CLASSES):
            vector.dot_product_tile(
                images,
                weights,
                rows,
                weights.ctypes.data + j * step,
                step,
                columns,
                out + j * scores.itemsize,
                out_step,
            )


@cached_njit()
def scores(images: Any, rows: Any, weights: Any, offset: Any, out: Any) -> None:
    """Write `images[rows] @ weights.T + offset` to `out` (n, C)."""
    addresses = np.empty(BLOCK_ROWS, np.int64)
    block = np.empty((BLOCK_ROWS, weights.shape[0]), weights.dtype)
    for start in range(0, len(rows), BLOCK_ROWS):
        n = min(BLOCK_ROWS, len(rows) - start)
        row_addresses(images, rows[start : start + n], addresses)
        block_scores(images, addresses, n, weights, block)
        for i in range(n):
            for j in range(len(offset)):
                out[start + i, j] = block[i, j] + offset[j]


@cached_njit()
def plain_scores(images: Any, rows: Any, weights: Any, offset: Any, out: Any) -> None:
    """Plain implementation of `scores`, one product at a time, with bit-identical results."""
    lanes = _COLUMNS // weights.itemsize
    for i in range(len(rows)):
        for j in range(len(offset)):
            sums = np.zeros(lanes, weights.dtype)
            for d in range(weights.shape[1]):
                pixel = weights.dtype.type(images[rows[i], d])
                sums[d % lanes] = vector.multiply_add(pixel, weights[j, d], sums[d % lanes])
            half = lanes // 2
            while half > 0:
                sums[:half] = sums[:half] + sums[half : 2 * half]
                half //= 2
            out[i, j] = sums[0] + offset[j]


@cached_njit()
def margins(row: Any, label: Any, offset: Any, delta: Any, k: Any) -> Any:
    """Return the loss and the predicted class of one row; write its factors k (C,) int8.

    `row` contains the row's dot products. The hinges are computed in the type of the scores and
    summed in float64, in the order of the classes. If several classes have the highest score, the
    first one is predicted.
    """
    loss, active, best = 0.0, 0, 0
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
                k[j] = 1
                active += 1
                loss += np.float64(margin)
            elif not margin > -np.inf:  # -inf or nan: the row overflows
                loss = np.nan
    k[label] = -active
    return loss, best


@cached_njit()
def losses_and_factors(scores: Any, labels: Any, delta: Any, losses: Any, factors: Any) -> None:
    """Write each row's loss (n,) float64 and factors k (n, C) int8, from its scores (n, C)."""
    offset = np.zeros(scores.shape[1], scores.dtype)
    for i in range(len(labels)):
        losses[i], _ = margins(scores[i], labels[i], offset, delta, factors[i])


@cached_njit()
def add_weights(factors: Any, weights: Any, out: Any) -> None:
    """Add `factors @ weights` to `out` (n, D).

    The classes are added in order, so that a row's result is bit-identical for every n.
    """
    for i in range(len(factors)):
        row = out[i]
        for j in range(weights.shape[0]):
            k, class_weights = np.float64(factors[i, j]), weights[j]
            if k != 0:
                for d in range(len(row)):
                    row[d] += k * class_weights[d]


@cached_njit()
def add_loss(loss: Any, limbs: Any) -> bool:
    """Add one row's loss to the limbs; return False if it overflows (see `kernels.partial`)."""
    if not 0.0 <= loss < LARGEST_LOSS:
        return False
    rest = loss / _LIMB
    for limb in range(LOSS_LIMBS - 1, -1, -1):
        whole = np.floor(rest)
        limbs[limb] += np.int64(whole)
        rest = (rest - whole) * _LIMB
    return True


@cached_njit()
def add_gradient(addresses: Any, n: Any, factors: Any, gradient: Any) -> None:
    """Add the block's `sum_i k_i (outer) image_i` to `gradient` with vector tiles."""
    groups = (n + 3) // 4
    step, out_step = factors.strides[0], gradient.strides[0]
    for column in range(0, gradient.shape[1], _COLUMNS):
        for j in range(0, gradient.shape[0], _CLASSES):
            vector.outer_product_tile(
                addresses.ctypes.data,
                groups,
                column,
                factors.ctypes.data + 4 * j,
                step,
                gradient.ctypes.data + j * out_step,
                out_step,
            )


@cached_njit()
def _add_gradient_plain(images: Any, rows: Any, factors: Any, gradient: Any) -> None:
    """Plain implementation of `add_gradient` for every processor, with the same integers.

    Rows are first summed in int16, because an instruction processes twice as many int16 as int32.
    Such a short sum changes by at most 255 (C - 1) per row, so the number of rows that fit depends
    on C: 14 rows for C = 10.
    """
    columns = gradient.shape[1]
    short_rows = max(1, 32767 // (255 * (gradient.shape[0] - 1)))  # the padded C is up to 130
    short = np.empty(columns, np.int16)
    for j in range(gradient.shape[0]):
        for start in range(0, len(rows), short_rows):
            short[:] = 0
            for i in range(start, min(start + short_rows, len(rows))):
                k = np.int16(factors[i // 4, j, i % 4])
                if k != 0:
                    image = images[rows[i]]
                    for d in range(columns):
                        short[d] += k * np.int16(image[d])
            for d in range(columns):
                gradient[j, d] += short[d]


@cached_njit()
def add_rows(
    images: Any,
    labels: Any,
    rows: Any,
    weights: Any,
    offset: Any,
    delta: Any,
    tiles: bool,
    gradient: Any,
    indicators: Any,
    limbs: Any,
    predictions: Any,
) -> Any:
    """Compute loss, gradient sum and predictions of `images[rows]` in one pass over the bytes.

    Adds to `gradient` (C, D) int32, `indicators` (C,) int64 and `limbs` int64, and writes
    `predictions` (n,). Returns how many predictions are correct, and how many rows have a loss
    that is not finite or too large for the limbs. `tiles` selects `add_gradient` for the gradient
    sum instead of the plain implementation.
    """
    addresses = np.empty(BLOCK_ROWS, np.int64)
    block = np.empty((BLOCK_ROWS, weights.shape[0]), weights.dtype)
    factors = np.empty((BLOCK_ROWS // 4, weights.shape[0], 4), np.int8)
    k = np.zeros(weights.shape[0], np.int8)
    correct = overflows = 0
    for start in range(0, len(rows), BLOCK_ROWS):
        n = min(BLOCK_ROWS, len(rows) - start)
        block_rows = rows[start : start + n]
        row_addresses(images, block_rows, addresses)
        block_scores(images, addresses, n, weights, block)
        factors[:] = 0
        for i in range(n):
            label = labels[block_rows[i]]
            loss, predicted = margins(block[i], label, offset, delta, k)
            if not add_loss(loss, limbs):
                overflows += 1
            factors[i // 4, :, i % 4] = k
            for j in range(len(offset)):
                indicators[j] += k[j]
            correct += predicted == label
            predictions[start + i] = predicted
        if tiles:
            add_gradient(addresses, n, factors, gradient)
        else:
            _add_gradient_plain(images, block_rows, factors, gradient)
    return correct, overflows


@cached_njit()
def squared_norm(W: Any, columns: int) -> float:
    """Return the sum of squares of the first `columns` columns of `W` (C, D + 1) float64.

    Each class has four partial sums, and the classes are added in order. This is fast, and the
    order is the same on every processor.
    """
    total = 0.0
    for j in range(W.shape[0]):
        a = b = c = d = 0.0
        whole = columns - columns % 4
        for i in range(0, whole, 4):
            a += W[j, i] * W[j, i]
            b += W[j, i + 1] * W[j, i + 1]
            c += W[j, i + 2] * W[j, i + 2]
            d += W[j, i + 3] * W[j, i + 3]
        for i in range(whole, columns):
            a += W[j, i] * W[j, i]
        total += (a + b) + (c + d)
    return total
