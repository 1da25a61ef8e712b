"""The flow `check-step`: measure how the error of a finite difference depends on its step h.

Its figure shows why the default h is 1e-5, and why centred differences are the default.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

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
from flows.runs.lifecycle import RunKind, RunRequest
from flows.runs.stopwatch import Stopwatch
from flows.services.guarded_flow import flow
from flows.services.session import Session
from flows.services.tasks import task
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
"""The number of training images whose pixels are averaged for the predicted errors."""


def prepare_study(request: RunRequest[StepStudy]) -> CheckInputs:
    """Draw the weights and the rows.

    Raises PipelineError if `draw_inputs` does, or if the smallest step is too small to change every
    weight that the study moves.
    """
    study = request.parameters
    inputs = draw_inputs(study.check, request.dataset, request.siblings)
    refuse_lost_step(inputs.W, study.step_sizes[-1], study.check)
    return inputs


CHECK_STEP = RunKind("check-step", StepStudy, StepStudyResult, prepare_study)


@flow(
    name="check-step",
    description="Measure how the error of centred and forward differences depends on the step h.",
)
def check_step_flow(
    store: str,
    parameters: StepStudy = StepStudy(),
    resume: Name = "",
    runs: str = "runs",
    workers: Count = 0,
    scheduler: Name = "",
) -> StepStudyRecord:
    """Measure the error of finite differences at many steps h, or rerun an interrupted study.

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
        DataError: The store does not exist or is damaged.
        PipelineError: The study cannot be run with these parameters.
    """
    return CHECK_STEP.run(_study, store, parameters, resume, runs, workers, scheduler)


def _study(session: Session, run: StepStudyRun) -> StepStudyRecord:
    watch, check, inputs = Stopwatch(), run.parameters.check, run.plan.inputs
    map_shards = session.map_shards(run.dataset, "train")
    value = compute_gradient(map_shards, run.dataset.mean, inputs.W, check, inputs.rows)
    errors = measure_errors(run, map_shards, value.gradient)
    watch.lap("differences")
    result = summarise(errors, inputs.W, watch.timings["differences"])
    save_results(run, result)
    return run.finish(result, watch.timings)


@task("differences")
def measure_errors(run: StepStudyRun, map_shards: MapShards, gradient: Floats) -> list[StepErrors]:
    """Compare the gradient with the differences in all coordinates, for every step and scheme."""
    study, inputs, mean = run.parameters, run.plan.inputs, run.dataset.mean
    steps, measured = study.step_sizes, list[tuple[float, Scheme, Comparison, Differences]]()
    with run.report.progress("check", len(steps)) as advance:
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
