"""What a search leaves for people: a line a trial while it goes, then tables and pictures."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows import artifacts
from flows.figures import draw_histogram, draw_local_search, draw_trials
from flows.lifecycle import Plan
from flows.record import Run
from flows.tables import Table
from pipeline.local_search import LocalSearch
from pipeline.random_search import RandomSearch, improvements

SearchPlan = Plan[RandomSearch] | Plan[LocalSearch]

BEST_SHOWN = 10
"""Trials in the table of the best."""


def trial_lines(losses: NDArray[np.float64], first: int, *, local: bool) -> Iterator[str]:
    """Yield the notes' line for each trial from `first` on; a local search says what it accepted.

    >>> print(*trial_lines(np.array([9.5, 9.401632, 9.75]), 1, local=True), sep="\\n")
    in attempt 1 the loss was 9.401632, best 9.401632, accepted
    in attempt 2 the loss was 9.750000, best 9.401632
    """
    best, better = np.minimum.accumulate(losses), improvements(losses)
    for trial in range(first, len(losses)):
        accepted = ", accepted" if local and better[trial] else ""
        yield f"in attempt {trial} the loss was {losses[trial]:f}, best {best[trial]:f}{accepted}"


@task(name="keep results", cache_policy=NO_CACHE)
def keep_task(
    run: Run,
    plan: SearchPlan,
    W: NDArray[np.float64],
    losses: NDArray[np.float64],
    results: dict[str, Any],
) -> None:
    """Write weights, trials and pictures, and show what came of the search."""
    run.write_weights(W)
    run.write_table("trials.csv", _table(plan, losses))
    key = plan.kind.command
    described = f"Run {run.id} on {plan.dataset.name} ({plan.dataset.fingerprint[:12]})"
    summary = {"result": list(results), "value": list(results.values())}
    artifacts.table(key, summary, described)
    best = np.argsort(losses, kind="stable")[:BEST_SHOWN]
    rows = {"trial": best, "loss": losses[best]}
    artifacts.table(f"{key}: best trials", rows, f"{described}: the best trials")
    for name, words in _draw(run, plan, losses):
        artifacts.picture(f"{key}: {name}", run.path / f"{name}.png", f"{described}: {words}")


def _table(plan: SearchPlan, losses: NDArray[np.float64]) -> Table:
    columns: dict[str, Sequence[Any] | NDArray[Any]] = {
        "trial": range(len(losses)),
        "loss": losses,
        "best_so_far": np.minimum.accumulate(losses),
    }
    if isinstance(plan.parameters, LocalSearch):
        columns["accepted"] = improvements(losses)
    return columns


def _draw(run: Run, plan: SearchPlan, losses: NDArray[np.float64]) -> Iterator[tuple[str, str]]:
    """Draw the pictures; yield the name of each and what it shows."""
    parameters = plan.parameters
    path = run.path / "trials.png"
    if isinstance(parameters, LocalSearch):
        scales = f"steps of {parameters.step_scale:g} from weights of {parameters.init_scale:g}"
        title = f"{run.id}\n{scales}"
        draw_local_search(path, losses, improvements(losses), title=title)
        yield "trials", "the loss of every try"
    else:
        title = f"{run.id}\n{len(losses):,} trials of scale {parameters.scale:g}"
        draw_trials(path, losses, title=title)
        yield "trials", "the loss of every trial"
        draw_histogram(run.path / "histogram.png", losses, title=title)
        yield "histogram", "how often which loss came out"
