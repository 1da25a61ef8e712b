"""The flow `check`: a gradient beside finite differences, and a verdict on every coordinate.

The gradient is the pipeline's own, taken as training takes it. The differences come from one
pass over the examples, or, of the black box, from an evaluation of the loss at every moved
weight; its blocks are kept in a journal, so that a check that was interrupted goes on.
"""

import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.check_results import Checked, keep_task, results
from flows.console import to_json
from flows.guarded_flow import flow
from flows.lifecycle import Kind, Plan, flow_run_name
from flows.record import Run, weights_sha256
from flows.session import Session, flow_session
from flows.weights import weights_named
from kernels.gradient_verdict import Comparison, Findings
from kernels.partial import Evaluation
from pipeline import black_box
from pipeline.check_parameters import NO_FINITE_LOSS, CheckMethod, Gradient, GradientCheck
from pipeline.errors import PipelineError
from pipeline.evaluation import in_tasks
from pipeline.gradient_check import (
    Asked,
    DataAsked,
    DataFound,
    chosen_of,
    compare,
    data_difference,
    probe,
    sums_of,
)
from pipeline.objective import Objective, OverShards, total
from pipeline.shards import Rows
from pipeline.value_journal import value_journal
from storage.dataset import Dataset

Floats = NDArray[np.float64]

CheckPlan = Plan[GradientCheck]

CHECK = Kind("check", GradientCheck)


def plan_check(
    store: str, runs: Path, parameters: GradientCheck, resume: str | None = None
) -> CheckPlan:
    """Plan a check on the store at `store`, or to go on with the run `resume` of `runs`.

    Raises DataError or PipelineError for what cannot be checked (see `Kind.plan`): what
    `weights_at` refuses, and a damaged journal too.
    """
    plan = CHECK.plan(store, runs, parameters, resume)
    if plan.finished:
        return plan
    W, check = weights_at(plan.dataset, plan.place, plan.parameters), plan.parameters
    check_step(W, check.step, check)
    if plan.run and plan.run.journal.exists():
        with value_journal(plan.run.journal, _identity(plan, W), len(check.chosen(len(W)))):
            pass
    return plan


def weights_at(dataset: Dataset, runs: Path, check: GradientCheck) -> Floats:
    """Return the weights (C, D + 1) to check at; those of a run are in `runs`.

    Raises PipelineError if the run that is to have them is not there, or has others, or there are
    not as many coordinates or examples as are to be checked.
    """
    check.rows(dataset.rows("train"))
    check.chosen(len(dataset.classes))
    return weights_named(check.at, dataset, runs, check.seed)


def check_step(W: Floats, step: float, check: GradientCheck) -> None:
    """Raise PipelineError if the check moves weights themselves, and some do not move."""
    moved = check.gradient is not Gradient.DATA and (
        check.method is CheckMethod.BLACK_BOX or check.reg > 0
    )
    if moved and (W + step == W).any():
        raise PipelineError(
            f"a step of {step} is lost beside weights of {np.abs(W).max():g}; take a larger one"
        )


def _identity(plan: CheckPlan, W: Floats) -> str:
    """Return all that decides the values in the journal."""
    decides = {"check": asdict(plan.parameters), "data": plan.dataset.fingerprint}
    return to_json(decides | {"weights": weights_sha256(W)})


def look_ahead(plan: CheckPlan, shards: int, threads: int) -> black_box.BlackBoxPlan:
    """Say what the check takes as a black box, over shards that so many threads share."""
    check, rows = plan.parameters, plan.dataset.rows("train")
    W, chosen = weights_at(plan.dataset, plan.place, check), check.rows(rows)
    return black_box.look_ahead(
        _common(plan, W),
        len(check.chosen(len(W))),
        rows if chosen is None else len(chosen),
        shards,
        threads,
    )


def _common(plan: CheckPlan, W: Floats) -> black_box.Common:
    check = plan.parameters
    rows = check.rows(plan.dataset.rows("train"))
    return black_box.Common(
        W, plan.dataset.mean, check.step, check.scheme, rows, check.reg, check.reg_bias
    )


