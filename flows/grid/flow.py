"""The flow `grid`: the effect of the step size, by a grid of training runs.

Small steps are slow and large steps overshoot. The same run is trained with every step size, for
every batch size and regulariser, and the results are compared.
"""

from collections.abc import Generator, Iterator
from contextlib import closing

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.grid.results import (
    GridInputs,
    GridRecord,
    GridResult,
    GridRun,
    save_results,
    trial_result,
)
from flows.runs.flow_parameters import Count, Name
from flows.runs.flow_run_names import flow_run_name
from flows.runs.lifecycle import RunKind, RunRequest
from flows.runs.old_records import refuse_old_journal
from flows.runs.stopwatch import Stopwatch
from flows.services.guarded_flow import flow
from flows.services.session import Session
from pipeline.training.grid import BatchSize, TrainingGrid, TrialOutcome, run_trials
from pipeline.training.grid_journal import GridJournal, grid_journal


def prepare_grid(request: RunRequest[TrainingGrid]) -> GridInputs:
    """Return what the run needs to start, or to resume.

    Raises PipelineError for a batch larger than the data, and for a journal that is damaged, of
    another run, or of an earlier version.
    """
    trials, rows = request.parameters.trials(), request.dataset.rows("train")
    for trial in trials:
        trial.batches(rows)  # refuses a batch larger than that
    if request.directory and request.directory.journal.exists():
        refuse_old_journal(request.earlier, request.directory.journal)
        with grid_journal(request.directory.journal, trials):
            pass
    return GridInputs(trials)


GRID = RunKind("grid", TrainingGrid, GridResult, prepare_grid, statuses=("done", "diverged"))


@flow(
    name="grid",
    description="The effect of the step size, by a grid of training runs.",
    flow_run_name=lambda: flow_run_name("grid"),
)
def grid_flow(
    store: str,
    parameters: TrainingGrid = TrainingGrid(),
    resume: Name = "",
    runs: str = "runs",
    workers: Count = 0,
    scheduler: Name = "",
) -> GridRecord:
    """Train every trial of a grid, or resume an interrupted grid.

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
        PipelineError: The grid cannot be trained.
    """
    return GRID.run(_grid, store, parameters, resume, runs, workers, scheduler)


def _grid(session: Session, run: GridRun) -> GridRecord:
    watch = Stopwatch()
    with grid_journal(run.directory.journal, run.plan.inputs.trials) as journal:
        _train_remaining(session, run, journal)
        watch.lap("training")
        result = save_results(run, journal.outcomes)
    return run.finish(result, watch.timings, "done" if result.best else "diverged")


def _train_remaining(session: Session, run: GridRun, journal: GridJournal) -> None:
    """Run all trials that the journal does not hold. One Prefect task per group waits for them."""
    grid = run.parameters
    if journal.outcomes:
        finished = f"{len(journal.outcomes):,} of {grid.size:,} trials"
        session.console.note(f"{finished} had finished before the run was resumed")
    with closing(_outcomes(session, run, journal)) as outcomes:
        for number, (batch_size, reg) in enumerate(grid.groups()):
            wait_for_group(outcomes, journal, grid.members(number), batch_size, reg)


def _outcomes(session: Session, run: GridRun, journal: GridJournal) -> Generator[TrialOutcome]:
    """Run the remaining trials. Keep each outcome, report it, and yield it."""
    grid, console = run.parameters, session.console
    steps = dict.fromkeys(range(grid.size), grid.steps) | dict.fromkeys(journal.remaining, 0)
    with console.progress("train", grid.size * grid.steps) as advance:

        def report(number: int, step: int, _loss: float) -> None:
            steps[number] = step
            advance(sum(steps.values()), f"{len(journal.outcomes):,} of {grid.size:,} trials")

        placed = session.placed(run.dataset)
        trials, remaining = run.plan.inputs.trials, journal.remaining
        with closing(run_trials(placed, trials, remaining, report)) as outcomes:
            for outcome in outcomes:
                journal.add(outcome)
                console.note(_line(grid, outcome))
                report(outcome.number, grid.steps, outcome.loss)
                yield outcome


@task(name="trials", task_run_name="batch size {batch_size}, reg {reg:g}", cache_policy=NO_CACHE)
def wait_for_group(
    outcomes: Iterator[TrialOutcome],
    journal: GridJournal,
    members: range,
    batch_size: BatchSize,  # noqa: ARG001 (the task run is named by it)
    reg: float,  # noqa: ARG001
) -> None:
    """Wait until all trials of a group have ended. Trials of other groups may end meanwhile."""
    while not journal.outcomes.keys() >= set(members):
        next(outcomes)


def _line(grid: TrainingGrid, outcome: TrialOutcome) -> str:
    """Return the line that reports a trial."""
    trial = trial_result(grid, outcome)
    given = f"step size {trial.step_size:e}, batch size {trial.batch_size}, reg {trial.reg:g}: "
    if trial.diverged:
        return f"{given}diverged at step {trial.steps}"
    return f"{given}loss {trial.loss:f}, {trial.test_accuracy:.2%} of the test images"
