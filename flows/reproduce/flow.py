"""The flow `reproduce`: run every experiment of the lecture notes, and write an HTML report.

Each experiment is the same flow that a user would run alone. Its run is stored in the
subdirectory `parts/` of the reproduction. An interrupted reproduction keeps its finished
experiments, and resumes the unfinished one.
"""

import shlex
import time
from dataclasses import fields
from itertools import count
from pathlib import Path

from flows.reproduce.experiments import (
    Experiment,
    Experiments,
    FinishedExperiment,
    TrainingRuns,
    run_experiments,
    training_runs,
)
from flows.reproduce.measurements import Duplicates, read_measurements
from flows.reproduce.results import (
    ActiveReproduction,
    ReproductionRecord,
    ReproductionResult,
    save_results,
)
from flows.runs.directory import RunDirectory
from flows.runs.flow_parameters import Count, Name
from flows.runs.lifecycle import RunKind, RunRequest
from flows.runs.record import RECORD_VERSION, FinishedRecord, P, R, RunRecord
from flows.services.guarded_flow import flow
from flows.services.session import Session, muted
from flows.services.tasks import task
from pipeline.inputs.weights import InitialWeights
from pipeline.landscape.parameters import AROUND
from pipeline.objective import Objective
from pipeline.reproduce.duplicates import COPIES, evaluate_copies
from pipeline.reproduce.parameters import Reproduction


def plan_training(request: RunRequest[Reproduction]) -> TrainingRuns:
    """Return the parameters of the training runs.

    Raises PipelineError if there are fewer training images than a mini-batch needs.
    """
    training = training_runs(request.parameters.seed)
    training.mini_batches.batches(request.dataset.rows("train"))
    return training


REPRODUCE = RunKind("reproduce", Reproduction, ReproductionResult, plan_training)


@flow(
    name="reproduce",
    description="Run every experiment of the lecture notes, and write an HTML report.",
)
def reproduce_flow(
    store: str,
    parameters: Reproduction = Reproduction(),
    resume: Name = "",
    runs: str = "runs",
    workers: Count = 0,
    scheduler: Name = "",
) -> ReproductionRecord:
    """Reproduce the lecture notes, or resume an interrupted reproduction.

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
        PipelineError: The notes cannot be reproduced with this store.
    """
    return REPRODUCE.run(_reproduce, store, parameters, resume, runs, workers, scheduler)


def _reproduce(session: Session, run: ActiveReproduction) -> ReproductionRecord:
    training, rows = run.plan.inputs, run.dataset.rows("train")
    experiments = _run_all(session, run)
    duplicates = evaluate_duplicates(session, run)
    run.report.note(f"duplicated images: {duplicates.seconds:.1f} s")
    measured = read_measurements(experiments, duplicates, training, rows)
    result = save_results(session, run, measured)
    return run.finish(result, {each.name: each.record.seconds for each in experiments.in_order()})


def _run_all(session: Session, run: ActiveReproduction) -> Experiments:
    """Run all experiments, and report the duration of each."""
    number, total = count(1), len(fields(Experiments))

    with run.report.progress("experiments", total) as advance:

        def run_one(experiment: Experiment[P, R]) -> FinishedExperiment[P, R]:
            finished, done = _run_or_resume(session, run, experiment), next(number)
            took = f"{experiment.name}: {finished.record.seconds:.1f} s"
            run.report.note(f"[{done}/{total}] {took}")
            advance(done, experiment.name)
            return finished

        return run_experiments(run_one, run.plan.inputs, run.parameters.seed)


def _run_or_resume(
    session: Session, run: ActiveReproduction, experiment: Experiment[P, R]
) -> FinishedExperiment[P, R]:
    """Run an experiment, or resume it if an earlier process started it."""
    runs = run.directory.path / "parts" / experiment.directory_name
    earlier = _find_earlier(experiment, runs)
    with muted(session):
        record = experiment.flow(
            run.plan.store,
            experiment.parameters,
            resume=str(runs / earlier.run) if earlier else "",
            runs=str(runs),
        )
    return FinishedExperiment(
        name=experiment.name,
        record=record,
        directory=RunDirectory(runs / record.run),
        command=_command(run, experiment.arguments),
        finished_before=isinstance(earlier, FinishedRecord),
    )


def _find_earlier(experiment: Experiment[P, R], runs: Path) -> RunRecord[P] | None:
    """Return the record of the experiment's earlier run, or None if it has to start from scratch.

    The earlier run is finished, or can be resumed. An unfinished run of an earlier version of
    hinge is not resumed, because this version may not be able to read its journal.
    """
    for file in sorted(runs.glob("*/result.json")):
        record = experiment.kind.read(RunDirectory(file.parent))
        if isinstance(record, FinishedRecord) or record.record_version == RECORD_VERSION:
            return record
    return None


def _command(run: ActiveReproduction, arguments: str) -> str:
    """Return the command that runs an experiment alone."""
    command = f"hinge {arguments} --store {shlex.quote(run.plan.store)}"
    return f"{command} --seed {run.parameters.seed}" if run.parameters.seed else command


@task("duplicated images")
def evaluate_duplicates(session: Session, run: ActiveReproduction) -> Duplicates:
    """Evaluate loss and gradient over 1,000 images, and over 1,200 copies of each."""
    dataset, seed = run.dataset, run.parameters.seed
    map_shards = session.map_shards(dataset, "train")
    objective = Objective(map_shards, dataset.mean)
    W = InitialWeights.parse(AROUND).weights(len(dataset.classes), seed)
    started = time.perf_counter()
    both = evaluate_copies(objective, W, dataset.rows("train"), seed)
    return Duplicates(
        unique=both.originals.rows,
        copies=COPIES,
        rows=both.copies.rows,
        loss=both.originals.loss,
        same_bits=both.same_bits,
        seconds_unique=both.seconds_originals,
        seconds_copied=both.seconds_copies,
        seconds=time.perf_counter() - started,
    )
