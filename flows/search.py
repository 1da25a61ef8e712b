"""The flows `search random` and `search local`: the best of many weights that were drawn.

Trials are taken in their order, and each one's loss is in the run's journal before it is
told of. The losses say all else, so that a run that was interrupted, at any point, goes on
from there and ends as if it had not been.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from prefect import runtime, task
from prefect.cache_policies import NO_CACHE

from flows.console import to_json
from flows.defaults import BLOCK, TRIALS
from flows.evaluate import evaluate_task
from flows.guarded_flow import flow
from flows.lifecycle import Begun, Kind, Plan, flow_run_name
from flows.record import Run, weights_sha256
from flows.search_results import SearchPlan, keep_task, trial_lines
from flows.session import Session, flow_session
from pipeline.actors import Actors
from pipeline.local_search import GROUP, LocalSearch, SearchState, local_search
from pipeline.random_search import RandomSearch, check_block, improvements, plan_blocks, search
from pipeline.value_journal import ValueJournal, value_journal
from storage.schema import SPLITS

RANDOM = Kind("search random", RandomSearch)
LOCAL = Kind("search local", LocalSearch)

TRIES = 2 * GROUP
"""Tries of a local search that are one Prefect task."""

P = TypeVar("P", RandomSearch, LocalSearch)


def plan_random(
    store: str, runs: Path, parameters: RandomSearch, resume: str | None, block: int
) -> Plan[RandomSearch]:
    """Plan a random search, or to go on with the run `resume` of `runs`, in blocks of trials.

    Raises DataError or PipelineError for what cannot be searched (see `Kind.plan`), a block
    that is too large and a damaged journal too.
    """
    check_block(block)
    return _with_sound_journal(RANDOM.plan(store, runs, parameters, resume))


def plan_local(
    store: str, runs: Path, parameters: LocalSearch, resume: str | None
) -> Plan[LocalSearch]:
    """Plan a local search as `plan_random` does a random one; it has no blocks."""
    return _with_sound_journal(LOCAL.plan(store, runs, parameters, resume))


def _with_sound_journal(plan: Plan[P]) -> Plan[P]:
    """Return the plan, if the journal of the run to go on with can be gone on with."""
    if plan.run and not plan.finished and plan.run.journal.exists():
        with _journal(plan, plan.run):
            pass
    return plan


def _journal(plan: Plan[P], run: Run) -> AbstractContextManager[ValueJournal]:
    decides = {
        "command": plan.kind.command,
        "parameters": asdict(plan.parameters),
        "fingerprint": plan.dataset.fingerprint,
    }
    return value_journal(run.journal, to_json(decides), plan.parameters.trials)


def _flow_run_name() -> str:
    return flow_run_name(runtime.flow_run.flow_name)


@flow(
    name="search random",
    description="The best of many random weights.",
    flow_run_name=_flow_run_name,
)
def search_random_flow(
    store: str,
    parameters: RandomSearch | None = None,
    resume: str | None = None,
    runs: str = "runs",
    block: int = BLOCK,
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Search the store at `store`, or go on with the run `resume` of `runs`.

    Trials are taken `block` at a time, which changes nothing of the result. Returns the run's
    record. Raises DataError or PipelineError for what cannot be searched.
    """
    parameters = parameters or RandomSearch(TRIALS)
    plan = plan_random(store, Path(runs), parameters, resume, block)
    if plan.finished:
        return plan.finished
    with (
        flow_session(workers=workers, scheduler=scheduler) as session,
        plan.begun(session, {"block": block}) as begun,
        _journal(plan, begun.run) as journal,
    ):
        loading = load_task(session, plan)
        blocks = plan_blocks(plan.parameters.trials, block, done=range(journal.done))
        found = search(session.placements(plan.dataset), plan.parameters, blocks)
        losses = (each.losses for each in found)
        searching = _take_trials(session, plan, journal, losses, block)
        return _ended(session, plan, begun, journal, loading | searching)


