"""What a sweep leaves: its result, a table of the losses, and their picture."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, Loss, plain
from flows.sweep.figures import draw_step_sizes
from pipeline.sweep.parameters import START, Sweep

_ROWS_SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """The loss after one step."""

    step_size: float
    loss: Loss


@dataclass(frozen=True, kw_only=True)
class ExactMinimum:
    """Where the loss along the negative gradient is lowest."""

    step_size: float
    loss: Loss
    breakpoints: int
    """How many breakpoints the loss has between 0 and there."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The result of a sweep. Losses include the regulariser."""

    initial_loss: Loss
    """Before the step."""
    losses: tuple[StepLoss, ...]
    """By step size, rising."""
    best_step_size: float
    best_loss: Loss
    weights_sha256: str
    """Of the weights before the step."""
    exact_minimum: ExactMinimum


SweepRecord = FinishedRecord[Sweep, SweepResult]


@task(name="save results", cache_policy=NO_CACHE)
def save_results(run: ActiveRun[Sweep, SweepResult, Any], result: SweepResult) -> None:
    """Write the losses and their picture, and show them in Prefect."""
    rows, exact = plain(result.losses), result.exact_minimum
    run.directory.write_table("steps.csv", rows)
    draw_step_sizes(
        run.directory.path / "steps.png",
        np.array([each.step_size for each in result.losses]),
        np.array([each.loss for each in result.losses]),
        initial=result.initial_loss,
        minimum=(exact.step_size, exact.loss),
        title=f"{run.id}\none step along the negative gradient at {_weights(run.parameters)}",
    )
    every = math.ceil(len(rows) / _ROWS_SHOWN)
    thinned = f", every {every}th" if every > 1 else ""
    artifacts.table("sweep: step sizes", rows[::every], f"{run.title}: step sizes{thinned}")
    shown = {
        "initial_loss": result.initial_loss,
        "best_step_size": result.best_step_size,
        "best_loss": result.best_loss,
        **{f"exact minimum: {name}": value for name, value in plain(exact).items()},
    }
    artifacts.summary("sweep", shown, f"{run.title}: the best step")
    picture = run.directory.path / "steps.png"
    artifacts.picture("sweep: loss", picture, f"{run.title}: loss by step size")


def _weights(parameters: Sweep) -> str:
    return parameters.init if parameters.at == START else Path(parameters.at).name
