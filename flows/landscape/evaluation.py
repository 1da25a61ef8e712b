"""Tasks that evaluate the loss along a line and over a plane."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flows.landscape.slices import LineSlice, PlaneSlice
from flows.runs.report import RunReport
from flows.runs.stopwatch import Stopwatch
from flows.services.session import Session
from flows.services.tasks import task
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Examples, Rows
from pipeline.landscape.axes import Axis
from pipeline.objective import Objective
from pipeline.slices.line import LossAlongLine
from pipeline.slices.plane import LossOverPlane
from storage.dataset import Dataset

Floats = NDArray[np.float64]

_POINTS_AT_A_TIME = 25_000
"""Points of a plane per update of the progress bar: about half a second of work."""

_STEPS_AT_A_TIME = 2_000
"""Points of a line per update of the progress bar."""


class ChosenExamples(NamedTuple):
    """The training images over which a loss is averaged."""

    rows: Rows | None
    """Their row numbers; None for all rows."""
    number: int
    """The number of images."""


def choose_examples(text: str, dataset: Dataset, seed: int) -> ChosenExamples:
    """Return the training images that `text` (`all`, `N` or `first:N`) names.

    Raises PipelineError if N exceeds the number of training images.
    """
    examples, rows = Examples.parse(text), dataset.rows("train")
    return ChosenExamples(examples.rows(rows, seed), examples.count(rows))


def objective_in_tasks(
    session: Session, dataset: Dataset, reg: float, *, reg_bias: bool = False
) -> Objective:
    """Return the regularised loss over the training images, evaluated by Dask tasks in float64."""
    map_shards = session.map_shards(dataset, "train")
    return Objective(map_shards, dataset.mean, reg, "float64", reg_bias)


@task("line")
def evaluate_line(
    report: RunReport, objective: Objective, W: Floats, axis: Axis, examples: ChosenExamples
) -> LineSlice:
    """Evaluate the loss at the steps of an axis, and as a function between its ends.

    Raises PipelineError if the loss is out of range.
    """
    watch, losses = Stopwatch(), list[float]()
    line, steps = LossAlongLine(objective, W, axis.direction, examples.rows), axis.steps
    line(np.zeros(1))
    watch.lap("passes")
    with report.progress("line", len(steps)) as advance:
        while len(losses) < len(steps):
            losses += line(steps[len(losses) : len(losses) + _STEPS_AT_A_TIME])
            advance(len(losses), f"lowest {min(losses):f}", min(losses))
    evaluated = _check_finite(np.array(losses))
    try:
        function = line.function(axis.low, axis.high)
    except ValueError as error:
        raise PipelineError(f"the loss along this line is out of range: {error}") from error
    watch.lap("points")
    regularisers = np.array([line.regulariser(a) for a in steps.tolist()])
    return LineSlice(axis, evaluated, regularisers, function, examples.number, watch.timings)


@task("plane")
def evaluate_plane(
    report: RunReport,
    objective: Objective,
    W: Floats,
    axes: tuple[Axis, Axis],
    examples: ChosenExamples,
) -> PlaneSlice:
    """Evaluate the loss at every point of the grid of two axes.

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
    with report.progress("plane", len(a) * len(b)) as advance:
        for start in range(0, len(b), size):
            parts.append(_check_finite(plane(a, b[start : start + size])))
            lowest = min(float(part.min()) for part in parts)
            advance(sum(part.size for part in parts), f"lowest {lowest:f}", lowest)
    watch.lap("points")
    losses, reg = np.concatenate(parts), objective.reg
    return PlaneSlice(axes, losses, middle, reg, examples.number, watch.timings)


def _check_finite(losses: Floats) -> Floats:
    """Return the losses. Raises PipelineError if one is not finite."""
    if not np.isfinite(losses).all():
        raise PipelineError(
            "the loss is not finite at some points; use smaller weights or a smaller --extent"
        )
    return losses
