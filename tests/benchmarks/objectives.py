"""The two implementations of loss and gradient that the kernel benchmark compares.

Run as a program, with the name of an implementation and a number of images, this module prints the
memory that the implementation needs, in bytes: the peak of the process while it computes the
gradient, minus the memory before the data was made. The figure includes the images in the format
of the implementation, and temporary arrays. It excludes the conversion of the images to this
format, which favours NumPy.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.hinge import fold, sum_rows
from kernels.partial import finalize

THREADS = 2
Objective = Callable[[], tuple[float, NDArray[np.floating]]]


def data(rows: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float64], Any]:
    """Return random images and labels, the mean image and weights (10, 3073)."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, 3_072), dtype=np.uint8)
    labels = rng.integers(0, 10, rows, dtype=np.uint8)
    W = rng.normal(scale=1e-4, size=(10, 3_073))
    return images, labels, images[:1_000].mean(0), W


def compiled(rows: int) -> Objective:
    """Return the compiled objective: images as bytes in memory, one half per thread."""
    images, labels, mean, W = data(rows)
    threads = ThreadPoolExecutor(THREADS)
    parts = [slice(rows * i // THREADS, rows * (i + 1) // THREADS) for i in range(THREADS)]

    def objective() -> tuple[float, NDArray[np.floating]]:
        scorer = fold(W, mean)
        first, second = threads.map(lambda p: sum_rows(scorer, images[p], labels[p]), parts)
        value = finalize(first.combine(second), W, mean)
        return value.loss, value.gradient

    return objective


def numpy(rows: int) -> Objective:
    """Return the NumPy objective: centred float32 images with a column of ones in memory.

    BLAS uses the number of threads in its environment variables.
    """
    images, labels, mean, W64 = data(rows)
    X = np.empty((rows, 3_073), np.float32)
    np.subtract(images, mean.astype(np.float32), out=X[:, :-1])
    X[:, -1] = 1
    del images
    W, every = W64.astype(np.float32), np.arange(rows)

    def objective() -> tuple[float, NDArray[np.floating]]:
        margins = X @ W.T
        margins -= margins[every, labels][:, None] - np.float32(1)
        margins[every, labels] = 0
        np.maximum(margins, 0, out=margins)
        loss = float(margins.sum(dtype=np.float64)) / rows
        k = (margins > 0).astype(np.float32)
        k[every, labels] = -k.sum(1)
        return loss, (X.T @ k).T / np.float32(rows)  # up to twice as fast as k.T @ X

    return objective


OBJECTIVES = {"compiled": compiled, "numpy": numpy}


def _kilobytes(field: str) -> int:
    """Return a size from Linux's status of this process: VmRSS (now) or VmHWM (peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise LookupError(field)


def main(name: str, rows: int) -> None:
    """Print by how many bytes the memory of this process grows (Linux only)."""
    OBJECTIVES[name](64)()  # load libraries, and compile or load kernels
    before = _kilobytes("VmRSS")
    objective = OBJECTIVES[name](rows)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    for _ in range(3):
        objective()
    print((_kilobytes("VmHWM") - before) * 1024)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
