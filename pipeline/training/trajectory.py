"""The path of a training run through the space of weights, and the plane that shows most of it.

A run does not store its path. The run's parameters and data determine the path bit for bit, so the
run is repeated to take snapshots of its weights.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.cluster.actors import Actors
from pipeline.cluster.placement import PlacedDataset
from pipeline.inputs.errors import PipelineError
from pipeline.journals.journal import Journal
from pipeline.training.descent import DescentState
from pipeline.training.parameters import PassParameters, StepParameters
from pipeline.training.quasi_newton import minimise, preconditioner
from pipeline.training.replay import Evaluations
from pipeline.training.steps import prepare_steps, train

Floats = NDArray[np.float64]

SNAPSHOTS = 60
"""About how many snapshots of a run are kept; up to twice as many if its length is not known."""


class Trajectory(NamedTuple):
    """Snapshots of a run's weights, including the first and the last weights."""

    steps: NDArray[np.int64]
    """(T,): the number of steps, or passes, at each snapshot."""
    weights: Floats
    """(T, C, D + 1)."""


def trajectory(
    placed_dataset: PlacedDataset,
    parameters: StepParameters | PassParameters,
    report: Callable[[int], None],
) -> Trajectory:
    """Repeat a run from start to end, and return its snapshots.

    Call `report` with the step of each snapshot after the first.
    """
    snapshots = _Snapshots()
    snapshots.add(0, parameters.first_weights(len(placed_dataset.dataset.classes)))

    def snapshot(step: int, W: Floats) -> None:
        snapshots.add(step, W)
        report(step)

    if isinstance(parameters, StepParameters):
        _repeat_steps(placed_dataset, parameters, snapshot)
    else:
        _repeat_passes(placed_dataset, parameters, snapshot)
    return snapshots.trajectory


class _Snapshots:
    """Snapshots of a run. When there are too many, every second one is dropped."""

    def __init__(self) -> None:
        self._kept = list[tuple[int, Floats]]()
        self._last: tuple[int, Floats] | None = None
        self._every, self._count = 1, 0

    def add(self, step: int, W: Floats) -> None:
        self._last = step, W
        if self._count % self._every == 0:
            self._kept.append(self._last)
        self._count += 1
        if len(self._kept) > 2 * SNAPSHOTS:
            del self._kept[1::2]
            self._every *= 2

    @property
    def trajectory(self) -> Trajectory:
        """The kept snapshots, including the last one of the run."""
        kept = self._kept
        if self._last is not None and kept[-1][0] != self._last[0]:
            kept = [*kept, self._last]
        steps, weights = zip(*kept, strict=True)
        return Trajectory(np.array(steps), np.stack(weights))


def _repeat_steps(
    placed_dataset: PlacedDataset,
    parameters: StepParameters,
    snapshot: Callable[[int, Floats], None],
) -> None:
    total = parameters.total_steps(placed_dataset.dataset.rows("train"))
    start, last = parameters.start(len(placed_dataset.dataset.classes)), 0

    def take_snapshot(state: DescentState) -> None:
        nonlocal last
        if state.step > last:  # a run that ends early may not have taken another step
            last = state.step
            snapshot(state.step, state.W)

    with prepare_steps(placed_dataset, parameters, lambda _step, _loss: None) as take_steps:
        every = -(-total // SNAPSHOTS)
        train(take_steps, start, total, checkpoint_every=every, checkpoint=take_snapshot)


def _repeat_passes(
    placed_dataset: PlacedDataset,
    parameters: PassParameters,
    snapshot: Callable[[int, Floats], None],
) -> None:
    """Take a snapshot of the best weights after each pass, except the first, that improves them."""
    T, least = preconditioner(placed_dataset.dataset, parameters), np.inf

    def take_snapshot(evaluations: Evaluations) -> None:
        nonlocal least
        better, least = evaluations.least_loss < least, evaluations.least_loss
        if evaluations.best and better and evaluations.passes > 1:
            snapshot(evaluations.passes, T.weights(evaluations.best.V))

    with (
        TemporaryDirectory() as directory,
        Journal(Path(directory) / "passes.sqlite") as journal,
        Actors(placed_dataset, shown_as=f"hinge-{parameters.method}") as actors,
    ):
        minimise(actors, placed_dataset.dataset, parameters, journal, take_snapshot)


class PathPlane(NamedTuple):
    """The plane through the end of a path that contains most of the path."""

    directions: Floats
    """(2, C, D + 1): orthonormal. Their signs are such that the path starts at negative
    coordinates."""
    coordinates: Floats
    """(T, 2): the path projected onto the plane. Its end is at 0."""
    explained: Floats
    """(2,): the fraction of the squared distances to the end that each direction explains."""


def path_plane(weights: Floats) -> PathPlane:
    """Return the plane of the two leading directions of a path (T, C, D + 1), with its end at 0.

    The directions are the leading right singular vectors of the differences to the path's end.

    Raises PipelineError if the path is a straight line or a point.

    Examples:
        >>> path = np.array([[[3.0, 4.0, 0.0]], [[3.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
        >>> plane = path_plane(path)
        >>> np.allclose(plane.coordinates @ plane.directions[:, 0], path[:, 0])
        True
    """
    away = (weights - weights[-1]).reshape(len(weights), -1)
    left, sizes, directions = np.linalg.svd(away, full_matrices=False)
    if len(sizes) < 2 or not sizes[1] > 1e-9 * sizes[0]:
        raise PipelineError(
            "the run's path has no plane: it has too few steps, or is a straight line"
        )
    signs = np.where((left * sizes)[0, :2] > 0, -1.0, 1.0)  # so that the path rises to its end
    pair = signs[:, None] * directions[:2]
    return PathPlane(
        pair.reshape(2, *weights.shape[1:]),
        signs * (left * sizes)[:, :2],
        (sizes[:2] / sizes[0]) ** 2 / ((sizes / sizes[0]) ** 2).sum(),
    )
