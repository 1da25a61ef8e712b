"""The flows `search random` and `search local`: evaluate random weights and keep the best.

`flows.search.trials` contains the code that both flows share, such as resuming a search.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flows.runs.evaluation import evaluate_weights
from flows.runs.flow_parameters import Count, Name
from flows.runs.lifecycle import RunKind, RunRequest
from flows.runs.stopwatch import Stopwatch
from flows.runs.weights import weights_sha256
from flows.search.results import (
    LocalSearchRecord,
    LocalSearchResult,
    LocalSearchRun,
    RandomSearchRecord,
    RandomSearchResult,
    RandomSearchRun,
    SearchResult,
    SearchRun,
    save_local_search,
    save_random_search,
)
from flows.search.trials import (
    SearchInputs,
    load_training_images,
    open_journal,
    prepare_search,
    take_trials,
)
from flows.services.guarded_flow import flow
from flows.services.session import Session
from pipeline.cluster.actors import Actors
from pipeline.journals.value_journal import ValueJournal
from pipeline.search.local_search import GROUP_SIZE, LocalSearch, SearchState, local_search
from pipeline.search.random_search import (
    MAX_BLOCK,
    RandomSearch,
    check_block,
    improvements,
    plan_blocks,
    random_search,
)

Floats = NDArray[np.float64]

_LOCAL_TASK_SIZE = 2 * GROUP_SIZE
"""The number of trials of a local search per Prefect task."""


def prepare_random_search(request: RunRequest[RandomSearch], block: int) -> SearchInputs:
    """Return the inputs of a random search that evaluates `block` trials together.

    Raises PipelineError if `block` is out of bounds, or if the journal cannot be used.
    """
    check_block(block)
    return prepare_search("search random", request, block)


def prepare_local_search(request: RunRequest[LocalSearch]) -> SearchInputs:
    """Return the inputs of a local search.

    Raises PipelineError if the journal cannot be used.
    """
    return prepare_search("search local", request, _LOCAL_TASK_SIZE)


RANDOM_SEARCH = RunKind(
    "search random",
    RandomSearch,
    RandomSearchResult,
    prepare_random_search,
    describe_cluster=lambda plan, _: {"block": plan.inputs.task_size},
)
LOCAL_SEARCH = RunKind("search local", LocalSearch, LocalSearchResult, prepare_local_search)


@flow(
    name="search random",
    description="Evaluate independent random weights and keep the best.",
)
def search_random_flow(
    store: str,
    parameters: RandomSearch = RandomSearch(),
    resume: Name = "",
    runs: str = "runs",
    block: Annotated[int, Field(ge=1, le=MAX_BLOCK)] = 32,
    workers: Count = 0,
    scheduler: Name = "",
) -> RandomSearchRecord:
    """Run a random search, or resume an interrupted one.

    Args:
        store: The path or URL of the Zarr store.
        parameters: The parameters that determine the result.
        resume: The name or directory of the run to resume; empty for a new run.
        runs: The directory that contains the runs.
        block: The number of trials to evaluate together, from 1 to 512. It does not affect the
            result.
        workers: The number of worker processes to start; 0 for those of the workbench, or else one
            with a thread per core.
        scheduler: The address of a Dask scheduler; empty for that of the workbench, or else for
            workers on this machine.

    Returns:
        The run's record.

    Raises:
        DataError: The store does not exist, or is damaged.
        PipelineError: The search cannot be run with these parameters.
    """
    return RANDOM_SEARCH.run(
        _search_at_random, store, parameters, resume, runs, workers, scheduler, block=block
    )


@flow(
    name="search local",
    description="Take random steps from the best weights so far and accept those that lower the "
    "loss.",
)
def search_local_flow(
    store: str,
    parameters: LocalSearch = LocalSearch(),
    resume: Name = "",
    runs: str = "runs",
    workers: Count = 0,
    scheduler: Name = "",
) -> LocalSearchRecord:
    """Run a random local search, or resume an interrupted one.

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
        PipelineError: The search cannot be run with these parameters.
    """
    return LOCAL_SEARCH.run(_search_locally, store, parameters, resume, runs, workers, scheduler)


def _search_at_random(session: Session, run: RandomSearchRun) -> RandomSearchRecord:
    parameters, block, watch = run.parameters, run.plan.inputs.task_size, Stopwatch()
    with open_journal(run) as journal:
        load_training_images(session, run.dataset)
        watch.lap("loading")
        blocks = plan_blocks(parameters.trials, block, done=range(journal.done))
        found = random_search(session.placed(run.dataset), parameters, blocks)
        losses = (each.losses for each in found)
        take_trials(run, journal, losses, show_accepted=False)
        watch.lap("searching")
    W = parameters.best_weights(journal.values, len(run.dataset.classes))
    best = evaluate_best(session, run, W, journal, watch.timings["searching"])
    result = RandomSearchResult(**asdict(best))
    save_random_search(run, W, journal.values, result)
    return run.finish(result, watch.timings)


def _search_locally(session: Session, run: LocalSearchRun) -> LocalSearchRecord:
    parameters, classes, watch = run.parameters, len(run.dataset.classes), Stopwatch()
    with open_journal(run) as journal:
        load_training_images(session, run.dataset)
        with Actors(session.placed(run.dataset), shown_as="hinge-local-search") as actors:
            watch.lap("loading")
            losses = _losses_by_group(actors, run, journal.values)
            take_trials(run, journal, losses, show_accepted=True)
            watch.lap("searching")
    W = parameters.best_weights(journal.values, classes)
    best = evaluate_best(session, run, W, journal, watch.timings["searching"])
    start = parameters.start(classes)
    initial = evaluate_weights(session, run.dataset, start, "train", dtype="float64")
    accepted = int(improvements(journal.values).sum())
    result = LocalSearchResult(**asdict(best), accepted=accepted, initial_loss=initial.loss)
    save_local_search(run, W, journal.values, result)
    return run.finish(result, watch.timings)


def _losses_by_group(actors: Actors, run: LocalSearchRun, losses: Floats) -> Iterator[Floats]:
    """Yield the losses of each group of trials, starting after the trials that have `losses`."""
    dataset = run.dataset
    state = SearchState.after_losses(run.parameters, len(dataset.classes), losses)
    for after in local_search(actors, dataset.mean, run.parameters, state):
        yield after.losses[len(state.losses) :]
        state = after


def evaluate_best(
    session: Session, run: SearchRun, W: Floats, journal: ValueJournal, seconds: float
) -> SearchResult:
    """Evaluate the best weights `W` (C, D + 1) on all images, and return the search's result.

    `seconds` is the duration of the trials. Scores are float64, as in the trials, so the training
    loss is bit-identical to the trial's loss.
    """
    losses = journal.values
    train, test = (
        evaluate_weights(session, run.dataset, W, split, dtype="float64")
        for split in ("train", "test")
    )
    return SearchResult(
        trials=len(losses),
        best_trial=int(np.argmin(losses)),
        best_loss=float(losses.min()),
        loss=train.loss,
        test_loss=test.loss,
        train_accuracy=train.accuracy,
        test_accuracy=test.accuracy,
        weights_sha256=weights_sha256(W),
        trials_per_second=(journal.done - journal.before) / seconds,
    )
