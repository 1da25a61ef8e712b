"""Results of a search: its record, the best weights, the table of the trials, and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, plain
from flows.search.trials import SearchInputs
from flows.services.tasks import task
from pipeline.search.local_search import LocalSearch
from pipeline.search.random_search import RandomSearch, improvements

Floats = NDArray[np.float64]

_BEST_SHOWN = 10
"""The number of trials in the artifact of the best trials."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The result of either search. Losses are mean hinge losses without a regulariser."""

    trials: int
    best_trial: int
    """The trial with the lowest loss, or the first of several equal ones."""
    best_loss: float
    """The loss of the best trial over the training images, as computed in the search."""
    loss: float
    """The same loss, evaluated again after the search."""
    test_loss: float
    train_accuracy: float
    test_accuracy: float
    weights_sha256: str
    """The hash of the best trial's weights."""
    trials_per_second: float
    """The rate since the search was started or last resumed."""

    def in_words(self) -> str:
        """Return the best trial as one line."""
        return (
            f"best {self.best_loss:.6f} in trial {self.best_trial} of {self.trials:,}; "
            f"test accuracy {self.test_accuracy:.2%}"
        )


@dataclass(frozen=True, kw_only=True)
class RandomSearchResult(SearchResult):
    """The result of a random search."""


@dataclass(frozen=True, kw_only=True)
class LocalSearchResult(SearchResult):
    """The result of a local search."""

    accepted: int
    """The number of accepted trials."""
    initial_loss: float
    """The loss of the initial weights."""

    def in_words(self) -> str:
        """Return the best trial and the course of the search as one line."""
        return f"{super().in_words()}; {self.accepted:,} accepted, from {self.initial_loss:.6f}"


RandomSearchRun = ActiveRun[RandomSearch, RandomSearchResult, SearchInputs]
LocalSearchRun = ActiveRun[LocalSearch, LocalSearchResult, SearchInputs]
SearchRun = RandomSearchRun | LocalSearchRun
RandomSearchRecord = FinishedRecord[RandomSearch, RandomSearchResult]
LocalSearchRecord = FinishedRecord[LocalSearch, LocalSearchResult]


@task("save results")
def save_random_search(
    run: RandomSearchRun, W: Floats, losses: Floats, result: RandomSearchResult
) -> None:
    """Write the weights (C, D + 1), the trials and their figures, and create Prefect artifacts."""
    title = f"{run.id}\n{len(losses):,} trials of scale {run.parameters.scale:g}"

    def draw(path: Path) -> None:
        from flows.search.figures import draw_trials

        draw_trials(path, losses, title=title)

    def draw_distribution(path: Path) -> None:
        from flows.search.figures import draw_histogram

        draw_histogram(path, losses, title=title)

    run.draw("trials.png", draw)
    run.draw("histogram.png", draw_distribution)
    _save_trials(run, W, losses, result)
    _show_picture(run, "trials", "Loss of each trial")
    _show_picture(run, "histogram", "Distribution of the losses")


@task("save results")
def save_local_search(
    run: LocalSearchRun, W: Floats, losses: Floats, result: LocalSearchResult
) -> None:
    """Write the weights (C, D + 1), the trials and their figure, and create Prefect artifacts."""
    accepted = improvements(losses)
    scales = run.parameters.step_scale, run.parameters.init_scale
    title = "{}\nsteps of scale {:g}, initial weights of scale {:g}".format(run.id, *scales)

    def draw(path: Path) -> None:
        from flows.search.figures import draw_local_search

        draw_local_search(path, losses, accepted, title=title)

    run.draw("trials.png", draw)
    _save_trials(run, W, losses, result, accepted=accepted)
    _show_picture(run, "trials", "Loss of each trial")


def _save_trials(
    run: SearchRun, W: Floats, losses: Floats, result: SearchResult, **more: NDArray[Any]
) -> None:
    """Write the weights and the trials; create artifacts of the result and the best trials.

    `more` contains further columns of the table.
    """
    run.directory.write_weights(W)
    columns: dict[str, Sequence[int] | NDArray[Any]] = {
        "trial": range(len(losses)),
        "loss": losses,
        "best_so_far": np.minimum.accumulate(losses),
    }
    run.directory.write_table("trials.csv", columns | more)
    publish = run.report.publish
    publish(artifacts.summary, f"{run.series}: result", plain(result), run.describe("Result"))
    best = np.argsort(losses, kind="stable")[:_BEST_SHOWN]
    rows = {"trial": best, "loss": losses[best]}
    publish(artifacts.table, f"{run.series}: best trials", rows, run.describe("Best trials"))


def _show_picture(run: SearchRun, name: str, description: str) -> None:
    path = run.directory.path / f"{name}.png"
    words = run.describe(description)
    run.report.publish(artifacts.picture, f"{run.series}: {name}", path, words)
