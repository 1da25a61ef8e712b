"""The two ways of taking loss and gradient that the kernel benchmark compares.

Run as a program, with the name of one of them and a number of images, it prints how many
bytes more the process holds at the most while it takes the gradient than it held without
data: images as the method wants them, and temporaries. What it takes to make them so is
left out, in favour of NumPy.
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
    """Bytes in memory; each thread sums one half of them."""
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
    """Centred float32 with a column of ones in memory; BLAS has as many threads as it is given."""
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
        return loss, (X.T @ k).T / np.float32(rows)  # up to twice as quick as k.T @ X

    return objective


OBJECTIVES = {"compiled": compiled, "numpy": numpy}


def _kilobytes(field: str) -> int:
    """Return a size from the kernel's account of this process: VmRSS, or VmHWM at the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise LookupError(field)


def main(name: str, rows: int) -> None:
    """Print the growth of this process in bytes (on Linux)."""
    OBJECTIVES[name](64)()  # load the libraries, and compile or read the cache
    before = _kilobytes("VmRSS")
    objective = OBJECTIVES[name](rows)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    for _ in range(3):
        objective()
    print((_kilobytes("VmHWM") - before) * 1024)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
