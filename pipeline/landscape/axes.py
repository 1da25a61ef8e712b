"""The axes of a slice of the loss: random, along the gradient, or towards the weights of a run."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Rows
from pipeline.inputs.random_streams import Purpose, random_stream
from pipeline.objective import Objective
from pipeline.slices.line import LossAlongLine

Floats = NDArray[np.float64]

_LENGTH_AT_ZERO = 1e-3
"""The standard deviation of a random direction if all weights are 0."""


@dataclass(frozen=True, kw_only=True)
class AxisSummary:
    """The description of an axis in a record."""

    label: str
    low: float
    high: float
    length: float
    """The Euclidean length of the direction, which is a step of 1."""


@dataclass(frozen=True, eq=False)
class Axis:
    """A direction in the space of weights, and an interval of steps along it."""

    direction: Floats
    """(C, D + 1): a step of 1."""
    label: str
    """The direction and the meaning of a step of 1, in words."""
    low: float
    high: float
    points: int
    run: str | None = None
    """The run whose weights are at a step of 1 from the middle, or None."""

    @property
    def steps(self) -> Floats:
        """The points (K,), in rising order and evenly spaced.

        The points of a symmetric axis are symmetric bit for bit. If their number is odd, 0 is one
        of them.
        """
        if self.low == -self.high:
            return self.high * (np.arange(1 - self.points, self.points, 2) / (self.points - 1))
        return np.linspace(self.low, self.high, self.points)

    def summary(self) -> AxisSummary:
        """Return the description of the axis for a record."""
        length = float(np.linalg.norm(self.direction))
        return AxisSummary(label=self.label, low=self.low, high=self.high, length=length)


def random_axis(W: Floats, seed: int, number: int, extent: float | None, points: int) -> Axis:
    """Return a random axis whose direction is as long as the weights `W`.

    `seed` and `number` determine the direction. If all weights are 0, it is as long as small
    random weights.
    """
    direction = random_stream(seed, Purpose.DIRECTION, number).standard_normal(W.shape)
    largest = float(np.abs(W).max())  # scale first, because squares could overflow
    length = largest * float(np.linalg.norm(W / largest)) if largest else 0.0
    length = length or _LENGTH_AT_ZERO * math.sqrt(W.size)
    direction *= length / np.linalg.norm(direction)
    unit = "as long as the weights" if W.any() else f"of length {length:.3g}"
    reach = 1.0 if extent is None else extent
    return Axis(direction, f"random direction (a step of 1 is {unit})", -reach, reach, points)


def gradient_axis(
    objective: Objective, W: Floats, rows: Rows | None, extent: float | None, points: int
) -> Axis:
    """Return the axis along the negative gradient. A step of 1 leads to the lowest loss along it.

    Raises PipelineError if the loss does not fall along it, or is not finite.
    """
    value = objective(W, rows)
    if not math.isfinite(value.loss):
        raise PipelineError("the loss at these weights is not finite; use smaller weights")
    try:
        step = LossAlongLine(objective, W, -value.gradient, rows).minimum().step_size
    except ValueError as error:
        raise PipelineError(f"cannot find the lowest loss along the gradient: {error}") from error
    if step == 0:
        raise PipelineError(
            "the loss does not fall along the negative gradient at these weights; choose other "
            "weights with --around, or use random directions"
        )
    label = f"negative gradient (1 is the lowest loss along it, at step size {step:.3g})"
    reach = 2.0 if extent is None else extent
    return Axis(-step * value.gradient, label, -reach, reach, points)


def run_axis(W: Floats, end: Floats, name: str, extent: float | None, points: int) -> Axis:
    """Return the axis from `W` to the weights `end` of a run, which are at a step of 1.

    Raises PipelineError if both weights are the same.
    """
    if np.array_equal(W, end):
        raise PipelineError(f"run {name} has the same weights as the middle; name another run")
    reach = 1.5 if extent is None else extent
    return Axis(end - W, f"towards {name} (its weights are at 1)", -reach, reach, points, run=name)
