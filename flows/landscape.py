"""The flow `landscape`: the loss along a line or over a plane in the space of weights.

Its directions are drawn, the gradient's, those to other runs, or those of a run's own path.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.guarded_flow import flow
from flows.landscape_results import Path2D, keep_task, results
from flows.lifecycle import Kind, Plan, flow_run_name
from flows.parameters import read_parameters
from flows.record import Run, weights_sha256
from flows.session import Session, flow_session
from flows.slices import LineSlice, PlaneSlice, line_task, plane_task
from flows.weights import weights_named
from pipeline.errors import PipelineError
from pipeline.evaluation import in_tasks
from pipeline.examples import Examples
from pipeline.landscape import (
    GRADIENT,
    RANDOM,
    Axis,
    Landscape,
    gradient_axis,
    random_axis,
    run_axis,
)
from pipeline.objective import Objective
from pipeline.parameters import TrainingParameters
from pipeline.shards import Rows
from pipeline.trajectory import path_plane, trajectory
from storage.schema import PIXELS

Floats = NDArray[np.float64]
LandscapePlan = Plan[Landscape]

LANDSCAPE = Kind("landscape", Landscape)

_MARGIN = 0.15
"""How much more than a path a plane shows of each side, as a part of the path's width."""


@dataclass(frozen=True, eq=False)
class View:
    """What is looked at."""

    objective: Objective
    W: Floats
    """The weights in the middle (C, D + 1)."""
    axes: tuple[Axis, ...]
    path: Path2D | None = None


def plan_landscape(
    store: str, runs: Path, parameters: Landscape, resume: str | None = None
) -> LandscapePlan:
    """Plan a slice of the loss of the store at `store`, or to take the interrupted `resume` again.

    Raises DataError or PipelineError for what cannot be looked at (see `Kind.plan`): runs that
    are not there or have other weights, and more examples than there are, too.
    """
    plan = LANDSCAPE.plan(store, runs, parameters, resume)
    if plan.finished:
        return plan
    rows_of(plan)
    if plan.parameters.path is not None:
        path_parameters(plan, plan.parameters.path)
    else:
        W, ends = _named(plan, plan.parameters.around), list[Floats]()
        for name in plan.parameters.each_direction():
            if name not in {RANDOM, GRADIENT}:
                ends.append(_run_axis(plan, W, name).direction)
        if len(ends) == 2 and np.array_equal(ends[0], ends[1]):
            raise PipelineError(
                f"the runs {plan.parameters.directions} have the same weights; name others"
            )
    return plan


def rows_of(plan: LandscapePlan) -> Rows | None:
    """Return the training rows that the loss is over; None for all."""
    parameters = plan.parameters
    return Examples.parse(parameters.examples).rows(plan.dataset.rows("train"), parameters.seed)


def _named(plan: LandscapePlan, name: str) -> Floats:
    return weights_named(name, plan.dataset, plan.place, plan.parameters.seed)


def _run_axis(plan: LandscapePlan, W: Floats, name: str) -> Axis:
    parameters = plan.parameters
    grid = parameters.extent, parameters.points
    return run_axis(W, Run.find(plan.place, name).read_weights(W.shape), Path(name).name, *grid)


def path_parameters(plan: LandscapePlan, name: str) -> TrainingParameters:
    """Return the parameters of the training run whose path is asked for.

    Raises PipelineError if there is none, or not of this data, or it has not come to its end.
    """
    run = Run.find(plan.place, name)
    record = run.record
    if record.get("command") != "train" or "weights_sha256" not in record:
        raise PipelineError(
            f"run {run.id} has no path to show: name a run of `hinge train` that has ended"
        )
    if record["data"]["fingerprint"] != plan.dataset.fingerprint:
        raise PipelineError(
            f"run {run.id} was on other data than {plan.store} holds; name the store it was on"
        )
    run.read_weights((len(plan.dataset.classes), PIXELS + 1))
    parameters = read_parameters(run, TrainingParameters)
    if parameters.total_steps(plan.dataset.rows("train")) < 2:
        raise PipelineError(f"run {run.id} took one step, and its path has no plane; name another")
    return parameters


