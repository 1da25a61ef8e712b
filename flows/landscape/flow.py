"""The flow `landscape`: the loss along a line or over a plane in the space of weights.

The axes are random, along the gradient, towards other runs, or the leading directions of the path
of a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.landscape.evaluation import (
    ChosenExamples,
    choose_examples,
    evaluate_line,
    evaluate_plane,
    objective_in_tasks,
)
from flows.landscape.path import ProjectedPath, TrainedRun, find_trained_run, retrace
from flows.landscape.results import (
    LandscapeRecord,
    LandscapeResult,
    save_results,
    summarise_line,
    summarise_plane,
)
from flows.landscape.slices import LineSlice, PlaneSlice
from flows.runs.active_run import ActiveRun
from flows.runs.directory import RunDirectory
from flows.runs.flow_parameters import Count, Name
from flows.runs.lifecycle import RunKind, RunRequest
from flows.runs.weights import weights_named
from flows.services.guarded_flow import flow
from flows.services.session import Session
from flows.services.tasks import task
from pipeline.inputs.errors import PipelineError
from pipeline.landscape.axes import Axis, gradient_axis, random_axis, run_axis
from pipeline.landscape.parameters import GRADIENT, RANDOM, Landscape
from pipeline.objective import Objective

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NamedWeights:
    """The weights in the middle of a slice, and the axes from them to other runs."""

    W: Floats
    """(C, D + 1)."""
    run_axes: Mapping[str, Axis]
    """The axes, keyed by the name of the run as given in `directions`."""


@dataclass(frozen=True, eq=False)
class LandscapeInputs:
    """The examples and the weights that the parameters of a slice name."""

    examples: ChosenExamples
    around: NamedWeights | TrainedRun
    """The weights in the middle of the slice, or the run whose path the slice shows."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """The position of a slice in the space of weights, and the loss that it shows."""

    objective: Objective
    W: Floats
    """The weights in the middle (C, D + 1)."""
    axes: tuple[Axis, ...]
    path: ProjectedPath | None = None


def prepare(request: RunRequest[Landscape]) -> LandscapeInputs:
    """Find the examples, the weights in the middle and the runs that the parameters name.

    Raises PipelineError if a run does not exist or its weights cannot be used, or if the split
    has too few examples.
    """
    parameters = request.parameters
    examples = choose_examples(parameters.examples, request.dataset, parameters.seed)
    if parameters.path is not None:
        return LandscapeInputs(examples, find_trained_run(request, parameters.path))
    return LandscapeInputs(examples, _named_weights(request))


def _named_weights(request: RunRequest[Landscape]) -> NamedWeights:
    parameters, runs = request.parameters, request.siblings
    W = weights_named(parameters.around, request.dataset, runs, parameters.seed)
    run_axes = dict[str, Axis]()
    for name in parameters.each_direction():
        if name not in {RANDOM, GRADIENT}:
            end = RunDirectory.find(runs, name).read_weights(W.shape)
            run_axes[name] = run_axis(W, end, Path(name).name, parameters.extent, parameters.points)
    directions = [axis.direction for axis in run_axes.values()]
    if len(directions) == 2 and np.array_equal(directions[0], directions[1]):
        raise PipelineError(
            f"the runs {parameters.directions} have the same weights; name different runs"
        )
    return NamedWeights(W, run_axes)


LANDSCAPE: RunKind[Landscape, LandscapeResult, LandscapeInputs] = RunKind(
    "landscape",
    Landscape,
    LandscapeResult,  # type: ignore[arg-type]  # mypy has no type for a union as a value
    prepare,
    uses_all_shards=lambda parameters: parameters.path is None,  # a path trains in its own way
)


@flow(
    name="landscape",
    description="The loss along a line or over a plane in the space of weights.",
)
def landscape_flow(
    store: str,
    parameters: Landscape = Landscape(),
    resume: Name = "",
    runs: str = "runs",
    workers: Count = 0,
    scheduler: Name = "",
) -> LandscapeRecord:
    """Evaluate a slice of the loss, or resume an interrupted run.

    Args:
        store: The path or URL of the Zarr store.
        parameters: The parameters that determine the result.
        resume: The name or directory of the run to resume; empty for a new run.
        runs: The directory that contains all runs.
        workers: The number of worker processes to start; 0 for those of the workbench, or else one
            with a thread per core.
        scheduler: The address of a Dask scheduler; empty for that of the workbench, or else for
            workers on this machine.

    Returns:
        The run's record.

    Raises:
        DataError: The store does not exist, or is damaged.
        PipelineError: The slice cannot be evaluated.
    """
    return LANDSCAPE.run(_landscape, store, parameters, resume, runs, workers, scheduler)


def _landscape(
    session: Session, run: ActiveRun[Landscape, LandscapeResult, LandscapeInputs]
) -> LandscapeRecord:
    geometry, examples = find_geometry(session, run), run.plan.inputs.examples
    objective, W, axes = geometry.objective, geometry.W, geometry.axes
    evaluated: LineSlice | PlaneSlice
    result: LandscapeResult
    if len(axes) == 1:
        evaluated = evaluate_line(run.report, objective, W, axes[0], examples)
        result = summarise_line(evaluated, W)
    else:
        evaluated = evaluate_plane(run.report, objective, W, (axes[0], axes[1]), examples)
        result = summarise_plane(evaluated, W, geometry.path)
    save_results(run, evaluated, geometry.path, result)
    return run.finish(result, evaluated.timings)


@task("directions")
def find_geometry(
    session: Session, run: ActiveRun[Landscape, LandscapeResult, LandscapeInputs]
) -> Geometry:
    """Find the weights in the middle and the axes.

    Raises PipelineError if the loss does not fall along the negative gradient, or if the run whose
    path is shown cannot be repeated.
    """
    around, dataset, parameters = run.plan.inputs.around, run.dataset, run.parameters
    if isinstance(around, TrainedRun):
        retraced, training = retrace(session, run, around), around.parameters
        objective = objective_in_tasks(session, dataset, training.reg, reg_bias=training.reg_bias)
        return Geometry(objective, retraced.W, retraced.axes, retraced.path)
    objective = objective_in_tasks(session, dataset, parameters.reg)
    W, rows = around.W, run.plan.inputs.examples.rows
    grid = parameters.extent, parameters.points
    axes = list[Axis]()
    for number, name in enumerate(parameters.each_direction()):
        if name == RANDOM:
            axes.append(random_axis(W, parameters.seed, number, *grid))
        elif name == GRADIENT:
            axes.append(gradient_axis(objective, W, rows, *grid))
        else:
            axes.append(around.run_axes[name])
    return Geometry(objective, W, tuple(axes))