@flow(
    name="check",
    description="A gradient beside finite differences, and a verdict on every coordinate.",
    flow_run_name=lambda: flow_run_name("gradient check"),
)
def check_flow(
    store: str,
    parameters: GradientCheck | None = None,
    resume: str | None = None,
    runs: str = "runs",
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Check a gradient on the store at `store`, or go on with the run `resume` of `runs`.

    Returns the run's record, whose `verdicts` say how many coordinates are `wrong`. Raises
    DataError or PipelineError for what cannot be checked.
    """
    plan = plan_check(store, Path(runs), parameters or GradientCheck(), resume)
    if plan.finished:
        return plan.finished
    W = weights_at(plan.dataset, plan.place, plan.parameters)
    with (
        flow_session(workers=workers, scheduler=scheduler) as session,
        plan.begun(session) as begun,
    ):
        clock = time.perf_counter()
        over = in_tasks(session.client, session.placements(plan.dataset).shards("train"))
        loaded = time.perf_counter()
        if plan.parameters.gradient is Gradient.DATA:
            checked, timings = _of_data(plan, over, W)
        else:
            checked, timings = _of_loss(session, plan, begun.run, over, W)
        timings = {"loading": loaded - clock, **timings}
        found = results(plan, W, checked, math.fsum(timings.values()) - timings["loading"])
        keep_task(begun.run, plan, checked, found)
        record = begun.ended("done", found, timings)
        begun.run.journal.unlink(missing_ok=True)
        return record


class _Laps:
    """How long each part took."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}
        self._clock = time.perf_counter()

    def __call__(self, name: str) -> None:
        """Say that the part has ended."""
        now = time.perf_counter()
        self.timings[name], self._clock = now - self._clock, now


def _of_loss(
    session: Session, plan: CheckPlan, run: Run, over: OverShards, W: Floats
) -> tuple[Checked, dict[str, float]]:
    """Check the gradient in the weights."""
    lap, check = _Laps(), plan.parameters
    coordinates = check.chosen(len(W))
    rows = check.rows(plan.dataset.rows("train"))
    value = gradient_task(over, plan.dataset.mean, W, check, rows)
    lap("gradient")
    whole, active = differences_task(over, plan, W, value.gradient)
    lap("differences")
    chosen, apart = chosen_of(whole, coordinates), None
    if check.method is CheckMethod.BLACK_BOX:
        quotients = black_box_task(session, plan, run, W)
        lap("black_box")
        bound = black_box.roundoff(_common(plan, W), whole.numerical, value.loss, active).ravel()
        apart = float(np.abs(quotients - chosen.numerical).max())
        chosen = replace(chosen, numerical=quotients, bound=chosen.bound + bound[coordinates])
    findings = Findings.of(chosen, coordinates)
    lap("verdicts")
    return Checked(findings, value.rows, value.loss, chosen, coordinates, apart), lap.timings


def _of_data(plan: CheckPlan, over: OverShards, W: Floats) -> tuple[Checked, dict[str, float]]:
    """Check the gradient in the pixels."""
    lap, check = _Laps(), plan.parameters
    rows = check.rows(plan.dataset.rows("train"))
    value = gradient_task(over, plan.dataset.mean, W, check, rows)  # or margins are no numbers
    lap("gradient")
    found = data_task(over, plan, W)
    lap("differences")
    return Checked(found.findings, found.rows, value.loss, data=found), lap.timings


@task(name="gradient", cache_policy=NO_CACHE)
def gradient_task(
    over: OverShards, mean: Floats, W: Floats, check: GradientCheck, rows: Rows | None
) -> Evaluation:
    """Take the gradient that is to be checked, over `rows` (None for all).

    Raises PipelineError if the loss is no finite number.
    """
    value = Objective(over, mean, check.reg, check.dtype, check.reg_bias)(W, rows)
    if not math.isfinite(value.loss):
        raise PipelineError(NO_FINITE_LOSS)
    return value


@task(name="differences", cache_policy=NO_CACHE)
def differences_task(
    over: OverShards, plan: CheckPlan, W: Floats, gradient: Floats
) -> tuple[Comparison, Floats]:
    """Compare the gradient with the structured differences in all coordinates.

    Returns also how many margins of a row the score of each class moves, on average (C, 1).
    """
    check, dataset = plan.parameters, plan.dataset
    asked = Asked(probe(W, dataset.mean, check), check.rows(dataset.rows("train")))
    sums = sums_of(over, asked)
    active = np.array([[each.rows / sums.rows] for each in sums.active])
    return compare(W, gradient, asked.probe, sums, check), active


@task(name="black box", cache_policy=NO_CACHE)
def black_box_task(session: Session, plan: CheckPlan, run: Run, W: Floats) -> Floats:
    """Return the difference quotients (k,) of the coordinates, each by evaluations of its own."""
    check, placements = plan.parameters, session.placements(plan.dataset)
    coordinates, common = check.chosen(len(W)), _common(plan, W)

    with (
        value_journal(run.journal, _identity(plan, W), len(coordinates)) as journal,
        session.console.progress("black box", len(coordinates)) as advance,
    ):
        if journal.before:
            session.console.note(f"{journal.before:,} of {len(coordinates):,} coordinates are kept")
        advance(journal.done, "")
        blocks = black_box.plan_blocks(coordinates[journal.done :])
        placed = placements.shards("train")
        for quotients in black_box.differences(placements.client, placed, common, blocks):
            journal.add(quotients)
            advance(journal.done, "")
        return journal.values


@task(name="data gradient", cache_policy=NO_CACHE)
def data_task(over: OverShards, plan: CheckPlan, W: Floats) -> DataFound:
    """Compare every example's gradient in its pixels with their differences."""
    check, mean = plan.parameters, plan.dataset.mean
    rows = check.rows(plan.dataset.rows("train"))
    return total(over, data_difference, DataAsked(W, mean, check.step, check.scheme, rows))
