"""The tasks that look at the loss along a line or over a plane, and what they find."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.session import Session
from kernels.piecewise import PiecewiseLinear
from pipeline.errors import PipelineError
from pipeline.landscape import Axis
from pipeline.line import LossAlongLine
from pipeline.objective import Objective
from pipeline.plane import LossOverPlane
from pipeline.shards import Rows

Floats = NDArray[np.float64]

_POINTS_AT_A_TIME = 25_000
"""Of a plane: half a second's work."""

_STEPS_AT_A_TIME = 2_000


@dataclass(frozen=True, eq=False)
class LineSlice:
    """The loss along a line."""

    axis: Axis
    losses: Floats
    """(K,): at the axis's steps, the regulariser included."""
    regularisers: Floats
    """(K,): what of them is the regulariser's."""
    function: PiecewiseLinear
    """The mean hinge loss, whole: without the regulariser."""
    examples: int
    seconds: dict[str, float]
    """How long the score passes took, and the points after them."""

    @property
    def lowest(self) -> tuple[int, ...]:
        """The place of the lowest point."""
        return (int(np.argmin(self.losses)),)

    @property
    def max_difference(self) -> float:
        """How far an evaluated point is off the function at most, by its loss, or by 1 if less."""
        hinges = self.losses - self.regularisers
        off = np.abs(self.function(self.axis.steps) - hinges)
        return float((off / np.maximum(hinges, 1.0)).max())


@dataclass(frozen=True, eq=False)
class PlaneSlice:
    """The loss over a plane."""

    axes: tuple[Axis, Axis]
    losses: Floats
    """(M, K): at the first axis's K steps, and the second's M; the regulariser included."""
    middle: float
    """The loss where both axes are 0, which need not be a point of theirs."""
    reg: float
    """How much of the regulariser is in it."""
    examples: int
    seconds: dict[str, float]
    """How long the score passes took, and the points after them."""

    @property
    def lowest(self) -> tuple[int, ...]:
        """The place of the lowest point: that of b and that of a."""
        return tuple(map(int, np.unravel_index(np.argmin(self.losses), self.losses.shape)))


@task(name="line", cache_policy=NO_CACHE)
def line_task(
    session: Session, objective: Objective, W: Floats, axis: Axis, rows: Rows | None, examples: int
) -> LineSlice:
    """Take the loss at the axis's steps, and the function between its ends.

    Raises PipelineError where they are out of all range.
    """
    clock = time.perf_counter()
    line, steps = LossAlongLine(objective, W, axis.direction, rows), axis.steps
    line(np.zeros(1))
    passed = time.perf_counter()
    losses = list[float]()
    with session.console.progress("line", len(steps)) as advance:
        while len(losses) < len(steps):
            losses += line(steps[len(losses) : len(losses) + _STEPS_AT_A_TIME])
            advance(len(losses), f"lowest {min(losses):f}")
    found = _finite(np.array(losses))
    try:
        function = line.function(axis.low, axis.high)
    except ValueError as error:
        raise PipelineError(f"the loss along this line is out of range: {error}") from error
    seconds = {"passes": passed - clock, "points": time.perf_counter() - passed}
    regularisers = np.array([line.regulariser(a) for a in steps.tolist()])
    return LineSlice(axis, found, regularisers, function, examples, seconds)


@task(name="plane", cache_policy=NO_CACHE)
def plane_task(
    session: Session,
    objective: Objective,
    W: Floats,
    axes: tuple[Axis, Axis],
    rows: Rows | None,
    examples: int,
) -> PlaneSlice:
    """Take the loss at every point of two axes.

    Raises PipelineError where it is out of all range.
    """
    clock = time.perf_counter()
    plane = LossOverPlane(objective, W, axes[0].direction, axes[1].direction, rows)
    try:
        middle = float(plane(np.zeros(1), np.zeros(1))[0, 0])
    except ValueError as error:
        raise PipelineError(f"{error}; take smaller weights") from error
    passed = time.perf_counter()
    (a, b), parts = (axis.steps for axis in axes), list[Floats]()
    size = max(1, _POINTS_AT_A_TIME // len(a))
    with session.console.progress("plane", len(a) * len(b)) as advance:
        for start in range(0, len(b), size):
            parts.append(_finite(plane(a, b[start : start + size])))
            lowest = min(float(part.min()) for part in parts)
            advance(sum(part.size for part in parts), f"lowest {lowest:f}")
    seconds = {"passes": passed - clock, "points": time.perf_counter() - passed}
    return PlaneSlice(axes, np.concatenate(parts), middle, objective.reg, examples, seconds)


def _finite(losses: Floats) -> Floats:
    if not np.isfinite(losses).all():
        raise PipelineError(
            "the loss is no finite number everywhere there; take smaller weights, or a smaller "
            "--extent"
        )
    return losses
