"""The flow `check-step`: the error of a difference by its step, forward and centred.

Its picture shows why the default step is 1e-5, and why differences are centred.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.check.flow import compute_gradient
from flows.check.inputs import CheckInputs, draw_inputs, refuse_lost_step
from flows.check.step_results import (
    StepStudyRecord,
    StepStudyResult,
    StepStudyRun,
    save_results,
    summarise,
)
from flows.runs.flow_parameters import Count, Name
from flows.runs.flow_run_names import flow_run_name
from flows.runs.lifecycle import RunKind, RunRequest
from flows.runs.stopwatch import Stopwatch
from flows.services.guarded_flow import flow
from flows.services.session import Session
from kernels.finite_difference import Scheme
from kernels.gradient_verdict import Comparison
from kernels.structured_difference import Differences
from pipeline.check.step_study import (
    PixelMeans,
    StepErrors,
    StepStudy,
    kink_density,
    step_errors,
)
from pipeline.check.structured import DifferenceRequest, compare, difference_sums, make_probe
from pipeline.cluster.map_shards import MapShards

Floats = NDArray[np.float64]

_SAMPLE = 1_000
"""Training images whose pixels the theory's means are over."""


def prepare_study(request: RunRequest[StepStudy]) -> CheckInputs:
    """Draw the weights and the rows.

    Raises PipelineError for what `draw_inputs` refuses, and for a step that is lost beside a
    weight.
    """
    study = request.parameters
    inputs = draw_inputs(study.check, request.dataset, request.siblings)
    refuse_lost_step(inputs.W, study.step_sizes[-1], study.check)
    return inputs


CHECK_STEP = RunKind("check-step", StepStudy, StepStudyResult, prepare_study)


@flow(
    name="check-step",
    description="The error of a difference by its step, forward and centred.",
    flow_run_name=lambda: flow_run_name("steps of differences"),
)
def check_step_flow(
    store: str,
    parameters: StepStudy = StepStudy(),
    resume: Name = "",
    runs: str = "runs",
    workers: Count = 0,
    scheduler: Name = "",
) -> StepStudyRecord:
    """Measure the error of finite differences at many steps, or restart an interrupted study.

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
        PipelineError: The study cannot be done.
    """
    return CHECK_STEP.run(_study, store, parameters, resume, runs, workers, scheduler)


def _study(session: Session, run: StepStudyRun) -> StepStudyRecord:
    watch, check, inputs = Stopwatch(), run.parameters.check, run.plan.inputs
    map_shards = session.map_shards(run.dataset, "train")
    value = compute_gradient(map_shards, run.dataset.mean, inputs.W, check, inputs.rows)
    errors = measure_errors(session, run, map_shards, value.gradient)
    watch.lap("differences")
    result = summarise(errors, inputs.W, watch.timings["differences"])
    save_results(run, result)
    return run.finish(result, watch.timings)


@task(name="differences", cache_policy=NO_CACHE)
def measure_errors(
    session: Session, run: StepStudyRun, map_shards: MapShards, gradient: Floats
) -> list[StepErrors]:
    """Compare the gradient with the differences in all coordinates, at every step and scheme."""
    study, inputs, mean = run.parameters, run.plan.inputs, run.dataset.mean
    steps, measured = study.step_sizes, list[tuple[float, Scheme, Comparison, Differences]]()
    with session.console.progress("check", len(steps)) as advance:
        for number, step in enumerate(steps):
            for scheme in Scheme:
                check = replace(study.check, scheme=scheme, step=step)
                probe = make_probe(inputs.W, mean, check)
                sums = difference_sums(map_shards, DifferenceRequest(probe, inputs.rows))
                comparison = compare(inputs.W, gradient, probe, sums, check)
                measured.append((step, scheme, comparison, sums))
            advance(number + 1, f"h {step:.1e}")
    kappa = kink_density(
        [(step, each) for step, scheme, each, _ in measured if scheme is Scheme.CENTRED]
    )
    images, _ = run.dataset.read("train", 0, min(_SAMPLE, run.dataset.rows("train")))
    pixels = PixelMeans.of(images, mean)
    return [step_errors(*each, kappa, pixels) for each in measured]
