"""The flow `reproduce`: every experiment of the lecture notes, on all images, and a page of them.

Each experiment is the flow that a user would run alone. Its run is kept below the directory of the
reproduction, in `parts/`. A reproduction that was interrupted keeps the experiments that have
finished, and resumes the one that was under way.
"""

import shlex
import time
from dataclasses import fields
from itertools import count
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

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
from flows.runs.flow_run_names import flow_run_name
from flows.runs.lifecycle import RunKind, RunRequest
from flows.runs.record import RECORD_VERSION, FinishedRecord, P, R, RunRecord
from flows.services.guarded_flow import flow
from flows.services.session import Session, muted
from pipeline.inputs.weights import InitialWeights
from pipeline.landscape.parameters import AROUND
from pipeline.objective import Objective
from pipeline.reproduce.duplicates import COPIES, evaluate_copies
from pipeline.reproduce.parameters import Reproduction


def plan_training(request: RunRequest[Reproduction]) -> TrainingRuns:
    """Return the parameters of the training runs.

    Raises PipelineError if there are fewer images than a batch has.
    """
    training = training_runs(request.parameters.seed)
    training.mini_batches.batches(request.dataset.rows("train"))
    return training


REPRODUCE = RunKind("reproduce", Reproduction, ReproductionResult, plan_training)


@flow(
    name="reproduce",
    description="Every experiment of the lecture notes, on all images, and a page of them.",
    flow_run_name=lambda: flow_run_name("the notes"),
)
def reproduce_flow(
    store: str,
    parameters: Reproduction = Reproduction(),
    resume: Name = "",
    runs: str = "runs",
    workers: Count = 0,
    scheduler: Name = "",
) -> ReproductionRecord:
    """Reproduce the notes, or resume an interrupted reproduction.

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
        PipelineError: The notes cannot be reproduced on it.
    """
    return REPRODUCE.run(_reproduce, store, parameters, resume, runs, workers, scheduler)


def _reproduce(session: Session, run: ActiveReproduction) -> ReproductionRecord:
    training, rows = run.plan.inputs, run.dataset.rows("train")
    experiments = _run_all(session, run)
    duplicates = evaluate_duplicates(session, run)
    session.console.note(f"duplicated images: {duplicates.seconds:.1f} s")
    measured = read_measurements(experiments, duplicates, training, rows)
    result = save_results(session, run, measured)
    return run.finish(result, {each.name: each.record.seconds for each in experiments.in_order()})


def _run_all(session: Session, run: ActiveReproduction) -> Experiments:
    """Run all experiments, and say how long each took."""
    number, total = count(1), len(fields(Experiments))

    def run_one(experiment: Experiment[P, R]) -> FinishedExperiment[P, R]:
        finished = _run_or_resume(session, run, experiment)
        took = f"{experiment.name}: {finished.record.seconds:.1f} s"
        session.console.note(f"[{next(number)}/{total}] {took}")
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
    """Return the record of the experiment's run that is to be resumed, if there is one.

    It may have finished. A run that an earlier version of this project left unfinished is not
    resumed: this version may not be able to read its journal.
    """
    for file in sorted(runs.glob("*/result.json")):
        record = experiment.kind.read(RunDirectory(file.parent))
        if isinstance(record, FinishedRecord) or record.record_version == RECORD_VERSION:
            return record
    return None


def _command(run: ActiveReproduction, arguments: str) -> str:
    """Return what a user types to run an experiment alone."""
    command = f"hinge {arguments} --store {shlex.quote(run.plan.store)}"
    return f"{command} --seed {run.parameters.seed}" if run.parameters.seed else command


@task(name="duplicated images", cache_policy=NO_CACHE)
def evaluate_duplicates(session: Session, run: ActiveReproduction) -> Duplicates:
    """Evaluate the gradient over a thousand images, and over 1,200 copies of each."""
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
