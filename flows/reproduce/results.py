"""The results of a reproduction: the comparisons with the notes, and the report."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.landscape.three_points import loss_functions
from flows.reproduce.claims import examine_claims
from flows.reproduce.comparisons import Comparison, NotComparable, comparable, not_comparable
from flows.reproduce.experiments import Experiments, TrainingRuns
from flows.reproduce.measurements import WINDOW, Duplicates, Measurements
from flows.reproduce.notes import are_the_notes_images
from flows.reproduce.page import PageContents, write_page
from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.lifecycle import Plan
from flows.runs.record import FinishedRecord, plain
from flows.services.session import Session
from flows.services.tasks import task
from flows.show.predictions import predict_split
from pipeline.reproduce.parameters import Reproduction
from storage.dataset import Dataset
from storage.schema import PIXELS

EXAMPLES_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class ReproductionResult:
    """The result of a reproduction."""

    comparisons: tuple[Comparison, ...]
    """In the order of the notes."""
    not_comparable: tuple[NotComparable, ...]
    agree: bool
    """Whether all comparisons agree."""
    parts: Mapping[str, str]
    """The directory of each experiment's run, keyed by the experiment's name."""
    duplicates: Duplicates
    report: str
    """The path of the HTML report."""
    seconds: float
    """The duration of this process, and of the experiments that had finished before it started."""

    def in_words(self) -> str:
        """Return the number of comparisons that agree as one line."""
        agree = sum(each.agrees for each in self.comparisons)
        return (
            f"{agree} of {len(self.comparisons)} comparisons agree with the notes; "
            f"not comparable: {len(self.not_comparable)}"
        )


ReproductionRecord = FinishedRecord[Reproduction, ReproductionResult]
ReproductionPlan = Plan[Reproduction, ReproductionResult, TrainingRuns]
ActiveReproduction = ActiveRun[Reproduction, ReproductionResult, TrainingRuns]


@task("report")
def save_results(
    session: Session, run: ActiveReproduction, measured: Measurements
) -> ReproductionResult:
    """Compare the measurements with the notes, write the report, and return the result."""
    directory, data = run.directory.path / "report", run.dataset.summary()
    directory.mkdir(exist_ok=True)
    experiments, notes_images = measured.experiments, are_the_notes_images(data)
    claims, sweep = examine_claims(measured), experiments.sweep.record.result
    comparisons = comparable(claims, notes_images=notes_images)
    cannot = not_comparable(claims, sweep, notes_images=notes_images)
    drawn_before = pictures_of(experiments)
    drawn = _draw_for_page(directory, run.dataset, measured)
    before = sum(each.record.seconds for each in experiments.in_order() if each.finished_before)
    page = PageContents(
        record=run.record,
        data=data,
        command=_command(run.plan),
        measured=measured,
        comparisons=comparisons,
        not_comparable=cannot,
        pictures=drawn_before | drawn,
        seconds=time.perf_counter() - session.opened + before,
        resumed=run.plan.request.directory is not None,
    )
    write_page(directory / "index.html", page)
    publish, series = run.report.publish, run.series
    words = run.describe("Comparisons with the notes")
    publish(artifacts.table, f"{series}: comparisons", plain(comparisons), words)
    link = (directory / "index.html").absolute().as_uri()
    publish(artifacts.link, f"{series}: report", link, "report/index.html", run.describe("Report"))
    return ReproductionResult(
        comparisons=comparisons,
        not_comparable=cannot,
        agree=all(each.agrees for each in comparisons),
        parts={each.name: str(each.directory.path) for each in experiments.in_order()},
        duplicates=measured.duplicates,
        report=str(directory / "index.html"),
        seconds=page.seconds,
    )


def _command(plan: ReproductionPlan) -> str:
    """Return the command that repeats the reproduction."""
    return f"hinge reproduce --store {shlex.quote(plan.store)} --seed {plan.parameters.seed}"


def pictures_of(experiments: Experiments) -> dict[str, Path]:
    """Return the figures that the experiments drew, keyed by their names in the template."""
    return {
        "panels": experiments.panels.directory.path / "panels.png",
        "line": experiments.line.directory.path / "landscape.png",
        "trials": experiments.random_search.directory.path / "trials.png",
        "tries": experiments.local_search.directory.path / "trials.png",
        "errors": experiments.gradient_check.directory.path / "errors.png",
        "differences": experiments.differences.directory.path / "steps.png",
        "steps": experiments.sweep.directory.path / "steps.png",
        "descent": experiments.gradient_descent.directory.path / "loss.png",
        "curves": experiments.step_sizes.directory.path / "curves.png",
        "passes": experiments.lbfgs.directory.path / "loss.png",
        "path": experiments.path.directory.path / "landscape.png",
    }


def _draw_for_page(directory: Path, dataset: Dataset, measured: Measurements) -> dict[str, Path]:
    """Draw the figures of the report that no experiment has drawn."""
    from flows.landscape.three_points_figures import draw_three_points
    from flows.reproduce.figures import draw_convergence
    from flows.show.figures import draw_predictions

    draw_three_points(directory / "three-points.png", loss_functions())
    draw_convergence(
        directory / "convergence.png",
        measured.descent_losses,
        measured.batch_losses,
        rows=measured.rows,
        batch_size=measured.batch_size,
        window=WINDOW,
    )
    shape = (len(dataset.classes), PIXELS + 1)
    W = measured.experiments.lbfgs.directory.read_weights(shape)
    draw_predictions(
        directory, W, predict_split(dataset, W, "test", EXAMPLES_SHOWN), title="L-BFGS"
    )
    names = ("three-points", "convergence", "weights", "examples", "confusion")
    return {name: directory / f"{name}.png" for name in names}
