"""The flow `landscape`: the loss along a line or over a plane in the space of weights.

The axes are random, along the gradient, towards other runs, or those of a run's own path.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.landscape.path import ProjectedPath, TrainedRun, find_trained_run, retrace
from flows.landscape.results import (
    LandscapeRecord,
    LandscapeResult,
    save_results,
    summarise_line,
    summarise_plane,
)
from flows.landscape.slices import (
    ChosenExamples,
    LineSlice,
    PlaneSlice,
    choose_examples,
    evaluate_line,
    evaluate_plane,
    objective_in_tasks,
)
from flows.runs.active_run import ActiveRun
from flows.runs.directory import RunDirectory
from flows.runs.flow_parameters import Count, Name
from flows.runs.flow_run_names import flow_run_name
from flows.runs.lifecycle import RunKind, RunRequest
from flows.runs.weights import weights_named
from flows.services.guarded_flow import flow
from flows.services.session import Session
from pipeline.inputs.errors import PipelineError
from pipeline.landscape.axes import Axis, gradient_axis, random_axis, run_axis
from pipeline.landscape.parameters import GRADIENT, RANDOM, Landscape
from pipeline.objective import Objective

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NamedWeights:
    """The weights in the middle of a slice, and the axes from there to other runs."""

    W: Floats
    """(C, D + 1)."""
    run_axes: Mapping[str, Axis]
    """By the runs' names in the directions."""


@dataclass(frozen=True, eq=False)
class LandscapeInputs:
    """What a slice needs beside its parameters."""

    examples: ChosenExamples
    around: NamedWeights | TrainedRun
    """Where it lies: around weights, or around the path of a run."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where a slice lies in the space of weights, and the loss that it shows."""

    objective: Objective
    W: Floats
    """The weights in the middle (C, D + 1)."""
    axes: tuple[Axis, ...]
    path: ProjectedPath | None = None


def prepare(request: RunRequest[Landscape]) -> LandscapeInputs:
    """Find what the parameters name: the examples, the weights in the middle, and other runs.

    Raises PipelineError if there are no such runs, if they have other weights than are needed,
    or if there are not so many examples.
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
        raise PipelineError(f"the runs {parameters.directions} have the same weights; name others")
    return NamedWeights(W, run_axes)


LANDSCAPE: RunKind[Landscape, LandscapeResult, LandscapeInputs] = RunKind(
    "landscape",
    Landscape,
    LandscapeResult,  # type: ignore[arg-type]  # mypy has no type for a union as a value
    prepare,
)


@flow(
    name="landscape",
    description="The loss along a line or over a plane in the space of weights.",
    flow_run_name=lambda: flow_run_name("landscape"),
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
        store: The Zarr store, a path or a URL.
        parameters: What decides the result.
        resume: The run to resume, its name or its directory; empty for a new run.
        runs: The directory that runs are kept in.
        workers: Worker processes on this machine; 0 for one per core.
        scheduler: The address of a Dask scheduler; empty to start workers on this machine.

    Returns:
        The run's record.

    Raises:
        DataError: There is no such store, or it is damaged.
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
        evaluated = evaluate_line(session, objective, W, axes[0], examples)
        result = summarise_line(evaluated, W)
    else:
        evaluated = evaluate_plane(session, objective, W, (axes[0], axes[1]), examples)
        result = summarise_plane(evaluated, W, geometry.path)
    save_results(run, evaluated, geometry.path, result)
    return run.finish(result, evaluated.timings)


@task(name="directions", cache_policy=NO_CACHE)
def find_geometry(
    session: Session, run: ActiveRun[Landscape, LandscapeResult, LandscapeInputs]
) -> Geometry:
    """Find the weights in the middle and the axes.

    Raises PipelineError if the gradient leads nowhere, or if a run cannot be taken again.
    """
    around, dataset, parameters = run.plan.inputs.around, run.dataset, run.parameters
    if isinstance(around, TrainedRun):
        retraced, training = retrace(session, around, dataset, parameters), around.parameters
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