@flow(
    name="search local",
    description="Random steps from the best weights so far, taken where they make it better.",
    flow_run_name=_flow_run_name,
)
def search_local_flow(
    store: str,
    parameters: LocalSearch | None = None,
    resume: str | None = None,
    runs: str = "runs",
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Search the store at `store`, or go on with the run `resume` of `runs`.

    Returns the run's record. Raises DataError or PipelineError for what cannot be searched.
    """
    plan = plan_local(store, Path(runs), parameters or LocalSearch(TRIALS), resume)
    if plan.finished:
        return plan.finished
    with (
        flow_session(workers=workers, scheduler=scheduler) as session,
        plan.begun(session) as begun,
        _journal(plan, begun.run) as journal,
    ):
        loading = load_task(session, plan)
        with Actors(session.placements(plan.dataset)) as actors:
            losses = _losses_of_groups(actors, plan, journal.values)
            searching = _take_trials(session, plan, journal, losses, TRIES)
        return _ended(session, plan, begun, journal, loading | searching)


@task(name="load", cache_policy=NO_CACHE)
def load_task(session: Session, plan: Plan[P]) -> dict[str, float]:
    """Have the workers load the training images; return how long that took."""
    clock = time.perf_counter()
    session.placements(plan.dataset).shards("train")
    return {"loading": time.perf_counter() - clock}


def _losses_of_groups(
    actors: Actors, plan: Plan[LocalSearch], losses: NDArray[np.float64]
) -> Iterator[NDArray[np.float64]]:
    """Yield the losses of one group of tries after another, from those `losses` on."""
    dataset = plan.dataset
    state = SearchState.after_losses(plan.parameters, len(dataset.classes), losses)
    for after in local_search(actors, dataset.mean, plan.parameters, state):
        yield after.losses[len(state.losses) :]
        state = after


def _take_trials(
    session: Session,
    plan: SearchPlan,
    journal: ValueJournal,
    found: Iterator[NDArray[np.float64]],
    size: int,
) -> dict[str, float]:
    """Take the trials that are not in the journal, `size` of them a task; say how long it took."""
    trials, local = plan.parameters.trials, isinstance(plan.parameters, LocalSearch)
    clock = time.perf_counter()
    if journal.before:
        session.console.note(f"{journal.before:,} of {trials:,} trials were taken before")
    with session.console.progress(plan.kind.command, trials) as advance:

        def tell(first: int) -> None:
            session.console.note("\n".join(trial_lines(journal.values, first, local=local)))
            advance(journal.done, f"best {journal.values.min():f}")

        for first in range(journal.done, trials, size):
            trials_task(journal, found, tell, first, min(first + size, trials) - 1)
    return {"searching": time.perf_counter() - clock}


@task(name="trials", task_run_name="trials {first} to {last}", cache_policy=NO_CACHE)
def trials_task(
    journal: ValueJournal,
    found: Iterator[NDArray[np.float64]],
    tell: Callable[[int], None],
    first: int,
    last: int,
) -> None:
    """Wait for the losses of the trials from `first` to `last`; keep them, then tell of them."""
    done = first
    while done <= last:
        journal.add(next(found))
        tell(done)
        done = journal.done


def _ended(
    session: Session,
    plan: SearchPlan,
    begun: Begun,
    journal: ValueJournal,
    timings: dict[str, float],
) -> dict[str, Any]:
    """Test the best weights, keep what came of the search and end its run.

    Scores are taken in float64, as those of the trials were: it is the same loss again.
    """
    losses, classes = journal.values, len(plan.dataset.classes)
    W = plan.parameters.best_weights(losses, classes)
    train_part, test_part = (
        evaluate_task(session, plan.dataset, W, split, dtype="float64") for split in SPLITS
    )
    results = {
        "trials": len(losses),
        "best_trial": int(np.argmin(losses)),
        "best_loss": float(losses.min()),
        "loss": train_part.loss,
        "test_loss": test_part.loss,
        "train_accuracy": train_part.accuracy,
        "test_accuracy": test_part.accuracy,
        "weights_sha256": weights_sha256(W),
        "trials_per_second": (journal.done - journal.before) / timings["searching"],
    }
    if isinstance(plan.parameters, LocalSearch):
        start = plan.parameters.start(classes)
        first = evaluate_task(session, plan.dataset, start, "train", dtype="float64")
        accepted = int(improvements(losses).sum())
        results |= {"accepted": accepted, "initial_loss": first.loss}
    keep_task(begun.run, plan, W, losses, results)
    return begun.ended("done", results, timings)
