"""What decides a slice of the loss: the weights at its middle, its directions and its extent."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.examples import Examples
from pipeline.line import LossAlongLine
from pipeline.objective import Objective
from pipeline.shards import Rows
from pipeline.streams import Purpose, check_seed, stream

Floats = NDArray[np.float64]

RANDOM, GRADIENT = "random", "gradient"
"""Directions by name; every other name is a run's."""

AROUND = "normal:1e-3"
"""The weights in the middle where the user has not said."""

MOST_POINTS = {1: 100_000, 2: 2_000}
"""Points of an axis, by dimensions: some seconds of work, and some minutes."""

LARGEST_EXTENT = 1e15
"""Beyond, the loss at the edge leaves nothing of that in the middle."""

_LENGTH_AT_ZERO = 1e-3
"""Where the weights are 0, directions are as long as weights of this standard deviation."""


@dataclass(frozen=True)
class Landscape:
    """Everything that decides a slice."""

    dims: int = 2
    examples: str = "all"
    """`all` training images, a sample of N, or `first:N`."""
    around: str = AROUND
    """`zeros`, `normal:SCALE` or `uniform:SCALE`, or the run whose weights are in the middle."""
    directions: str = RANDOM
    """`random` or `gradient`, or one of these or a run for each dimension, with commas between."""
    extent: float | None = None
    """How far an axis goes each way, in its own unit; None: as far as there is much to see."""
    points: int = 101
    """Of an axis."""
    path: str | None = None
    """The run whose path is projected; it then says what is in the middle, and the directions."""
    reg: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        Examples.parse(self.examples)
        if self.dims not in MOST_POINTS:
            raise PipelineError(f"a slice has 1 or 2 dimensions, not {self.dims}")
        check_grid(self.points, self.extent, MOST_POINTS[self.dims])
        if not 0 <= self.reg < math.inf:
            raise PipelineError(f"the regulariser must be a number not below 0, not {self.reg}")
        check_seed(self.seed)
        if self.path is None:
            self.each_direction()
        elif (self.dims, self.around, self.directions, self.reg) != (2, AROUND, RANDOM, 0.0):
            raise PipelineError(
                "a run's path has its own plane of 2 dimensions, and its own loss; leave --dims, "
                "--around, --directions and --reg out"
            )

    def each_direction(self) -> list[str]:
        """Return the direction of each dimension.

        >>> Landscape(dims=2, directions="gradient").each_direction()
        ['gradient', 'random']
        """
        names = [name.strip() for name in self.directions.split(",")]
        if names == [RANDOM]:
            return [RANDOM] * self.dims
        if names == [GRADIENT]:
            return [GRADIENT, RANDOM][: self.dims]
        named = [name for name in names if name != RANDOM]
        if len(names) != self.dims or not all(names) or len(set(named)) < len(named):
            raise PipelineError(
                f"directions are `random`, `gradient`, or {self.dims} of these or of runs that "
                f"differ (one a dimension), with commas between, not {self.directions!r}"
            )
        return names


def check_grid(points: int, extent: float | None, most: int) -> None:
    """Raise PipelineError unless an axis can have so many points, and go so far."""
    if not 2 <= points <= most:
        raise PipelineError(f"an axis has from 2 to {most:,} points, not {points:,}")
    if extent is not None and not 0 < extent <= LARGEST_EXTENT:
        raise PipelineError(
            f"the extent must be a positive number, at most {LARGEST_EXTENT:g}, not {extent}"
        )


@dataclass(frozen=True, eq=False)
class Axis:
    """A direction in the space of weights, and how far it is gone along."""

    direction: Floats
    """(C, D + 1): a step of 1."""
    label: str
    """The direction, and what a step of 1 is."""
    low: float
    high: float
    points: int
    run: str | None = None
    """The run whose weights are a step of 1 from the middle, if it leads to one."""

    @property
    def steps(self) -> Floats:
        """Its points (K,), rising, evenly apart; 0 is one of an odd number that is symmetric."""
        if self.low == -self.high:
            return self.high * (np.arange(1 - self.points, self.points, 2) / (self.points - 1))
        return np.linspace(self.low, self.high, self.points)

    def described(self) -> dict[str, Any]:
        """Return what a record says of it."""
        length = float(np.linalg.norm(self.direction))
        return {"label": self.label, "low": self.low, "high": self.high, "length": length}


def random_axis(W: Floats, seed: int, number: int, extent: float | None, points: int) -> Axis:
    """Return a direction at random, as long as the weights are."""
    direction = stream(seed, Purpose.DIRECTION, number).standard_normal(W.shape)
    largest = float(np.abs(W).max())  # which is taken out, or squares would leave all range
    length = largest * float(np.linalg.norm(W / largest)) if largest else 0.0
    length = length or _LENGTH_AT_ZERO * math.sqrt(W.size)
    direction *= length / np.linalg.norm(direction)
    unit = "as long as the weights" if W.any() else f"of length {length:.3g}"
    reach = 1.0 if extent is None else extent
    return Axis(direction, f"at random (1 is {unit})", -reach, reach, points)


def gradient_axis(
    objective: Objective, W: Floats, rows: Rows | None, extent: float | None, points: int
) -> Axis:
    """Return the direction against the gradient; a step of 1 is to the lowest loss along it.

    Raises PipelineError if the loss does not fall, or is no finite number.
    """
    value = objective(W, rows)
    if not math.isfinite(value.loss):
        raise PipelineError("the loss at these weights is no finite number; take smaller ones")
    try:
        step = LossAlongLine(objective, W, -value.gradient, rows).minimum().step_size
    except ValueError as error:
        raise PipelineError(f"the gradient leads to no lowest loss: {error}") from error
    if step == 0:
        raise PipelineError(
            "the loss does not fall against the gradient at these weights; take others with "
            "--around, or random directions"
        )
    label = f"against the gradient (1 is the lowest loss along it, a step size of {step:.3g})"
    reach = 2.0 if extent is None else extent
    return Axis(-step * value.gradient, label, -reach, reach, points)


def run_axis(W: Floats, end: Floats, name: str, extent: float | None, points: int) -> Axis:
    """Return the direction to a run's weights, which are a step of 1.

    Raises PipelineError if they are those in the middle.
    """
    if np.array_equal(W, end):
        raise PipelineError(f"run {name} has the weights that are in the middle; name another")
    reach = 1.5 if extent is None else extent
    return Axis(end - W, f"towards {name} (1 is its weights)", -reach, reach, points, run=name)