@flow(
    name="landscape",
    description="The loss along a line or over a plane in the space of weights.",
    flow_run_name=lambda: flow_run_name("landscape"),
)
def landscape_flow(
    store: str,
    parameters: Landscape | None = None,
    resume: str | None = None,
    runs: str = "runs",
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Look at the loss of the store at `store`, or take the interrupted run `resume` again.

    Returns the run's record. Raises DataError or PipelineError for what cannot be looked at.
    """
    plan = plan_landscape(store, Path(runs), parameters or Landscape(), resume)
    if plan.finished:
        return plan.finished
    rows = rows_of(plan)
    examples = Examples.parse(plan.parameters.examples).count(plan.dataset.rows("train"))
    with (
        flow_session(workers=workers, scheduler=scheduler) as session,
        plan.begun(session) as begun,
    ):
        view = view_task(session, plan, rows)
        given = session, view.objective, view.W
        found: LineSlice | PlaneSlice
        if len(view.axes) == 1:
            found = line_task(*given, view.axes[0], rows, examples)
        else:
            found = plane_task(*given, (view.axes[0], view.axes[1]), rows, examples)
        named = results(found, view.W, view.path)
        keep_task(begun.run, plan, found, view.path, named)
        return begun.ended("done", named, found.seconds)


@task(name="directions", cache_policy=NO_CACHE)
def view_task(session: Session, plan: LandscapePlan, rows: Rows | None) -> View:
    """Find the weights in the middle, and the directions to look in."""
    parameters, placements = plan.parameters, session.placements(plan.dataset)
    if parameters.path is not None:
        return _view_of_path(session, plan, parameters.path)
    over = in_tasks(session.client, placements.shards("train"))
    objective = Objective(over, plan.dataset.mean, parameters.reg, "float64")
    W = _named(plan, parameters.around)
    grid = parameters.extent, parameters.points
    axes = list[Axis]()
    for number, name in enumerate(parameters.each_direction()):
        if name == RANDOM:
            axes.append(random_axis(W, parameters.seed, number, *grid))
        elif name == GRADIENT:
            axes.append(gradient_axis(objective, W, rows, *grid))
        else:
            axes.append(_run_axis(plan, W, name))
    return View(objective, W, tuple(axes))


def _view_of_path(session: Session, plan: LandscapePlan, name: str) -> View:
    """Take a run again, and find the plane of its path; the loss is its own.

    Raises PipelineError if it does not come to the same weights.
    """
    run, training = Run.find(plan.place, name), path_parameters(plan, name)
    by_steps = training.method.by_steps  # of others, how many passes there will be is not known
    total = training.total_steps(plan.dataset.rows("train")) if by_steps else None
    placements = session.placements(plan.dataset)
    with session.console.progress("path", total) as advance:
        steps, weights = trajectory(placements, training, lambda step: advance(step, ""))
    if weights_sha256(weights[-1]) != run.record["weights_sha256"]:
        raise PipelineError(
            f"run {run.id} cannot be taken again: it comes to other weights than it did, by "
            "another version or on another processor; train anew"
        )
    plane = path_plane(weights)
    axes = tuple(
        _axis_of_path(plan.parameters, plane.directions[k], plane.coordinates[:, k], k)
        for k in range(2)
    )
    over = in_tasks(session.client, placements.shards("train"))
    objective = Objective(over, plan.dataset.mean, training.reg, "float64", training.reg_bias)
    path = Path2D(run.id, steps, plane.coordinates, plane.explained)
    return View(objective, weights[-1], axes, path)


def _axis_of_path(parameters: Landscape, direction: Floats, path: Floats, number: int) -> Axis:
    """Return an axis that the whole path is within, if no extent is given."""
    low, high = float(path.min()), float(path.max())
    margin = _MARGIN * (high - low)
    if parameters.extent is None:
        low, high = low - margin, high + margin
    else:
        low, high = -parameters.extent, parameters.extent
    which = ("the path's first direction", "its second (another scale)")[number]
    return Axis(direction, f"{which}: distance in weights", low, high, parameters.points)
