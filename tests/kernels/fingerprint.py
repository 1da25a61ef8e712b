"""Print digests of what the kernels make of a few hundred rows; see `test_processors`."""

import hashlib

import numpy as np

from kernels import vector
from kernels.hinge import fold, hinge_partial, scores
from kernels.partial import finalize


def main() -> None:
    """Print how the kernels were compiled, then digests for each type of score."""
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (300, 3_072), dtype=np.uint8)
    labels = rng.integers(0, 10, 300).astype(np.uint8)
    W = rng.normal(scale=1e-3, size=(10, 3_073))
    mean = images.mean(0)
    print(f"tiles of {vector.TILE_ROWS} x {vector.TILE_CLASSES}")
    print(f"dot product of bytes: {vector.BYTE_DOT_PRODUCT}")
    for dtype in (np.float32, np.float64):
        scorer = fold(W, mean, dtype)
        value = finalize(hinge_partial(scorer, images, labels), W, mean, reg=0.1)
        for array in (scores(scorer, images), value.gradient, np.float64(value.loss)):
            print(hashlib.sha256(array.tobytes()).hexdigest())


if __name__ == "__main__":
    main()
