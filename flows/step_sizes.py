"""The flow `sweep --train`: the effect of the step size, by a grid of training runs.

Too small a step is slow, too large a one overshoots: the same run is taken with every step
size, for every batch size and regulariser, and all are compared by what they come to.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows import artifacts
from flows.figures import Curve, draw_loss_curves
from flows.guarded_flow import flow
from flows.lifecycle import Kind, Plan, flow_run_name
from flows.record import Run, weights_sha256
from flows.session import Session, flow_session
from pipeline.descent import Status
from pipeline.grid import Outcome, TrainingGrid, run_trials
from pipeline.grid_journal import GridJournal, grid_journal

GridPlan = Plan[TrainingGrid]

GRID = Kind("sweep --train", TrainingGrid, ends=(Status.DONE, Status.DIVERGED))

_WINDOW = 50
"""Mini-batches whose losses are averaged in a curve."""

_ROWS_SHOWN = 100


def plan_grid(
    store: str, runs: Path, parameters: TrainingGrid, resume: str | None = None
) -> GridPlan:
    """Plan a grid of trials on the store at `store`, or to go on with the run `resume` of `runs`.

    Raises DataError or PipelineError for what cannot be trained on (see `Kind.plan`), a batch
    larger than the data and a damaged journal too.
    """
    plan = GRID.plan(store, runs, parameters, resume)
    for trial in plan.parameters.trials():
        trial.recipe(plan.dataset.rows("train"))
    if plan.run and not plan.finished and plan.run.journal.exists():
        with grid_journal(plan.run.journal, plan.parameters):
            pass
    return plan


def _flow_run_name() -> str:
    return flow_run_name("trials")


@flow(
    name="sweep --train",
    description="The effect of the step size, by a grid of training runs.",
    flow_run_name=_flow_run_name,
)
def step_sizes_flow(
    store: str,
    parameters: TrainingGrid | None = None,
    resume: str | None = None,
    runs: str = "runs",
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Train every trial of a grid on the store at `store`, or go on with the run `resume`.

    Returns the run's record. Raises DataError or PipelineError for what cannot be trained on.
    """
    plan = plan_grid(store, Path(runs), parameters or TrainingGrid(), resume)
    if plan.finished:
        return plan.finished
    with (
        flow_session(workers=workers, scheduler=scheduler) as session,
        plan.begun(session) as begun,
        grid_journal(begun.run.journal, plan.parameters) as journal,
    ):
        clock = time.perf_counter()
        _take_trials(session, plan, journal)
        timings = {"training": time.perf_counter() - clock}
        results = keep_task(begun.run, plan, journal)
        status = Status.DONE if results["best"] else Status.DIVERGED
        return begun.ended(status, results, timings)


def _take_trials(session: Session, plan: GridPlan, journal: GridJournal) -> None:
    """Take the trials that are left, all at once; a Prefect task waits for those of a group."""
    grid, console = plan.parameters, session.console
    steps = {number: 0 if number in journal.left else grid.steps for number in range(grid.size)}
    if journal.outcomes:
        console.note(f"{len(journal.outcomes):,} of {grid.size:,} trials were taken before")
    with console.progress("train", grid.size * grid.steps) as advance:

        def report(number: int, step: int, _loss: float) -> None:
            steps[number] = step
            advance(sum(steps.values()), f"{len(journal.outcomes):,} of {grid.size:,} trials")

        def kept() -> Generator[int]:
            placements = session.placements(plan.dataset)
            with closing(run_trials(placements, grid, journal.left, report)) as outcomes:
                for outcome in outcomes:
                    journal.add(outcome)
                    console.note(_line(grid, outcome))
                    report(outcome.number, grid.steps, outcome.loss)
                    yield outcome.number

        with closing(kept()) as numbers:
            for number, (batch_size, reg) in enumerate(grid.groups()):
                group_task(numbers, journal, grid.members(number), batch_size, reg)


@task(name="trials", task_run_name="batch size {batch_size}, reg {reg:g}", cache_policy=NO_CACHE)
def group_task(
    ended: Iterator[int],
    journal: GridJournal,
    members: range,
    batch_size: int | str,  # noqa: ARG001 (the task run is named by it)
    reg: float,  # noqa: ARG001
) -> None:
    """Wait until all members of a group have ended; those of others end meanwhile."""
    while not journal.outcomes.keys() >= set(members):
        next(ended)


def _line(grid: TrainingGrid, outcome: Outcome) -> str:
    """Say what came of a trial."""
    trial = _described(grid, outcome)
    given = "step size {step_size:e}, batch size {batch_size}, reg {reg:g}: ".format(**trial)
    if outcome.diverged:
        return f"{given}diverged at step {outcome.steps}"
    return f"{given}loss {outcome.loss:f}, {outcome.test_accuracy:.2%} of the test images"


def _described(grid: TrainingGrid, outcome: Outcome) -> dict[str, Any]:
    """Return a trial as the record has it."""
    group, member = divmod(outcome.number, len(grid.step_sizes))
    batch_size, reg = grid.groups()[group]
    return {
        "step_size": grid.step_sizes[member],
        "batch_size": batch_size,
        "reg": reg,
        "status": str(outcome.status),
        "steps": outcome.steps,
        "loss": outcome.loss,
        "test_loss": outcome.test_loss,
        "train_accuracy": outcome.train_accuracy,
        "test_accuracy": outcome.test_accuracy,
        "weights_sha256": weights_sha256(outcome.W),
    }


def _ranked(journal: GridJournal) -> list[Outcome]:
    """Return the outcomes by test accuracy, the best first; those that diverged come last."""
    outcomes = journal.outcomes.values()
    return sorted(outcomes, key=lambda each: (each.diverged, -each.test_accuracy, each.number))


@task(name="keep results", cache_policy=NO_CACHE)
def keep_task(run: Run, plan: GridPlan, journal: GridJournal) -> dict[str, Any]:
    """Write trials, curves and the best weights, and show them; return the results."""
    outcomes = _ranked(journal)
    trials = [_described(plan.parameters, outcome) for outcome in outcomes]
    best = None if outcomes[0].diverged else trials[0]
    if best:
        run.write_weights(outcomes[0].W)
    run.write_table("trials.csv", trials)
    draw_loss_curves(
        run.path / "curves.png",
        _panels(plan.parameters, journal),
        columns=len(plan.parameters.regs),
        title=f"{run.id}\n{plan.parameters.steps:,} steps of every size",
    )
    described = f"Run {run.id} on {plan.dataset.name} ({plan.dataset.fingerprint[:12]})"
    shown = trials[:_ROWS_SHOWN]
    artifacts.table("step sizes: trials", shown, f"{described}: trials by test accuracy")
    artifacts.picture("step sizes: loss", run.path / "curves.png", f"{described}: loss curves")
    return {"trials": trials, "best": best}


def _panels(grid: TrainingGrid, journal: GridJournal) -> dict[str, list[Curve]]:
    """Return the loss curves of each group under its name."""
    return {
        f"{_batches(batch_size)}, reg {reg:g}": [
            Curve(
                f"{step_size:g}",
                journal.outcomes[number].losses,
                1 if batch_size == "all" else _WINDOW,
                journal.outcomes[number].diverged,
            )
            for step_size, number in zip(grid.step_sizes, grid.members(group), strict=True)
        ]
        for group, (batch_size, reg) in enumerate(grid.groups())
    }


def _batches(batch_size: int | str) -> str:
    return "all images" if batch_size == "all" else f"batches of {batch_size}"
