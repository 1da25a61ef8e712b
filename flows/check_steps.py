"""The flow `check --steps`: the error of a difference by its step, forward and centred.

It is the picture that says why the step is 1e-5, and why differences are centred.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows import artifacts
from flows.check import check_step, gradient_task, weights_at
from flows.check_figures import draw_step_errors
from flows.guarded_flow import flow
from flows.lifecycle import Kind, Plan, flow_run_name
from flows.record import Run, weights_sha256
from flows.session import Session, flow_session
from kernels.finite_difference import Scheme
from kernels.gradient_verdict import Comparison
from kernels.structured_difference import Differences
from pipeline.evaluation import in_tasks
from pipeline.gradient_check import Asked, compare, probe, sums_of
from pipeline.objective import OverShards
from pipeline.step_study import Pixels, StepErrors, StepStudy, density, step_errors

Floats = NDArray[np.float64]
StudyPlan = Plan[StepStudy]

STUDY = Kind("check --steps", StepStudy)

_SAMPLE = 1_000
"""Training images whose pixels the lines of theory are made of."""


def plan_study(
    store: str, runs: Path, parameters: StepStudy, resume: str | None = None
) -> StudyPlan:
    """Plan a study on the store at `store`, or to take the interrupted one `resume` again.

    Raises DataError or PipelineError for what cannot be studied (see `Kind.plan`, `weights_at`).
    """
    plan = STUDY.plan(store, runs, parameters, resume)
    if not plan.finished:
        study = plan.parameters
        W = weights_at(plan.dataset, plan.place, study.check)
        check_step(W, study.step_sizes[-1], study.check)
    return plan


@flow(
    name="check --steps",
    description="The error of a difference by its step, forward and centred.",
    flow_run_name=lambda: flow_run_name("steps of differences"),
)
def check_steps_flow(
    store: str,
    parameters: StepStudy | None = None,
    resume: str | None = None,
    runs: str = "runs",
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Study the steps on the store at `store`, or take the interrupted run `resume` again.

    Returns the run's record. Raises DataError or PipelineError for what cannot be studied.
    """
    plan = plan_study(store, Path(runs), parameters or StepStudy(), resume)
    if plan.finished:
        return plan.finished
    W = weights_at(plan.dataset, plan.place, plan.parameters.check)
    with (
        flow_session(workers=workers, scheduler=scheduler) as session,
        plan.begun(session) as begun,
    ):
        clock = time.perf_counter()
        over = in_tasks(session.client, session.placements(plan.dataset).shards("train"))
        check, rows = plan.parameters.check, plan.dataset.rows("train")
        value = gradient_task(over, plan.dataset.mean, W, check, check.rows(rows))
        errors = differences_task(session, plan, over, W, value.gradient)
        seconds = time.perf_counter() - clock
        found = _results(W, errors, seconds)
        keep_task(begun.run, plan, errors, found)
        return begun.ended("done", found, {"differences": seconds})


@task(name="differences", cache_policy=NO_CACHE)
def differences_task(
    session: Session, plan: StudyPlan, over: OverShards, W: Floats, gradient: Floats
) -> list[StepErrors]:
    """Take the differences in all coordinates at every step, in both schemes."""
    study, dataset = plan.parameters, plan.dataset
    rows = study.check.rows(dataset.rows("train"))
    images, _ = dataset.read("train", 0, min(_SAMPLE, dataset.rows("train")))
    steps, found = study.step_sizes, list[tuple[float, Scheme, Comparison, Differences]]()
    with session.console.progress("check", len(steps)) as advance:
        for number, step in enumerate(steps):
            for scheme in Scheme:
                check = replace(study.check, scheme=scheme, step=step)
                asked = probe(W, dataset.mean, check)
                sums = sums_of(over, Asked(asked, rows))
                found.append((step, scheme, compare(W, gradient, asked, sums, check), sums))
            advance(number + 1, f"h {step:.1e}")
    kappa = density(
        [(step, compared) for step, scheme, compared, _ in found if scheme is Scheme.CENTRED]
    )
    pixels = Pixels.of(images, dataset.mean)
    return [step_errors(*each, kappa, pixels) for each in found]


def _results(W: Floats, errors: list[StepErrors], seconds: float) -> dict[str, Any]:
    best = {
        str(scheme): min(
            (each for each in errors if each.scheme == scheme), key=lambda each: each.error
        )
        for scheme in Scheme
    }
    return {
        "steps": [each._asdict() for each in errors],
        "best_step": {scheme: each.step for scheme, each in best.items()},
        "least_error": {scheme: each.error for scheme, each in best.items()},
        "weights_sha256": weights_sha256(W),
        "seconds": seconds,
    }


@task(name="keep results", cache_policy=NO_CACHE)
def keep_task(run: Run, plan: StudyPlan, errors: list[StepErrors], found: dict[str, Any]) -> None:
    """Write the errors and their picture, and show them."""
    run.write_table("steps.csv", found["steps"])
    of = {scheme: [each for each in errors if each.scheme == scheme] for scheme in Scheme}
    curves, lines = dict[str, Floats](), dict[str, Floats]()
    for scheme, own in of.items():
        curves[str(scheme)] = np.array([each.error for each in own])
        curves[f"{scheme}, less kinks"] = np.array([each.error_after_kinks for each in own])
        lines[f"kinks in theory, {scheme}"] = np.array([each.truncation for each in own])
    lines["rounding in theory"] = np.array([each.rounding for each in of[Scheme.CENTRED]])
    lines["bound on rounding"] = np.array([each.rounding_bound for each in of[Scheme.CENTRED]])
    check = plan.parameters.check
    draw_step_errors(
        run.path / "steps.png",
        np.array(plan.parameters.step_sizes),
        curves,
        lines,
        chosen=check.step,
        title=f"{run.id}\nerror of a finite difference, at {check.at}",
    )
    described = f"Run {run.id} on {plan.dataset.name} ({plan.dataset.fingerprint[:12]})"
    artifacts.table("gradient check: steps", found["steps"], f"{described}: steps of differences")
    picture = f"{described}: error by the step of the difference"
    artifacts.picture("gradient check: steps", run.path / "steps.png", picture)
