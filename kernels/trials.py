"""The losses of many trials in one pass over the images, as one wide product of integers.

Scores are linear in the weights, so the scores of a block of trials are one product of the images
with all weights side by side. The weights are 16-bit fixed-point numbers (`kernels.fixed_point`),
so the product is exact. A trial's loss is bit-identical to that of `kernels.hinge.sum_rows` with
float64 scores at the same weights, and does not depend on the other trials of its block.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import trial_scores as trial_loops
from kernels.exact_sum import LIMB_ROWS, LOSS_LIMBS, LossSum, Sums
from kernels.fixed_point import FixedPoint
from kernels.hinge import fold
from kernels.simd import trial_tiles
from kernels.simd.tiles import VECTOR_BYTES

LANES = trial_tiles.LANES
"""Trials per group. Other numbers of trials are padded to whole groups."""

Scores = NDArray[np.int32]
"""Scores of a group on some rows (n, C, LANES), in units and without the offsets."""


class Trials(NamedTuple):
    """The weights of some trials, in the memory order of the product."""

    panels: NDArray[np.int16]
    """(G, P, pairs, TILE_CLASSES, LANES, 2): groups, panels of classes, pairs of pixels."""
    offsets: NDArray[np.float64]
    """(G, C, LANES): the bias minus `weights @ mean`, as `kernels.hinge.fold` computes it."""
    unit: float
    columns: int
    """D, the number of pixels of an image."""
    size: int
    """The number of trials. The last lanes of the last group may be padding."""


def pack(weights: FixedPoint, mean: NDArray[np.float64] | None = None) -> Trials:
    """Pack the weights (B, C, D + 1) of B trials side by side, with `mean` (D,) folded in.

    Raises ValueError if a score on bytes could exceed 32 bits.
    """
    trials, classes, columns = weights.units.shape
    columns -= 1
    pixels = weights.units[..., :-1]
    total = np.sum(pixels, axis=-1, dtype=np.int64)
    size = np.sum(np.abs(pixels, dtype=np.int32), axis=-1, dtype=np.int64)
    # the extreme scores: pixels of 255 where the weights are positive, or where they are negative
    if trials and 255 * np.max([size + total, size - total]) // 2 >= 2**31:
        raise ValueError("scores of these weights on bytes may exceed 32 bits; use a larger unit")
    fill = (-trials % LANES, -classes % trial_tiles.TILE_CLASSES, columns % 2)
    units = np.pad(pixels, [(0, more) for more in fill])
    groups, panels, pairs = (
        units.shape[0] // LANES,
        units.shape[1] // trial_tiles.TILE_CLASSES,
        units.shape[2] // 2,
    )
    units = units.reshape(groups, LANES, panels, trial_tiles.TILE_CLASSES, pairs, 2)
    offsets = np.zeros((groups * LANES, classes))
    all_classes = weights.weights.reshape(trials * classes, columns + 1)
    offsets[:trials] = fold(all_classes, mean, np.float64).offset.reshape(trials, classes)
    return Trials(
        panels=np.ascontiguousarray(units.transpose(0, 2, 4, 3, 1, 5)),
        offsets=np.ascontiguousarray(offsets.reshape(groups, LANES, classes).transpose(0, 2, 1)),
        unit=weights.unit,
        columns=columns,
        size=trials,
    )


def trial_losses(
    trials: Trials, images: NDArray[np.uint8], labels: NDArray[np.uint8], *, delta: float = 1.0
) -> Sums[LossSum]:
    """Sum every trial's losses over the rows of images (n, D) and labels (n,), both uint8.

    Raises ValueError if a label has no weights, or if shapes or types of the arrays do not match.
    """
    _check(trials, images, labels)
    groups = len(trials.panels)
    panels = _aligned(trials.panels)
    limbs = np.zeros((groups, LOSS_LIMBS, LANES), np.int64)
    overflows = np.zeros((groups, LANES), np.int64)
    sums = Sums([LossSum()] * trials.size)
    for start in range(0, len(images), LIMB_ROWS):
        some = slice(start, start + LIMB_ROWS)
        limbs[:], overflows[:] = 0, 0
        weights = (panels, trials.unit, trials.offsets)
        trial_loops.trial_losses(images[some], labels[some], *weights, delta, limbs, overflows)
        sums = sums.combine(_sums(trials, limbs, overflows, len(images[some])))
    return sums


def scores(trials: Trials, images: NDArray[np.uint8]) -> Scores:
    """Return the scores of one group of trials on images (n, D) uint8."""
    _check(trials, images, np.zeros(len(images), np.uint8))
    if len(trials.panels) != 1:
        raise ValueError(f"scores need exactly one group of trials, not {len(trials.panels)}")
    out = np.empty((len(images), trials.offsets.shape[1], LANES), np.int32)
    trial_loops.scores(np.ascontiguousarray(images), _aligned(trials.panels)[0], out)
    return out


def losses_of_scores(
    scores: Scores,
    base: NDArray[np.float64],
    labels: NDArray[np.uint8],
    trials: Trials,
    *,
    delta: float = 1.0,
) -> Sums[LossSum]:
    """Sum the losses of a group of trials whose scores are `(base + scores) unit + offsets`.

    Each trial is added to the same common weights. `base` (n, C) float64 contains the scores of
    the common weights, in whole units. `trials.offsets` must be the offsets of the summed weights.
    """
    limbs = np.zeros((1, LOSS_LIMBS, LANES), np.int64)
    overflows = np.zeros((1, LANES), np.int64)
    sums = Sums([LossSum()] * trials.size)
    for start in range(0, len(labels), LIMB_ROWS):
        some = slice(start, start + LIMB_ROWS)
        limbs[:], overflows[:] = 0, 0
        rows = (scores[some], base[some], trials.unit, trials.offsets[0], labels[some])
        trial_loops.add_losses(*rows, delta, limbs[0], overflows[0])
        sums = sums.combine(_sums(trials, limbs, overflows, len(labels[some])))
    return sums


def _sums(
    trials: Trials, limbs: NDArray[np.int64], overflows: NDArray[np.int64], rows: int
) -> Sums[LossSum]:
    places = [divmod(trial, LANES) for trial in range(trials.size)]
    return Sums(LossSum.of_limbs(limbs[g, :, i], overflows[g, i], rows) for g, i in places)


def _check(trials: Trials, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Raise ValueError unless shapes, types and labels match."""
    classes = trials.offsets.shape[1]
    if images.dtype != np.uint8 or labels.dtype != np.uint8:
        raise ValueError(f"images and labels must be uint8, not {images.dtype}, {labels.dtype}")
    if images.shape != (len(labels), trials.columns):
        raise ValueError(
            f"{len(labels)} labels and weights of {trials.columns} pixels need images of shape "
            f"({len(labels)}, {trials.columns}), not {images.shape}"
        )
    if len(labels) and labels.max() >= classes:
        raise ValueError(f"labels must be in 0..{classes - 1}, not up to {labels.max()}")


def _aligned(panels: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return the panels aligned to cache lines, which makes the product a fifth faster."""
    if panels.ctypes.data % VECTOR_BYTES == 0:
        return panels
    room = np.empty(panels.nbytes + VECTOR_BYTES, np.uint8)
    start = -room.ctypes.data % VECTOR_BYTES
    copy = room[start : start + panels.nbytes].view(np.int16).reshape(panels.shape)
    copy[:] = panels
    return copy
