"""What a search leaves: its result, the weights, a table of the trials, and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, plain
from flows.search.figures import draw_histogram, draw_local_search, draw_trials
from flows.search.trials import SearchInputs
from pipeline.search.local_search import LocalSearch
from pipeline.search.random_search import RandomSearch, improvements

Floats = NDArray[np.float64]

_BEST_SHOWN = 10
"""Trials in the table of the best."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The result of a search of either kind. Losses are mean hinge losses without a regulariser."""

    trials: int
    best_trial: int
    """The trial with the lowest loss; of equal ones, the first."""
    best_loss: float
    """Its loss over the training images, as the search found it."""
    loss: float
    """The same, evaluated again."""
    test_loss: float
    train_accuracy: float
    test_accuracy: float
    weights_sha256: str
    """Of the best trial's weights."""
    trials_per_second: float
    """In the part of the search since it was last resumed."""


@dataclass(frozen=True, kw_only=True)
class RandomSearchResult(SearchResult):
    """The result of a random search."""


@dataclass(frozen=True, kw_only=True)
class LocalSearchResult(SearchResult):
    """The result of a local search."""

    accepted: int
    """How many trials were accepted."""
    initial_loss: float
    """The loss of the first weights."""


RandomSearchRun = ActiveRun[RandomSearch, RandomSearchResult, SearchInputs]
LocalSearchRun = ActiveRun[LocalSearch, LocalSearchResult, SearchInputs]
SearchRun = RandomSearchRun | LocalSearchRun
RandomSearchRecord = FinishedRecord[RandomSearch, RandomSearchResult]
LocalSearchRecord = FinishedRecord[LocalSearch, LocalSearchResult]


@task(name="save results", cache_policy=NO_CACHE)
def save_random_search(
    run: RandomSearchRun, W: Floats, losses: Floats, result: RandomSearchResult
) -> None:
    """Write the weights (C, D + 1), the trials and their pictures, and show them in Prefect."""
    _save_trials(run, W, losses, result)
    title = f"{run.id}\n{len(losses):,} trials of scale {run.parameters.scale:g}"
    path = run.directory.path
    draw_trials(path / "trials.png", losses, title=title)
    draw_histogram(path / "histogram.png", losses, title=title)
    _show_picture(run, "trials", "the loss of every trial")
    _show_picture(run, "histogram", "the distribution of the losses")


@task(name="save results", cache_policy=NO_CACHE)
def save_local_search(
    run: LocalSearchRun, W: Floats, losses: Floats, result: LocalSearchResult
) -> None:
    """Write the weights (C, D + 1), the trials and their picture, and show them in Prefect."""
    accepted = improvements(losses)
    _save_trials(run, W, losses, result, accepted=accepted)
    scales = run.parameters.step_scale, run.parameters.init_scale
    title = "{}\nsteps of {:g} from weights of {:g}".format(run.id, *scales)
    draw_local_search(run.directory.path / "trials.png", losses, accepted, title=title)
    _show_picture(run, "trials", "the loss of every trial")


def _save_trials(
    run: SearchRun, W: Floats, losses: Floats, result: SearchResult, **more: NDArray[Any]
) -> None:
    """Write the weights and the table of trials, with `more` columns; show the best of them."""
    run.directory.write_weights(W)
    columns: dict[str, Sequence[int] | NDArray[Any]] = {
        "trial": range(len(losses)),
        "loss": losses,
        "best_so_far": np.minimum.accumulate(losses),
    }
    run.directory.write_table("trials.csv", columns | more)
    command = run.record.command
    artifacts.summary(command, plain(result), run.title)
    best = np.argsort(losses, kind="stable")[:_BEST_SHOWN]
    rows = {"trial": best, "loss": losses[best]}
    artifacts.table(f"{command}: best trials", rows, f"{run.title}: the best trials")


def _show_picture(run: SearchRun, name: str, description: str) -> None:
    path = run.directory.path / f"{name}.png"
    artifacts.picture(f"{run.record.command}: {name}", path, f"{run.title}: {description}")
