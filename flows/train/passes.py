"""The task of a training run that SciPy minimises as a whole: `lbfgs` and `smoothed`.

The result of every pass over the images is kept in a journal in the run's directory. The journal is
removed when the run has finished.
"""

import time

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.services.console import Advance
from flows.services.session import Session
from flows.train.results import Trained, TrainRun
from pipeline.cluster.actors import Actors
from pipeline.journals.journal import Journal
from pipeline.training.parameters import PassParameters, SmoothedHinge
from pipeline.training.quasi_newton import ReportPass, minimise
from pipeline.training.replay import Evaluations


@task(name="train", cache_policy=NO_CACHE)
def minimise_in_passes(session: Session, run: TrainRun, parameters: PassParameters) -> Trained:
    """Take all passes of a run that the journal does not hold."""
    clock = time.perf_counter()
    with (
        Journal(run.directory.passes) as journal,
        session.console.progress("train", parameters.steps) as advance,
        Actors(session.placed(run.dataset)) as actors,
    ):
        loaded = time.perf_counter()
        report = _progress_of(parameters, advance)
        minimised = minimise(actors, run.dataset, parameters, journal, report)
    timings = {"loading": loaded - clock, "training": time.perf_counter() - loaded}
    state = minimised.state
    return Trained(state, state.step - minimised.replayed_steps, timings, minimised)


def _progress_of(parameters: PassParameters, advance: Advance) -> ReportPass:
    """Return the function that shows each pass in the progress bar."""

    def report(evaluations: Evaluations) -> None:
        loss = evaluations.least_loss
        if isinstance(parameters, SmoothedHinge):
            gap = (loss - evaluations.lower_bound) / loss
            advance(evaluations.passes, f"loss {loss:.4f}, gap {gap:.2%}")
        else:
            advance(evaluations.iteration, f"loss {loss:.4f}")

    return report
