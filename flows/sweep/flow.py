"""The flow `sweep`: the loss at many step sizes along one gradient, and where it is lowest.

Scores are linear in the weights, so the gradient's scores are computed once, and no step size
costs another pass over the images (`pipeline.slices.line`).
"""

import math

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.runs.active_run import ActiveRun
from flows.runs.directory import RunDirectory
from flows.runs.flow_parameters import Count, Name
from flows.runs.flow_run_names import flow_run_name
from flows.runs.lifecycle import RunKind, RunRequest
from flows.runs.stopwatch import Stopwatch
from flows.runs.weights import weights_sha256
from flows.services.guarded_flow import flow
from flows.services.session import Session
from flows.sweep.results import ExactMinimum, StepLoss, SweepRecord, SweepResult, save_results
from pipeline.cluster.actors import Actors
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.weights import InitialWeights
from pipeline.objective import Objective
from pipeline.slices.line import LossAlongLine
from pipeline.sweep.parameters import START, Sweep
from storage.schema import PIXELS

Floats = NDArray[np.float64]

_AT_A_TIME = 500
"""Step sizes between two updates of the progress bar."""


def weights_to_sweep_at(request: RunRequest[Sweep]) -> Floats:
    """Return the weights (C, D + 1) to step from.

    Raises PipelineError if they are those of a run that is not there, or has others.
    """
    classes, parameters = len(request.dataset.classes), request.parameters
    if parameters.at == START:
        return InitialWeights.parse(parameters.init).weights(classes, parameters.seed)
    run = RunDirectory.find(request.siblings, parameters.at)
    return run.read_weights((classes, PIXELS + 1))


SWEEP = RunKind("sweep", Sweep, SweepResult, weights_to_sweep_at)


@flow(
    name="sweep",
    description="The loss at many step sizes along one gradient, and where it is lowest.",
    flow_run_name=lambda: flow_run_name("sweep"),
)
def sweep_flow(
    store: str,
    parameters: Sweep = Sweep(),
    resume: Name = "",
    runs: str = "runs",
    workers: Count = 0,
    scheduler: Name = "",
) -> SweepRecord:
    """Sweep over step sizes, or resume an interrupted sweep.

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
        PipelineError: The sweep cannot be done.
    """
    return SWEEP.run(_sweep, store, parameters, resume, runs, workers, scheduler)


def _sweep(session: Session, run: ActiveRun[Sweep, SweepResult, Floats]) -> SweepRecord:
    W, step_sizes, watch = run.plan.inputs, run.parameters.step_sizes, Stopwatch()
    with Actors(session.placed(run.dataset)) as actors:
        objective = Objective(actors, run.dataset.mean, run.parameters.reg, "float64")
        watch.lap("loading")
        line = line_along_gradient(objective, W)
        watch.lap("gradient")
        initial, *losses = losses_along_line(session, line, step_sizes)
        watch.lap("losses")
        exact = find_minimum(line)
        watch.lap("minimum")
    best = int(np.argmin(losses))
    result = SweepResult(
        initial_loss=initial,
        losses=tuple(
            StepLoss(step_size=step_size, loss=loss)
            for step_size, loss in zip(step_sizes, losses, strict=True)
        ),
        best_step_size=step_sizes[best],
        best_loss=losses[best],
        weights_sha256=weights_sha256(W),
        exact_minimum=exact,
    )
    save_results(run, result)
    return run.finish(result, watch.timings)


@task(name="gradient", cache_policy=NO_CACHE)
def line_along_gradient(objective: Objective, W: Floats) -> LossAlongLine:
    """Compute the gradient at the weights, in float64; return the line down along it.

    Raises PipelineError if the loss there is not finite.
    """
    value = objective(W)
    if not math.isfinite(value.loss):
        raise PipelineError("the loss at these weights is not finite; use smaller weights")
    return LossAlongLine(objective, W, -value.gradient)


@task(name="losses", cache_policy=NO_CACHE)
def losses_along_line(
    session: Session, line: LossAlongLine, step_sizes: list[float]
) -> list[float]:
    """Return the loss at 0 and at each of the step sizes."""
    steps, losses = np.array([0.0, *step_sizes]), list[float]()
    with session.console.progress("sweep", len(step_sizes)) as advance:
        while len(losses) < len(steps):
            losses += line(steps[len(losses) : len(losses) + _AT_A_TIME])
            advance(len(losses) - 1, f"best {min(losses):f}")
    return losses


@task(name="exact minimum", cache_policy=NO_CACHE)
def find_minimum(line: LossAlongLine) -> ExactMinimum:
    """Return where the loss along the line is lowest.

    Raises PipelineError if it has no known minimum.
    """
    try:
        step_size, breakpoints = line.minimum()
    except ValueError as error:
        raise PipelineError(
            f"the loss has no exact minimum along this gradient: {error}"
        ) from error
    [loss] = line(np.array([step_size]))
    return ExactMinimum(step_size=step_size, loss=loss, breakpoints=breakpoints)
