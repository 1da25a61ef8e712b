"""The path of a training run, for `hinge landscape --path`.

A run does not store its path. The run is repeated, which gives bit-identical weights
(`pipeline.training.trajectory`), and its path is projected onto the plane that explains most of it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.runs.active_run import ActiveRun
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
"""The margin on each side of a path, as a fraction of the width of the path."""


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """The part of the result of a training run that is needed here."""

    weights_sha256: str


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run that can be repeated."""

    id: str
    parameters: TrainingParameters
    weights_sha256: str
    """The hash of its final weights."""


@dataclass(frozen=True, eq=False)
class ProjectedPath:
    """The path of a run, projected onto a plane."""

    run: str
    steps: NDArray[np.int64]
    """(T,): the numbers of steps, or passes, after which the snapshots were taken."""
    coordinates: Floats
    """(T, 2)."""
    explained: Floats
    """(2,): the fraction of the squared distances to the end that lies along each axis."""


@dataclass(frozen=True, eq=False)
class Retraced:
    """A repeated run: its final weights, the axes of the plane of its path, and the path."""

    W: Floats
    """(C, D + 1)."""
    axes: tuple[Axis, Axis]
    path: ProjectedPath


def find_trained_run(request: RunRequest[Landscape], name: str) -> TrainedRun:
    """Return the finished training run `name`, whose path will be shown.

    Raises PipelineError if the run does not exist, has not finished, was on other data, or has too
    short a path.
    """
    directory, dataset = RunDirectory.find(request.siblings, name), request.dataset
    document = upgrade(directory.read_document())
    if document.get("command") != "train" or "weights_sha256" not in document:
        raise PipelineError(
            f"run {directory.id} has no path to show; name a finished run of `hinge train`"
        )
    check_data(
        read_header(directory), directory, dataset, f"{request.store} contains", "of the run"
    )
    directory.read_weights((len(dataset.classes), PIXELS + 1))
    parameters: TrainingParameters = read_parameters(directory, document, TrainingParameters)  # type: ignore[arg-type]
    result = read_as(_Trained, document, directory, "its result cannot be used ")
    if _most_steps(parameters, dataset) < 2:
        raise PipelineError(
            f"run {directory.id} took only one step, so its path spans no plane; name another run"
        )
    return TrainedRun(directory.id, parameters, result.weights_sha256)


def _most_steps(parameters: TrainingParameters, dataset: Dataset) -> int:
    """Return the number of steps of a run, or its maximum number of iterations or passes."""
    if isinstance(parameters, StepParameters):
        return parameters.total_steps(dataset.rows("train"))
    return parameters.steps


def retrace(session: Session, run: ActiveRun[Landscape, Any, Any], trained: TrainedRun) -> Retraced:
    """Repeat a training run, and project its path onto the plane that explains most of it.

    Raises PipelineError if the repeated run ends with other weights.
    """
    dataset, parameters = run.dataset, trained.parameters
    by_steps = isinstance(parameters, StepParameters)
    total = _most_steps(parameters, dataset) if by_steps else None
    with run.report.progress("path", total) as advance:
        steps, weights = trajectory(session.placed(dataset), parameters, advance)
    if weights_sha256(weights[-1]) != trained.weights_sha256:
        raise PipelineError(
            f"run {trained.id} cannot be repeated: it now ends with other weights, because a "
            "package version or the processor has changed; train again"
        )
    plane = path_plane(weights)
    a, b = (
        _axis(run.parameters, plane.directions[k], plane.coordinates[:, k], label)
        for k, label in enumerate(
            ("first direction of the path", "second direction of the path, on another scale")
        )
    )
    path = ProjectedPath(trained.id, steps, plane.coordinates, plane.explained)
    return Retraced(weights[-1], (a, b), path)


def _axis(parameters: Landscape, direction: Floats, coordinates: Floats, label: str) -> Axis:
    """Return an axis of the requested extent, or one that shows all `coordinates` of the path."""
    low, high = float(coordinates.min()), float(coordinates.max())
    margin = _MARGIN * (high - low)
    if parameters.extent is None:
        low, high = low - margin, high + margin
    else:
        low, high = -parameters.extent, parameters.extent
    return Axis(direction, f"{label} (distance in weights)", low, high, parameters.points)
