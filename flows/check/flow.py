"""The flow `check`: compare a gradient with finite differences, with a verdict per coordinate.

The gradient is computed in the same way as in training. The structured check computes all
differences in one pass over the examples. The black-box check evaluates the loss for every moved
weight; it writes each finished block to a journal, so that an interrupted check can resume.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flows.check.inputs import CheckInputs, draw_inputs, journal_identity, refuse_lost_step
from flows.check.results import (
    CheckRecord,
    CheckResult,
    CheckRun,
    PixelOutcome,
    WeightOutcome,
    save_results,
    summarise,
)
from flows.runs.flow_parameters import Count, Name
from flows.runs.lifecycle import Plan, RunKind, RunRequest
from flows.runs.stopwatch import Stopwatch
from flows.services.guarded_flow import flow
from flows.services.session import Session
from flows.services.tasks import task
from kernels.gradient_verdict import Comparison, Findings
from kernels.partial import Evaluation
from pipeline.check import black_box
from pipeline.check.parameters import NO_FINITE_LOSS, CheckMethod, Gradient, GradientCheck
from pipeline.check.structured import (
    DifferenceRequest,
    PixelDifferenceRequest,
    PixelDifferences,
    compare,
    compare_pixels,
    difference_sums,
    make_probe,
    select_coordinates,
)
from pipeline.cluster.map_shards import MapShards, sum_over_shards
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Rows
from pipeline.journals.value_journal import value_journal
from pipeline.objective import Objective

Floats = NDArray[np.float64]
CheckPlan = Plan[GradientCheck, CheckResult, CheckInputs]


def prepare_check(request: RunRequest[GradientCheck]) -> CheckInputs:
    """Draw the weights, the rows and the coordinates; validate the journal of a run to resume.

    Raises PipelineError if `draw_inputs` does, if the difference step is too small to change a
    weight, or if the journal is damaged.
    """
    check, dataset = request.parameters, request.dataset
    inputs = draw_inputs(check, dataset, request.siblings)
    refuse_lost_step(inputs.W, check.step, check)
    if request.directory and request.directory.journal.exists():
        identity = journal_identity(check, dataset, inputs.W)
        with value_journal(request.directory.journal, identity, len(inputs.coordinates)):
            pass
    return inputs


CHECK = RunKind("check", GradientCheck, CheckResult, prepare_check)


@flow(
    name="check",
    description="Compare a gradient with finite differences, with a verdict per coordinate.",
)
def check_flow(
    store: str,
    parameters: GradientCheck = GradientCheck(),
    resume: Name = "",
    runs: str = "runs",
    workers: Count = 0,
    scheduler: Name = "",
) -> CheckRecord:
    """Check a gradient against finite differences, or resume an interrupted check.

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
        The run's record. Its `verdicts` count the wrong coordinates.

    Raises:
        DataError: The store does not exist or is damaged.
        PipelineError: The check cannot be run with these parameters.
    """
    return CHECK.run(_check, store, parameters, resume, runs, workers, scheduler)


def _check(session: Session, run: CheckRun) -> CheckRecord:
    watch = Stopwatch()
    map_shards = session.map_shards(run.dataset, "train")
    watch.lap("loading")
    if run.parameters.gradient is Gradient.DATA:
        outcome: PixelOutcome | WeightOutcome = _check_pixels(run, map_shards, watch)
    else:
        outcome = _check_weights(session, run, map_shards, watch)
    seconds = math.fsum(watch.timings.values()) - watch.timings["loading"]
    result = summarise(outcome, run.plan.inputs.W, run.dataset.classes, seconds)
    save_results(run, outcome, result)
    record = run.finish(result, watch.timings)
    run.directory.journal.unlink(missing_ok=True)
    return record


def _check_weights(
    session: Session, run: CheckRun, map_shards: MapShards, watch: Stopwatch
) -> WeightOutcome:
    """Check the gradient with respect to the weights."""
    check, inputs, mean = run.parameters, run.plan.inputs, run.dataset.mean
    value = compute_gradient(map_shards, mean, inputs.W, check, inputs.rows)
    watch.lap("gradient")
    everywhere, active = compare_differences(map_shards, run, value.gradient)
    watch.lap("differences")
    comparison, difference = select_coordinates(everywhere, inputs.coordinates), None
    if check.method is CheckMethod.BLACK_BOX:
        quotients = evaluate_black_box(session, run)
        watch.lap("black_box")
        bound = black_box.roundoff(
            inputs.black_box(check, mean), everywhere.numerical, value.loss, active
        ).ravel()[inputs.coordinates]
        difference = float(np.abs(quotients - comparison.numerical).max())
        comparison = replace(comparison, numerical=quotients, bound=comparison.bound + bound)
    findings = Findings.of(comparison, inputs.coordinates)
    watch.lap("verdicts")
    return WeightOutcome(
        findings=findings,
        examples=value.rows,
        loss=value.loss,
        comparison=comparison,
        coordinates=inputs.coordinates,
        max_difference_to_structured=difference,
    )


def _check_pixels(run: CheckRun, map_shards: MapShards, watch: Stopwatch) -> PixelOutcome:
    """Check the gradient with respect to the pixels."""
    check, inputs = run.parameters, run.plan.inputs
    # for the loss, and to reject weights whose loss is not finite
    value = compute_gradient(map_shards, run.dataset.mean, inputs.W, check, inputs.rows)
    watch.lap("gradient")
    differences = compare_pixel_gradients(map_shards, run)
    watch.lap("differences")
    return PixelOutcome(
        findings=differences.findings,
        examples=differences.rows,
        loss=value.loss,
        errors=differences.errors,
        crossings=differences.crossings,
    )


@task("gradient")
def compute_gradient(
    map_shards: MapShards, mean: Floats, W: Floats, check: GradientCheck, rows: Rows | None
) -> Evaluation:
    """Compute the gradient to check, over `rows` (None for all rows).

    Raises PipelineError if the loss is not finite.
    """
    value = Objective(map_shards, mean, check.reg, check.dtype, check.reg_bias)(W, rows)
    if not math.isfinite(value.loss):
        raise PipelineError(NO_FINITE_LOSS)
    return value


@task("differences")
def compare_differences(
    map_shards: MapShards, run: CheckRun, gradient: Floats
) -> tuple[Comparison, Floats]:
    """Compare the gradient with the structured differences in all coordinates.

    Returns the comparison (C, D + 1) and, for each class, the mean number of margins per row that
    depend on the score of the class (C, 1).
    """
    check, inputs = run.parameters, run.plan.inputs
    probe = make_probe(inputs.W, run.dataset.mean, check)
    sums = difference_sums(map_shards, DifferenceRequest(probe, inputs.rows))
    active = np.array([[each.rows / sums.rows] for each in sums.active])
    return compare(inputs.W, gradient, probe, sums, check), active


@task("black box")
def evaluate_black_box(session: Session, run: CheckRun) -> Floats:
    """Return the difference quotients (k,) of the coordinates, by evaluating the whole loss."""
    check, dataset, inputs = run.parameters, run.dataset, run.plan.inputs
    placed_dataset, coordinates = session.placed(dataset), inputs.coordinates
    identity = journal_identity(check, dataset, inputs.W)
    with (
        value_journal(run.directory.journal, identity, len(coordinates)) as journal,
        run.report.progress("black box", len(coordinates), journal.done) as advance,
    ):
        if journal.before:
            run.report.note(
                f"{journal.before:,} of {len(coordinates):,} coordinates are already in the journal"
            )
        for quotients in black_box.difference_quotients(
            placed_dataset.client,
            placed_dataset.shards("train"),
            inputs.black_box(check, dataset.mean),
            black_box.plan_blocks(coordinates[journal.done :]),
        ):
            journal.add(quotients)
            advance(journal.done)
        return journal.values


@task("data gradient")
def compare_pixel_gradients(map_shards: MapShards, run: CheckRun) -> PixelDifferences:
    """Compare gradients with respect to the pixels, one per example, with finite differences."""
    check, inputs = run.parameters, run.plan.inputs
    request = PixelDifferenceRequest(
        inputs.W, run.dataset.mean, check.step, check.scheme, inputs.rows
    )
    return sum_over_shards(map_shards, compare_pixels, request)
