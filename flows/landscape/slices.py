"""The loss along a line and over a plane: the tasks that evaluate it, and their values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.runs.stopwatch import Stopwatch
from flows.services.session import Session
from kernels.piecewise import PiecewiseLinear
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Examples, Rows
from pipeline.landscape.axes import Axis
from pipeline.objective import Objective
from pipeline.slices.line import LossAlongLine
from pipeline.slices.plane import LossOverPlane
from storage.dataset import Dataset

Floats = NDArray[np.float64]

_POINTS_AT_A_TIME = 25_000
"""Points of a plane between two updates of the progress bar: half a second of work."""

_STEPS_AT_A_TIME = 2_000
"""Points of a line between two updates of the progress bar."""


class ChosenExamples(NamedTuple):
    """The training images that a loss is the mean over."""

    rows: Rows | None
    """Their row numbers; None for all rows."""
    number: int
    """How many they are."""


def choose_examples(text: str, dataset: Dataset, seed: int) -> ChosenExamples:
    """Return the training images that `all`, `N` or `first:N` names.

    Raises PipelineError if there are not so many.
    """
    examples, rows = Examples.parse(text), dataset.rows("train")
    return ChosenExamples(examples.rows(rows, seed), examples.count(rows))


@dataclass(frozen=True, eq=False)
class LineSlice:
    """The loss along a line."""

    axis: Axis
    losses: Floats
    """(K,): at the axis's steps, with the regulariser."""
    regularisers: Floats
    """(K,): the regulariser's part of each loss."""
    function: PiecewiseLinear
    """The mean hinge loss along the whole axis, without the regulariser."""
    examples: int
    timings: Mapping[str, float]
    """Seconds that the score passes took, and then the points."""

    @property
    def minimum_at(self) -> tuple[float]:
        """Where the lowest point is."""
        return (float(self.axis.steps[np.argmin(self.losses)]),)

    @property
    def max_difference(self) -> float:
        """The largest difference between an evaluated point and the function.

        It is relative to the hinge loss, or absolute where that is below 1.
        """
        hinges = self.losses - self.regularisers
        off = np.abs(self.function(self.axis.steps) - hinges)
        return float((off / np.maximum(hinges, 1.0)).max())


@dataclass(frozen=True, eq=False)
class PlaneSlice:
    """The loss over a plane."""

    axes: tuple[Axis, Axis]
    losses: Floats
    """(M, K): at the first axis's K steps and the second's M, with the regulariser."""
    middle: float
    """The loss where both axes are 0, which need not be one of the points."""
    reg: float
    """The regulariser's factor R."""
    examples: int
    timings: Mapping[str, float]
    """Seconds that the score passes took, and then the points."""

    @property
    def lowest(self) -> tuple[int, int]:
        """The row and the column of the lowest point."""
        row, column = np.unravel_index(np.argmin(self.losses), self.losses.shape)
        return int(row), int(column)

    @property
    def minimum_at(self) -> tuple[float, float]:
        """Where the lowest point is, as a and b."""
        (row, column), (a, b) = self.lowest, (axis.steps for axis in self.axes)
        return float(a[column]), float(b[row])


def objective_in_tasks(
    session: Session, dataset: Dataset, reg: float, *, reg_bias: bool = False
) -> Objective:
    """Return the regularised loss over the training images, with float64 scores, in Dask tasks."""
    map_shards = session.map_shards(dataset, "train")
    return Objective(map_shards, dataset.mean, reg, "float64", reg_bias)


@task(name="line", cache_policy=NO_CACHE)
def evaluate_line(
    session: Session, objective: Objective, W: Floats, axis: Axis, examples: ChosenExamples
) -> LineSlice:
    """Evaluate the loss at the axis's steps, and compute its function between the axis's ends.

    Raises PipelineError if the loss is out of range.
    """
    watch, losses = Stopwatch(), list[float]()
    line, steps = LossAlongLine(objective, W, axis.direction, examples.rows), axis.steps
    line(np.zeros(1))
    watch.lap("passes")
    with session.console.progress("line", len(steps)) as advance:
        while len(losses) < len(steps):
            losses += line(steps[len(losses) : len(losses) + _STEPS_AT_A_TIME])
            advance(len(losses), f"lowest {min(losses):f}")
    evaluated = _check_finite(np.array(losses))
    try:
        function = line.function(axis.low, axis.high)
    except ValueError as error:
        raise PipelineError(f"the loss along this line is out of range: {error}") from error
    watch.lap("points")
    regularisers = np.array([line.regulariser(a) for a in steps.tolist()])
    return LineSlice(axis, evaluated, regularisers, function, examples.number, watch.timings)


@task(name="plane", cache_policy=NO_CACHE)
def evaluate_plane(
    session: Session,
    objective: Objective,
    W: Floats,
    axes: tuple[Axis, Axis],
    examples: ChosenExamples,
) -> PlaneSlice:
    """Evaluate the loss at every point of two axes.

    Raises PipelineError if the loss is out of range.
    """
    watch, parts = Stopwatch(), list[Floats]()
    plane = LossOverPlane(objective, W, axes[0].direction, axes[1].direction, examples.rows)
    try:
        middle = float(plane(np.zeros(1), np.zeros(1))[0, 0])
    except ValueError as error:
        raise PipelineError(f"{error}; use smaller weights") from error
    watch.lap("passes")
    a, b = (axis.steps for axis in axes)
    size = max(1, _POINTS_AT_A_TIME // len(a))
    with session.console.progress("plane", len(a) * len(b)) as advance:
        for start in range(0, len(b), size):
            parts.append(_check_finite(plane(a, b[start : start + size])))
            lowest = min(float(part.min()) for part in parts)
            advance(sum(part.size for part in parts), f"lowest {lowest:f}")
    watch.lap("points")
    losses, reg = np.concatenate(parts), objective.reg
    return PlaneSlice(axes, losses, middle, reg, examples.number, watch.timings)


def _check_finite(losses: Floats) -> Floats:
    """Return the losses; raise PipelineError if one is not finite."""
    if not np.isfinite(losses).all():
        raise PipelineError(
            "the loss is not finite everywhere there; use smaller weights, or a smaller --extent"
        )
    return losses
