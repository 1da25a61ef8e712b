"""Many trials' losses in one pass over the images: one wide product of integers.

Scores are linear in the weights, so that a block of trials is one product of the images
with all their weights side by side. The weights are 16-bit fixed-point numbers
(`kernels.fixed_point`): the product is exact, and a trial's loss is to the last bit that of
`kernels.hinge.sum_rows` with float64 scores at the same weights, whatever trials it is taken with.
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
"""Trials in a group; other numbers of them are filled up to whole groups."""

Scores = NDArray[np.int32]
"""A group's scores of some rows, in units, without the offsets (n, C, LANES)."""


class Trials(NamedTuple):
    """The weights of some trials, in the order in which they are multiplied."""

    panels: NDArray[np.int16]
    """(G, P, pairs, TILE_CLASSES, LANES, 2): groups, panels of classes, pairs of pixels."""
    offsets: NDArray[np.float64]
    """(G, C, LANES): the bias less `weights @ mean`, as `kernels.hinge.fold` takes it."""
    unit: float
    columns: int
    """D, the pixels of an image."""
    size: int
    """How many trials there are: the last lanes of the last group may be of none."""


def pack(weights: FixedPoint, mean: NDArray[np.float64] | None = None) -> Trials:
    """Put the weights (B, C, D + 1) of B trials side by side, `mean` (D,) folded in.

    Raises ValueError if a score on bytes might not fit 32 bits.
    """
    trials, classes, columns = weights.units.shape
    columns -= 1
    pixels = weights.units[..., :-1]
    total = np.sum(pixels, axis=-1, dtype=np.int64)
    size = np.sum(np.abs(pixels, dtype=np.int32), axis=-1, dtype=np.int64)
    # on white where weights are positive and black elsewhere, and the other way round
    if trials and 255 * np.max([size + total, size - total]) // 2 >= 2**31:
        raise ValueError("scores of these weights on bytes may not fit 32 bits; take a larger unit")
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

    Raises ValueError for a label without weights or arrays whose shapes or types do not fit.
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
        raise ValueError(f"scores are kept of one group at a time, not of {len(trials.panels)}")
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

    `base` (n, C) float64 holds the scores, in whole units, of weights that all trials add to;
    `trials.offsets` are those of the sums.
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
    """Raise ValueError unless they fit together."""
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
    """Return the panels where a vector does not straddle two cache lines: a fifth quicker."""
    if panels.ctypes.data % VECTOR_BYTES == 0:
        return panels
    room = np.empty(panels.nbytes + VECTOR_BYTES, np.uint8)
    start = -room.ctypes.data % VECTOR_BYTES
    copy = room[start : start + panels.nbytes].view(np.int16).reshape(panels.shape)
    copy[:] = panels
    return copy
