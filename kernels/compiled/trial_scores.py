"""Compiled loops over the weights of many trials at once: integer scores and losses.

Trials come in groups of `trial_tiles.LANES`, one per lane of the processor's vectors. As in
`kernels.compiled.gradient`, arrays are C-contiguous. `kernels.trials` checks them and is the entry
point. Shapes: n rows, D columns, which are processed in pairs, and C classes, which are padded to
P panels of `trial_tiles.TILE_CLASSES` classes each.
"""

from typing import Any

import numpy as np

from kernels.compiled.compilation import cached_njit
from kernels.simd import trial_tiles

BLOCK_ROWS = 48
"""Rows whose pixels, widened to int16, stay in the second-level cache beside a panel."""

_LANES, _ROWS, _CLASSES = trial_tiles.LANES, trial_tiles.TILE_ROWS, trial_tiles.TILE_CLASSES


@cached_njit()
def _widen(images: Any, start: Any, n: Any, pixels: Any) -> None:
    """Write `n` rows of bytes to `pixels` (BLOCK_ROWS, 2 pairs) int16."""
    for i in range(n):
        for d in range(images.shape[1]):
            pixels[i, d] = images[start + i, d]


@cached_njit()
def _block_scores(pixels: Any, n: Any, panels: Any, out: Any) -> None:
    """Write the scores of the first `n` rows (rounded up to a tile) to `out` (rows, C, LANES)."""
    for p in range(panels.shape[0]):
        for i in range(0, n, _ROWS):
            trial_tiles.pair_product_tile(
                pixels.ctypes.data + i * pixels.strides[0],
                pixels.strides[0],
                panels.ctypes.data + p * panels.strides[0],
                panels.shape[1],
                out.ctypes.data + i * out.strides[0] + p * _CLASSES * out.strides[1],
                out.strides[0],
            )


@cached_njit()
def scores(images: Any, panels: Any, out: Any) -> None:
    """Write the scores, in units, of one group of trials to `out` (n, C, LANES) int32.

    `panels` (P, pairs, TILE_CLASSES, LANES, 2) int16 are the group's weights.
    """
    pixels = np.zeros((BLOCK_ROWS, 2 * panels.shape[1]), np.int16)
    block = np.empty((BLOCK_ROWS, panels.shape[0] * _CLASSES, _LANES), np.int32)
    for start in range(0, len(images), BLOCK_ROWS):
        n = min(BLOCK_ROWS, len(images) - start)
        _widen(images, start, n, pixels)
        _block_scores(pixels, n, panels, block)
        out[start : start + n] = block[:n, : out.shape[1]]


@cached_njit()
def plain_scores(images: Any, panels: Any, out: Any) -> None:
    """Plain implementation of `scores`, one product at a time, with the same integers."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for lane in range(_LANES):
                total = np.int32(0)
                for d in range(images.shape[1]):
                    weight = panels[j // _CLASSES, d // 2, j % _CLASSES, lane, d % 2]
                    total += np.int32(images[i, d]) * np.int32(weight)
                out[i, j, lane] = total


@cached_njit()
def add_losses(
    scores: Any,
    base: Any,
    unit: Any,
    offsets: Any,
    labels: Any,
    delta: Any,
    limbs: Any,
    overflows: Any,
) -> None:
    """Add the losses of a group's trials over all rows to `limbs` and `overflows`.

    A row that overflows for a trial (see `kernels.partial`) is counted only for that trial.
    `scores` (n, C, LANES) int32 and `base` (n, C) float64 are in units. `base` is added to the
    scores of every trial.
    """
    for i in range(len(labels)):
        trial_tiles.add_row_losses(
            scores.ctypes.data + i * scores.strides[0],
            base.ctypes.data + i * base.strides[0],
            offsets.ctypes.data,
            offsets.shape[0],
            labels[i],
            unit,
            delta,
            limbs.ctypes.data,
            overflows.ctypes.data,
        )


@cached_njit()
def trial_losses(
    images: Any,
    labels: Any,
    panels: Any,
    unit: Any,
    offsets: Any,
    delta: Any,
    limbs: Any,
    overflows: Any,
) -> None:
    """Add every trial's losses over all rows in one pass, without storing the scores.

    The first axis is the group: `panels` (G, P, pairs, TILE_CLASSES, LANES, 2), `offsets`
    (G, C, LANES), `limbs` (G, LOSS_LIMBS, LANES) and `overflows` (G, LANES).
    """
    pixels = np.zeros((BLOCK_ROWS, 2 * panels.shape[2]), np.int16)
    block = np.empty((BLOCK_ROWS, panels.shape[1] * _CLASSES, _LANES), np.int32)
    base = np.zeros((BLOCK_ROWS, offsets.shape[1]))
    for start in range(0, len(images), BLOCK_ROWS):
        n = min(BLOCK_ROWS, len(images) - start)
        _widen(images, start, n, pixels)
        for g in range(len(panels)):
            _block_scores(pixels, n, panels[g], block)
            add_losses(
                block,
                base,
                unit,
                offsets[g],
                labels[start : start + n],
                delta,
                limbs[g],
                overflows[g],
            )
