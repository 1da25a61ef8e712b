"""The loss curves of a grid, as its figure shows them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Curve(NamedTuple):
    """The loss curve of a training run."""

    label: str
    """The run's step size. Curves with the same label have the same colour in all panels."""
    losses: NDArray[np.float64]
    window: int
    """The number of steps in the running mean."""
    diverged: bool
