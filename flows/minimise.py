"""The task of a training run that SciPy minimises as a whole: `lbfgs` and `smoothed`.

Every pass over the images is kept in a journal in the run's directory. It has half a megabyte
a pass, so it is removed when the run has ended.
"""

import time
from collections.abc import Callable
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.console import Advance
from flows.record import Run
from flows.session import Session
from flows.train_results import Trained, TrainingPlan
from pipeline.actors import Actors
from pipeline.journal import Journal
from pipeline.parameters import Method
from pipeline.quasi_newton import identity, minimise
from pipeline.replay import Evaluations, entries


def journal_path(run: Run) -> Path:
    """Return where the run's passes are kept while it is under way."""
    return run.path / "passes.sqlite"


def check_journal(plan: TrainingPlan) -> None:
    """Read what there is of the run to go on with.

    Raises PipelineError if it is damaged, or of another run.
    """
    if plan.run and journal_path(plan.run).exists():
        with Journal(journal_path(plan.run)) as journal:
            for _ in entries(journal, identity(plan.dataset, plan.parameters)):
                pass


@task(name="train", cache_policy=NO_CACHE)
def minimise_task(session: Session, plan: TrainingPlan, run: Run) -> Trained:
    """Take all passes that are not in the journal; return where they led."""
    clock = time.perf_counter()
    with (
        Journal(journal_path(run)) as journal,
        session.console.progress("train", plan.parameters.steps) as advance,
        Actors(session.placements(plan.dataset)) as actors,
    ):
        loaded = time.perf_counter()
        told = _told(advance, plan.parameters.method)
        minimised = minimise(actors, plan.dataset, plan.parameters, journal, told)
    timings = {"loading": loaded - clock, "training": time.perf_counter() - loaded}
    state = minimised.state
    return Trained(state, state.step - minimised.replayed_steps, timings, minimised)


def _told(advance: Advance, method: Method) -> Callable[[Evaluations], None]:
    """Return what tells the progress bar of each pass."""

    def tell(evaluations: Evaluations) -> None:
        loss = evaluations.least_loss
        if method is Method.SMOOTHED:
            gap = (loss - evaluations.lower_bound) / loss
            advance(evaluations.passes, f"loss {loss:.4f}, gap {gap:.2%}")
        else:
            advance(evaluations.iteration, f"loss {loss:.4f}")

    return tell
