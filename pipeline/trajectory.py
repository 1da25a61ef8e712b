"""The path of a training run through the space of weights, and the plane that shows most of it.

A run's path is not kept, for it can be had again: a run is decided by its parameters and its
data, to the last bit. So it is taken once more, and looked at on the way.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.actors import Actors
from pipeline.descent import DescentState
from pipeline.errors import PipelineError
from pipeline.journal import Journal
from pipeline.parameters import TrainingParameters
from pipeline.placement import Placements
from pipeline.quasi_newton import minimise, preconditioner
from pipeline.replay import Evaluations
from pipeline.training import prepare, train

Floats = NDArray[np.float64]

LOOKS = 60
"""Weights that are looked at, at most, of a run of steps."""


class Trajectory(NamedTuple):
    """Weights that a run went through, the first and the last of it among them."""

    steps: NDArray[np.int64]
    """(T,): how many steps, or passes, it had taken."""
    weights: Floats
    """(T, C, D + 1)."""


def trajectory(
    placements: Placements, parameters: TrainingParameters, report: Callable[[int], None]
) -> Trajectory:
    """Take a run again, from its start to its end; `report` is called with every look's step."""
    classes = len(placements.dataset.classes)
    steps, weights = [0], [parameters.start(classes).W]

    def look(step: int, W: Floats) -> None:
        steps.append(step)
        weights.append(W)
        report(step)

    (_steps if parameters.method.by_steps else _passes)(placements, parameters, look)
    return Trajectory(np.array(steps), np.stack(weights))


def _steps(
    placements: Placements, parameters: TrainingParameters, look: Callable[[int, Floats], None]
) -> None:
    total = parameters.total_steps(placements.dataset.rows("train"))

    def seen(state: DescentState) -> None:
        if state.step > last[-1]:  # a run that ends early has taken no step more
            last.append(state.step)
            look(state.step, state.W)

    last = [0]
    with prepare(placements, parameters, lambda _step, _loss: None) as stretch:
        start = parameters.start(len(placements.dataset.classes))
        every = -(-total // LOOKS)
        train(stretch, start, total, checkpoint_every=every, checkpoint=seen)


def _passes(
    placements: Placements, parameters: TrainingParameters, look: Callable[[int, Floats], None]
) -> None:
    """Look at the best weights whenever there are better ones."""
    T, least = preconditioner(placements.dataset, parameters), np.inf

    def seen(evaluations: Evaluations) -> None:
        nonlocal least
        if evaluations.best and evaluations.least_loss < least:
            least = evaluations.least_loss
            look(evaluations.passes, T.weights(evaluations.best.V))

    with (
        TemporaryDirectory() as directory,
        Journal(Path(directory) / "passes.sqlite") as journal,
        Actors(placements) as actors,
    ):
        minimise(actors, placements.dataset, parameters, journal, seen)


class PathPlane(NamedTuple):
    """The plane through a path's end in which most of it lies."""

    directions: Floats
    """(2, C, D + 1): of length 1, and at right angles; along the path to its end, they rise."""
    coordinates: Floats
    """(T, 2): the path in the plane, where the end is at 0."""
    explained: Floats
    """(2,): the part of the squared distances to the end that lies in each direction."""


def path_plane(weights: Floats) -> PathPlane:
    """Return the plane of the leading directions of a path (T, C, D + 1) seen from its end.

    They are the right singular vectors of what the path is away from its end.

    Raises PipelineError if the path is no more than a straight line.

    >>> path = np.array([[[3.0, 4.0, 0.0]], [[3.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
    >>> plane = path_plane(path)
    >>> np.allclose(plane.coordinates @ plane.directions[:, 0], path[:, 0])
    True
    """
    away = (weights - weights[-1]).reshape(len(weights), -1)
    left, sizes, directions = np.linalg.svd(away, full_matrices=False)
    if len(sizes) < 2 or not sizes[1] > 1e-9 * sizes[0]:
        raise PipelineError(
            "the run's path has no plane: it took too few steps, or a straight line"
        )
    signs = np.where((left * sizes)[0, :2] > 0, -1.0, 1.0)  # so that the path goes up to its end
    pair = signs[:, None] * directions[:2]
    return PathPlane(
        pair.reshape(2, *weights.shape[1:]),
        signs * (left * sizes)[:, :2],
        (sizes[:2] / np.linalg.norm(sizes)) ** 2,
    )
