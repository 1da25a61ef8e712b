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
"""Weights that are kept of a run, or nearly: twice as many of one whose length is not known."""


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
    kept = _Kept()
    kept.add(0, parameters.start(len(placements.dataset.classes)).W)

    def look(step: int, W: Floats) -> None:
        kept.add(step, W)
        report(step)

    (_steps if parameters.method.by_steps else _passes)(placements, parameters, look)
    return kept.trajectory


class _Kept:
    """Looks at a run, of which every other is dropped when there are too many."""

    def __init__(self) -> None:
        self._looks = list[tuple[int, Floats]]()
        self._last: tuple[int, Floats] | None = None
        self._every, self._count = 1, 0

    def add(self, step: int, W: Floats) -> None:
        self._last = step, W
        if self._count % self._every == 0:
            self._looks.append(self._last)
        self._count += 1
        if len(self._looks) > 2 * LOOKS:
            del self._looks[1::2]
            self._every *= 2

    @property
    def trajectory(self) -> Trajectory:
        """What is kept, and the last look in any case."""
        looks = self._looks
        if self._last is not None and looks[-1][0] != self._last[0]:
            looks = [*looks, self._last]
        steps, weights = zip(*looks, strict=True)
        return Trajectory(np.array(steps), np.stack(weights))


def _steps(
    placements: Placements, parameters: TrainingParameters, look: Callable[[int, Floats], None]
) -> None:
    total = parameters.total_steps(placements.dataset.rows("train"))
    start, last = parameters.start(len(placements.dataset.classes)), 0

    def seen(state: DescentState) -> None:
        nonlocal last
        if state.step > last:  # a run that ends early has taken no step more
            last = state.step
            look(state.step, state.W)

    with prepare(placements, parameters, lambda _step, _loss: None) as stretch:
        train(stretch, start, total, checkpoint_every=-(-total // LOOKS), checkpoint=seen)


def _passes(
    placements: Placements, parameters: TrainingParameters, look: Callable[[int, Floats], None]
) -> None:
    """Look at the best weights whenever there are better ones than those of the first pass."""
    T, least = preconditioner(placements.dataset, parameters), np.inf

    def seen(evaluations: Evaluations) -> None:
        nonlocal least
        better, least = evaluations.least_loss < least, evaluations.least_loss
        if evaluations.best and better and evaluations.passes > 1:
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
        (sizes[:2] / sizes[0]) ** 2 / ((sizes / sizes[0]) ** 2).sum(),
    )
