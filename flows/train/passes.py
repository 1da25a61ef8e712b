"""The Prefect task of the training methods that SciPy drives: `lbfgs` and `smoothed`.

The result of every pass over the images is written to a journal in the run's directory. The journal
is deleted when the run finishes.
"""

import time

from flows.services.progress import Advance
from flows.services.session import Session
from flows.services.tasks import task
from flows.train.results import Trained, TrainRun
from pipeline.cluster.actors import Actors
from pipeline.journals.journal import Journal
from pipeline.training.parameters import PassParameters, SmoothedHinge
from pipeline.training.quasi_newton import ReportPass, minimise
from pipeline.training.replay import Evaluations


@task("train")
def minimise_in_passes(session: Session, run: TrainRun, parameters: PassParameters) -> Trained:
    """Make all passes of a run that are not in its journal."""
    clock = time.perf_counter()
    with (
        Journal(run.directory.passes) as journal,
        run.report.progress("train", parameters.steps) as advance,
        Actors(session.placed(run.dataset), shown_as=f"hinge-{parameters.method}") as actors,
    ):
        loaded = time.perf_counter()
        report = _progress_of(parameters, advance, actors)
        minimised = minimise(actors, run.dataset, parameters, journal, report)
    timings = {"loading": loaded - clock, "training": time.perf_counter() - loaded}
    state = minimised.state
    return Trained(state, state.step - minimised.replayed_steps, timings, minimised)


def _progress_of(parameters: PassParameters, advance: Advance, actors: Actors) -> ReportPass:
    """Return a function that shows each pass in the progress bar and in the workers' metrics."""

    def report(evaluations: Evaluations) -> None:
        loss = evaluations.least_loss
        actors.show_loss(loss)
        if isinstance(parameters, SmoothedHinge):
            gap = (loss - evaluations.lower_bound) / loss
            advance(evaluations.passes, f"loss {loss:.4f}, gap {gap:.2%}", loss)
        else:
            advance(evaluations.iteration, loss=loss)

    return report
