"""The flow `sweep`: the loss after one gradient step for many step sizes, and its exact minimum.

Scores are linear in the weights. The scores of the gradient are therefore computed once, and the
step sizes need no further pass over the images (`pipeline.slices.line`).
"""

import math

import numpy as np
from numpy.typing import NDArray

from flows.runs.active_run import ActiveRun
from flows.runs.directory import RunDirectory
from flows.runs.flow_parameters import Count, Name
from flows.runs.lifecycle import RunKind, RunRequest
from flows.runs.report import RunReport
from flows.runs.stopwatch import Stopwatch
from flows.runs.weights import weights_sha256
from flows.services.guarded_flow import flow
from flows.services.session import Session
from flows.services.tasks import task
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
"""The number of step sizes between two updates of the progress bar."""


def weights_to_sweep_at(request: RunRequest[Sweep]) -> Floats:
    """Return the weights (C, D + 1) to step from.

    Raises PipelineError if `at` names a run that does not exist, or has no weights of this shape.
    """
    classes, parameters = len(request.dataset.classes), request.parameters
    if parameters.at == START:
        return InitialWeights.parse(parameters.init).weights(classes, parameters.seed)
    run = RunDirectory.find(request.siblings, parameters.at)
    return run.read_weights((classes, PIXELS + 1))


SWEEP = RunKind("sweep", Sweep, SweepResult, weights_to_sweep_at)


@flow(
    name="sweep",
    description="Compute the loss after one gradient step for many step sizes, and its exact "
    "minimum.",
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
        store: The path or URL of the Zarr store.
        parameters: The parameters that determine the result.
        resume: The name or directory of the run to resume; empty for a new run.
        runs: The directory that contains the runs.
        workers: The number of worker processes to start; 0 for those of the workbench, or else one
            with a thread per core.
        scheduler: The address of a Dask scheduler; empty for that of the workbench, or else for
            workers on this machine.

    Returns:
        The run's record.

    Raises:
        DataError: The store does not exist, or is damaged.
        PipelineError: The sweep cannot be run with these parameters.
    """
    return SWEEP.run(_sweep, store, parameters, resume, runs, workers, scheduler)


def _sweep(session: Session, run: ActiveRun[Sweep, SweepResult, Floats]) -> SweepRecord:
    W, step_sizes, watch = run.plan.inputs, run.parameters.step_sizes, Stopwatch()
    with Actors(session.placed(run.dataset), shown_as="hinge-sweep") as actors:
        objective = Objective(actors, run.dataset.mean, run.parameters.reg, "float64")
        watch.lap("loading")
        line = line_along_gradient(objective, W)
        watch.lap("gradient")
        initial, *losses = losses_along_line(run.report, line, step_sizes)
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


@task("gradient")
def line_along_gradient(objective: Objective, W: Floats) -> LossAlongLine:
    """Return the loss along the negative gradient at `W` (C, D + 1), with float64 scores.

    Raises PipelineError if the loss there is not finite.
    """
    value = objective(W)
    if not math.isfinite(value.loss):
        raise PipelineError("the loss at these weights is not finite; use smaller weights")
    return LossAlongLine(objective, W, -value.gradient)


@task("losses")
def losses_along_line(
    report: RunReport, line: LossAlongLine, step_sizes: list[float]
) -> list[float]:
    """Return the loss at step size 0 and at each of the step sizes."""
    steps, losses = np.array([0.0, *step_sizes]), list[float]()
    with report.progress("sweep", len(step_sizes)) as advance:
        while len(losses) < len(steps):
            losses += line(steps[len(losses) : len(losses) + _AT_A_TIME])
            advance(len(losses) - 1, f"best {min(losses):f}", min(losses))
    return losses


@task("exact minimum")
def find_minimum(line: LossAlongLine) -> ExactMinimum:
    """Return the exact minimum of the loss along the line.

    Raises PipelineError if the line has no minimum that can be computed.
    """
    try:
        step_size, breakpoints = line.minimum()
    except ValueError as error:
        raise PipelineError(
            f"the loss has no exact minimum along this gradient: {error}"
        ) from error
    [loss] = line(np.array([step_size]))
    return ExactMinimum(step_size=step_size, loss=loss, breakpoints=breakpoints)
