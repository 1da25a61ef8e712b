"""The path of a training run, for `hinge landscape --path`: found, taken again, projected.

A run's path is not kept. The run is taken again, which gives the same weights bit for bit
(`pipeline.training.trajectory`), and its path is projected on the plane that shows most of it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.runs.directory import RunDirectory
from flows.runs.header import check_data, read_header
from flows.runs.lifecycle import RunRequest
from flows.runs.old_records import upgrade
from flows.runs.record import read_as, read_parameters
from flows.runs.weights import weights_sha256
from flows.services.session import Session
from pipeline.inputs.errors import PipelineError
from pipeline.landscape.axes import Axis
from pipeline.landscape.parameters import Landscape
from pipeline.training.parameters import StepParameters, TrainingParameters
from pipeline.training.trajectory import path_plane, trajectory
from storage.dataset import Dataset
from storage.schema import PIXELS

Floats = NDArray[np.float64]

_MARGIN = 0.15
"""The margin of a plane on each side of a path, as a part of the path's width."""


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """The part of a training run's result that is needed here."""

    weights_sha256: str


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run that can be taken again."""

    id: str
    parameters: TrainingParameters
    weights_sha256: str
    """Of its final weights."""


@dataclass(frozen=True, eq=False)
class ProjectedPath:
    """The path of a run, projected on a plane."""

    run: str
    steps: NDArray[np.int64]
    """(T,): after how many steps, or passes, the run had these weights."""
    coordinates: Floats
    """(T, 2)."""
    explained: Floats
    """(2,): the part of the squared distances to the end that lies along each axis."""


@dataclass(frozen=True, eq=False)
class Retraced:
    """A run that was taken again: its last weights, the axes of its path's plane, and the path."""

    W: Floats
    """(C, D + 1)."""
    axes: tuple[Axis, Axis]
    path: ProjectedPath


def find_trained_run(request: RunRequest[Landscape], name: str) -> TrainedRun:
    """Return the training run `name`, whose path is to be shown.

    Raises PipelineError if there is no such run, if it has not finished, if it was on other data,
    or if its path is too short.
    """
    directory, dataset = RunDirectory.find(request.siblings, name), request.dataset
    document = upgrade(directory.read_document())
    if document.get("command") != "train" or "weights_sha256" not in document:
        raise PipelineError(
            f"run {directory.id} has no path to show: name a run of `hinge train` that has finished"
        )
    check_data(read_header(directory), directory, dataset, f"{request.store} holds", "it was on")
    directory.read_weights((len(dataset.classes), PIXELS + 1))
    parameters: TrainingParameters = read_parameters(directory, document, TrainingParameters)  # type: ignore[arg-type]
    result = read_as(_Trained, document, directory, "its result cannot be used ")
    if _most_steps(parameters, dataset) < 2:
        raise PipelineError(
            f"run {directory.id} took one step, and its path has no plane; name another"
        )
    return TrainedRun(directory.id, parameters, result.weights_sha256)


def _most_steps(parameters: TrainingParameters, dataset: Dataset) -> int:
    """Return how many steps a run has, or how many iterations or passes at most."""
    if isinstance(parameters, StepParameters):
        return parameters.total_steps(dataset.rows("train"))
    return parameters.steps


def retrace(session: Session, run: TrainedRun, dataset: Dataset, parameters: Landscape) -> Retraced:
    """Take a run again, and project its path on the plane that shows most of it.

    Raises PipelineError if it does not come to the same weights.
    """
    by_steps = isinstance(run.parameters, StepParameters)
    total = _most_steps(run.parameters, dataset) if by_steps else None
    with session.console.progress("path", total) as advance:
        steps, weights = trajectory(
            session.placed(dataset), run.parameters, lambda step: advance(step, "")
        )
    if weights_sha256(weights[-1]) != run.weights_sha256:
        raise PipelineError(
            f"run {run.id} cannot be taken again: it comes to other weights than it did, because "
            "of another version or another processor; train anew"
        )
    plane = path_plane(weights)
    a, b = (
        _axis(parameters, plane.directions[k], plane.coordinates[:, k], label)
        for k, label in enumerate(("the path's first direction", "its second (another scale)"))
    )
    path = ProjectedPath(run.id, steps, plane.coordinates, plane.explained)
    return Retraced(weights[-1], (a, b), path)


def _axis(parameters: Landscape, direction: Floats, coordinates: Floats, label: str) -> Axis:
    """Return an axis of the asked extent, or one that shows all `coordinates` of the path."""
    low, high = float(coordinates.min()), float(coordinates.max())
    margin = _MARGIN * (high - low)
    if parameters.extent is None:
        low, high = low - margin, high + margin
    else:
        low, high = -parameters.extent, parameters.extent
    return Axis(direction, f"{label}: distance in weights", low, high, parameters.points)
