"""The flow `grid`: the effect of the step size, measured with a grid of training runs.

Small steps are slow and large steps overshoot. The flow trains one run per combination of a step
size, a batch size and a regulariser, and compares the results.
"""

from collections.abc import Generator, Iterator
from contextlib import closing

from flows.grid.results import (
    GridInputs,
    GridRecord,
    GridResult,
    GridRun,
    save_results,
    trial_result,
)
from flows.runs.flow_parameters import Count, Name
from flows.runs.lifecycle import RunKind, RunRequest
from flows.runs.old_records import refuse_old_journal
from flows.runs.stopwatch import Stopwatch
from flows.services.guarded_flow import flow
from flows.services.session import Session
from flows.services.tasks import task
from pipeline.training.grid import BatchSize, TrainingGrid, TrialOutcome, run_trials
from pipeline.training.grid_journal import GridJournal, grid_journal


def prepare_grid(request: RunRequest[TrainingGrid]) -> GridInputs:
    """Return what the run needs to start or to resume.

    Raises PipelineError if a batch is larger than the training split, or if the journal is damaged,
    belongs to another run, or was written by an earlier version of hinge.
    """
    trials, rows = request.parameters.trials(), request.dataset.rows("train")
    for trial in trials:
        trial.batches(rows)  # raises PipelineError if a batch is larger than the split
    if request.directory and request.directory.journal.exists():
        refuse_old_journal(request.earlier, request.directory.journal)
        with grid_journal(request.directory.journal, trials):
            pass
    return GridInputs(trials)


GRID = RunKind(
    "grid",
    TrainingGrid,
    GridResult,
    prepare_grid,
    statuses=("done", "diverged"),
    uses_all_shards=lambda _parameters: False,
)


@flow(
    name="grid",
    description="Train one run per combination of parameters and compare the results.",
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
    """Run all trials that are not in the journal.

    Each group has its own Prefect task, which waits until the group's trials have ended.
    """
    grid = run.parameters
    if journal.outcomes:
        finished = f"{len(journal.outcomes):,} of {grid.size:,} trials"
        run.report.note(f"{finished} had finished before the run was resumed")
    with closing(_outcomes(session, run, journal)) as outcomes:
        for number, (batch_size, reg) in enumerate(grid.groups()):
            wait_for_group(outcomes, journal, grid.members(number), batch_size, reg)


def _outcomes(session: Session, run: GridRun, journal: GridJournal) -> Generator[TrialOutcome]:
    """Run the remaining trials. Add each outcome to the journal, report it, and yield it."""
    grid = run.parameters
    steps = dict.fromkeys(range(grid.size), grid.steps) | dict.fromkeys(journal.remaining, 0)
    with run.report.progress("train", grid.size * grid.steps, sum(steps.values())) as advance:

        def report(number: int, step: int, loss: float) -> None:
            steps[number] = step
            advance(sum(steps.values()), f"{len(journal.outcomes):,} of {grid.size:,} trials", loss)

        placed = session.placed(run.dataset)
        trials, remaining = run.plan.inputs.trials, journal.remaining
        with closing(run_trials(placed, trials, remaining, report)) as outcomes:
            for outcome in outcomes:
                journal.add(outcome)
                run.report.note(_line(grid, outcome))
                report(outcome.number, grid.steps, outcome.loss)
                yield outcome


@task("trials", run_name="batch size {batch_size}, reg {reg:g}")
def wait_for_group(
    outcomes: Iterator[TrialOutcome],
    journal: GridJournal,
    members: range,
    batch_size: BatchSize,  # noqa: ARG001 (part of the task run's name)
    reg: float,  # noqa: ARG001
) -> None:
    """Wait until all trials of a group have ended. Trials of other groups may end first."""
    while not journal.outcomes.keys() >= set(members):
        next(outcomes)


def _line(grid: TrainingGrid, outcome: TrialOutcome) -> str:
    """Return the console line for the outcome of a trial."""
    trial = trial_result(grid, outcome)
    given = f"step size {trial.step_size:e}, batch size {trial.batch_size}, reg {trial.reg:g}: "
    if trial.diverged:
        return f"{given}diverged at step {trial.steps}"
    return f"{given}loss {trial.loss:f}, test accuracy {trial.test_accuracy:.2%}"
