"""The loss at the points of a line or of a plane.

The figures import this module, not the tasks that evaluate the loss: the workers that draw them
need not import Prefect.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.piecewise import PiecewiseLinear
from pipeline.landscape.axes import Axis

Floats = NDArray[np.float64]

MOST_MARKED = 50
"""The kinks of a line with more kinks than this are not marked and not recorded one by one."""


@dataclass(frozen=True, eq=False)
class LineSlice:
    """The loss along a line."""

    axis: Axis
    losses: Floats
    """(K,): the loss at the steps of the axis, including the regulariser."""
    regularisers: Floats
    """(K,): the regulariser at the steps of the axis."""
    function: PiecewiseLinear
    """The mean hinge loss along the whole axis, without the regulariser."""
    examples: int
    timings: Mapping[str, float]
    """Seconds taken by the passes over the images and by the evaluation of the points."""

    @property
    def minimum_at(self) -> tuple[float]:
        """The step of the lowest point."""
        return (float(self.axis.steps[np.argmin(self.losses)]),)

    @property
    def max_difference(self) -> float:
        """The largest difference between an evaluated loss and the exact function.

        The difference is relative to the hinge loss, or absolute if the hinge loss is below 1.
        """
        hinges = self.losses - self.regularisers
        off = np.abs(self.function(self.axis.steps) - hinges)
        return float((off / np.maximum(hinges, 1.0)).max())


@dataclass(frozen=True, eq=False)
class PlaneSlice:
    """The loss over a plane."""

    axes: tuple[Axis, Axis]
    losses: Floats
    """(M, K): the loss at the K steps of the first axis and the M steps of the second.

    It includes the regulariser."""
    middle: float
    """The loss at step 0 of both axes, which need not be one of the points."""
    reg: float
    """The factor R of the regulariser."""
    examples: int
    timings: Mapping[str, float]
    """Seconds taken by the passes over the images and by the evaluation of the points."""

    @property
    def lowest(self) -> tuple[int, int]:
        """The row and the column of the lowest point."""
        row, column = np.unravel_index(np.argmin(self.losses), self.losses.shape)
        return int(row), int(column)

    @property
    def minimum_at(self) -> tuple[float, float]:
        """The steps a and b of the lowest point."""
        (row, column), (a, b) = self.lowest, (axis.steps for axis in self.axes)
        return float(a[column]), float(b[row])
