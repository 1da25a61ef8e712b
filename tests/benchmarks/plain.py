"""The loss as a user would write it in NumPy: all images as floats, one evaluation at a time."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from storage.dataset import Dataset

Weights = NDArray[np.floating]


def loss_in_memory(
    dataset: Dataset, dtype: type[np.floating] = np.float32
) -> Callable[[Weights], float]:
    """Return a function that computes the mean hinge loss at `W` (C, D + 1) over all images.

    The images (N, D + 1) are centred, extended by a column of ones and converted to `dtype` once.
    Each call computes one product with them. BLAS uses the number of threads in its environment
    variables.
    """
    rows = dataset.rows("train")
    images, labels = dataset.read("train", 0, rows)
    X = np.empty((rows, images.shape[1] + 1), dtype)
    np.subtract(images, dataset.mean.astype(dtype), out=X[:, :-1])
    X[:, -1] = 1
    every = np.arange(rows)

    def loss(W: Weights) -> float:
        margins = X @ W.astype(dtype).T
        margins -= margins[every, labels][:, None] - dtype(1)
        margins[every, labels] = 0
        np.maximum(margins, 0, out=margins)
        return float(margins.sum(dtype=np.float64)) / rows

    return loss
