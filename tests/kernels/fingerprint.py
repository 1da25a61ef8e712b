"""Print digests of the kernels' results on a few hundred rows; `test_processors` runs this."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.fixed_point import FixedPoint, fixed_point
from kernels.hinge import fold, scores, sum_rows
from kernels.line import breakpoints, losses, margins_along_line, slopes
from kernels.partial import finalize
from kernels.plane import losses as plane_losses
from kernels.plane import margins_over_plane
from kernels.simd import tiles as vector
from kernels.smoothed import sum_smoothed_rows
from kernels.trials import losses_of_scores, pack, trial_losses
from kernels.trials import scores as trial_scores


def main() -> None:
    """Print how the kernels were compiled, then the digests of their results."""
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (300, 3_072), dtype=np.uint8)
    labels = rng.integers(0, 10, 300).astype(np.uint8)
    W = rng.normal(scale=1e-3, size=(10, 3_073))
    mean = images.mean(0)
    print(f"tiles of {vector.TILE_ROWS} x {vector.TILE_CLASSES}")
    print(f"dot product of bytes: {vector.BYTE_DOT_PRODUCT}")
    for dtype in (np.float32, np.float64):
        scorer = fold(W, mean, dtype)
        value = finalize(sum_rows(scorer, images, labels), W, mean, reg=0.1)
        for array in (scores(scorer, images), value.gradient, np.float64(value.loss)):
            print(hashlib.sha256(array.tobytes()).hexdigest())
    line_and_plane = (f(W, images, labels, mean) for f in (along_a_line, over_a_plane))
    for found in many(images, labels, mean), tuple(line_and_plane):
        print(hashlib.sha256(repr(found).encode()).hexdigest())
    smooth = sum_smoothed_rows(fold(W, mean), images, labels, mu=0.5)
    print(hashlib.sha256(smooth.gradient.tobytes() + repr(smooth.smoothed).encode()).hexdigest())


def many(*data: Any) -> tuple[object, ...]:
    """Return the losses of several trials, computed together and from stored scores."""
    images, labels, mean = data
    weights = fixed_point(np.random.default_rng(8).normal(size=(18, 10, 3_073)), 1e-3)
    group = pack(FixedPoint(weights.units[:16], weights.unit), mean)
    kept = losses_of_scores(trial_scores(group, images), np.ones((300, 10)), labels, group)
    return trial_losses(pack(weights, mean), images, labels), kept


def along_a_line(W: NDArray[np.float64], *data: Any) -> tuple[object, ...]:
    """Return losses, slopes and breakpoints along a line."""
    images, labels, mean = data
    V = np.random.default_rng(9).normal(size=W.shape)
    scorers = fold(W, mean, np.float64), fold(V, mean, np.float64)
    line = margins_along_line(*scorers, images, labels)
    sizes = np.geomspace(1e-6, 1.0, 19)
    positions, jumps = breakpoints(line, 1e-6, 1e-2)
    return losses(line, sizes), slopes(line, sizes), positions.tolist(), jumps.tolist()


def over_a_plane(W: NDArray[np.float64], *data: Any) -> tuple[object, ...]:
    """Return losses over a plane, at points for which the sums take different code paths."""
    images, labels, mean = data
    U, V = np.random.default_rng(10).normal(size=(2, *W.shape))
    first, second, third = (fold(weights, mean, np.float64) for weights in (W, U, V))
    plane = margins_over_plane(first, second, third, images, labels)
    total = plane_losses(plane, np.geomspace(1e-6, 1e3, 11), [0.0, -1e-3, 1.0, 1e22])
    return total.limbs.tolist(), total.overflows.tolist(), total.rows


if __name__ == "__main__":
    main()
