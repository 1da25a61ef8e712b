"""The flow `reproduce`: every experiment of the lecture notes, on all images, and a page of them.

Each part is the flow that a user would take by itself, with a run of its own below this one's
directory. So a reproduction that was interrupted goes on with the part that it was in.
"""

import shlex
import time
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.experiments import Part, Taken, parts, path_of
from flows.guarded_flow import flow
from flows.lifecycle import flow_run_name
from flows.record import Run
from flows.reproduce_results import REPRODUCE, Reproduction, ReproductionPlan, findings, report_task
from flows.session import Session, flow_session, quietly
from pipeline.duplicates import COPIES, duplicated
from pipeline.evaluation import in_tasks
from pipeline.landscape import AROUND
from pipeline.objective import Objective
from pipeline.parameters import TrainingParameters
from pipeline.weights import Init


def plan_reproduction(
    store: str, runs: Path, parameters: Reproduction, resume: str | None = None
) -> ReproductionPlan:
    """Plan a reproduction on the store at `store`, or to go on with the run `resume` of `runs`.

    Raises DataError or PipelineError as `Kind.plan` does, and if there are too few images.
    """
    plan = REPRODUCE.plan(store, runs, parameters, resume)
    for part in parts(plan.parameters.seed):
        if isinstance(part.parameters, TrainingParameters):
            part.parameters.recipe(plan.dataset.rows("train"))
    return plan


@flow(
    name="reproduce",
    description="Every experiment of the lecture notes, on all images, and a page of them.",
    flow_run_name=lambda: flow_run_name("the notes"),
)
def reproduce_flow(
    store: str,
    parameters: Reproduction | None = None,
    resume: str | None = None,
    runs: str = "runs",
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Reproduce the notes on the store at `store`, or go on with the run `resume` of `runs`.

    Returns the run's record. Raises DataError or PipelineError for what cannot be reproduced.
    """
    plan = plan_reproduction(store, Path(runs), parameters or Reproduction(), resume)
    if plan.finished:
        return plan.finished
    with (
        flow_session(workers=workers, scheduler=scheduler) as session,
        plan.begun(session) as begun,
    ):
        taken = _take_parts(session, plan, begun.run)
        copies = duplicates_task(session, plan)
        session.console.note(f"duplicated images: {copies['seconds']:.1f} s")
        found = findings(plan.dataset, taken, copies)
        return report_task(session, plan, begun, taken, found)


def _take_parts(session: Session, plan: ReproductionPlan, run: Run) -> dict[str, Taken]:
    """Take every part that has not been taken, and say how long it took."""
    taken, seed = dict[str, Taken](), plan.parameters.seed
    first = parts(seed)

    def take(part: Part) -> None:
        taken[part.name] = _take(session, plan, run, part)
        done = f"[{len(taken)}/{len(first) + 1}] {part.name}"
        session.console.note(f"{done}: {taken[part.name].seconds:.1f} s")

    for part in first:
        take(part)
    take(path_of(taken["regularised"], seed))
    return taken


def _take(session: Session, plan: ReproductionPlan, run: Run, part: Part) -> Taken:
    """Take a part, or go on with it if it was begun before."""
    runs = run.path / "parts" / part.name.replace(" ", "-")
    begun = [Run(path.parent) for path in sorted(runs.glob("*/result.json"))]
    resume, earlier = (str(begun[-1].path), begun[-1].record) if begun else (None, None)
    with quietly(session):
        record = part.take(plan.store, part.parameters, resume=resume, runs=str(runs))
    typed = f"hinge {part.typed} --store {shlex.quote(plan.store)}"
    if plan.parameters.seed:
        typed += f" --seed {plan.parameters.seed}"
    return Taken(record, runs / str(record["run"]), typed, before=record == earlier)


@task(name="duplicated images", cache_policy=NO_CACHE)
def duplicates_task(session: Session, plan: ReproductionPlan) -> dict[str, Any]:
    """Take the gradient over a thousand images, and over 1,200 copies of each."""
    dataset, seed = plan.dataset, plan.parameters.seed
    over = in_tasks(session.client, session.placements(dataset).shards("train"))
    W = Init.parse(AROUND).weights(len(dataset.classes), seed)
    clock = time.perf_counter()
    found = duplicated(Objective(over, dataset.mean), W, dataset.rows("train"), seed)
    return {
        "unique": found.once.rows,
        "copies": COPIES,
        "rows": found.copied.rows,
        "loss": found.once.loss,
        "same_bits": found.same_bits,
        "seconds_unique": found.seconds_once,
        "seconds_copied": found.seconds_copied,
        "seconds": time.perf_counter() - clock,
    }
