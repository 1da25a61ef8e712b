"""What came out of the experiments, as the comparisons with the notes are made from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flows.figures import running_mean

Floats = NDArray[np.float64]
Record = Mapping[str, Any]

WINDOW = 50
"""Mini-batches whose losses are averaged."""


class Findings(NamedTuple):
    """What the comparisons are made from."""

    records: Mapping[str, Record]
    """Of the parts, by their names."""
    random_losses: Floats
    """Of all trials of the random search."""
    descent: Floats
    """The loss before each step of gradient descent, and after the last."""
    batches: Floats
    """The loss of each mini-batch of the same descent."""
    rows: int
    """Training images."""
    batch_size: int


def images_to_descend(found: Findings) -> tuple[int, int]:
    """Return how many images gradient descent looked at, and mini-batches for as low a loss.

    The second is 0 if they never came as low.
    """
    means = running_mean(found.batches, WINDOW)[WINDOW - 1 :]
    below = np.flatnonzero(means <= found.descent[-1])
    few = (int(below[0]) + WINDOW) * found.batch_size if len(below) else 0
    return (len(found.descent) - 1) * found.rows, few


def read_column(path: Path, name: str) -> Floats:
    """Read a column of numbers from a run's table (CSV)."""
    table = np.genfromtxt(path, delimiter=",", names=True)
    return np.atleast_1d(np.asarray(table[name], np.float64))
