"""Results of a sweep: its record, the table of the losses, and their figure."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, Loss, plain
from flows.services.tasks import task
from pipeline.inputs.words import short
from pipeline.sweep.parameters import START, Sweep

_ROWS_SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """The loss after one step."""

    step_size: float
    loss: Loss


@dataclass(frozen=True, kw_only=True)
class ExactMinimum:
    """The exact minimum of the loss along the negative gradient."""

    step_size: float
    loss: Loss
    breakpoints: int
    """The number of breakpoints of the loss at positive step sizes."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The result of a sweep. Losses include the regulariser."""

    initial_loss: Loss
    """The loss before the step."""
    losses: tuple[StepLoss, ...]
    """Sorted by step size, smallest first."""
    best_step_size: float
    best_loss: Loss
    weights_sha256: str
    """The hash of the weights before the step."""
    exact_minimum: ExactMinimum

    def in_words(self) -> str:
        """Return the best step sizes as one line."""
        exact = self.exact_minimum
        return (
            f"best {self.best_loss:.6f} at {short(self.best_step_size)}; "
            f"exact {exact.loss:.6f} at {short(exact.step_size)}"
        )


SweepRecord = FinishedRecord[Sweep, SweepResult]


@task("save results")
def save_results(run: ActiveRun[Sweep, SweepResult, Any], result: SweepResult) -> None:
    """Write the losses and their figure, and create Prefect artifacts of them."""
    rows, exact = plain(result.losses), result.exact_minimum
    step_sizes = np.array([each.step_size for each in result.losses])
    losses = np.array([each.loss for each in result.losses])
    initial, minimum = result.initial_loss, (exact.step_size, exact.loss)
    header = f"{run.id}\none step along the negative gradient at {_weights(run.parameters)}"

    def draw(path: Path) -> None:
        from flows.sweep.figures import draw_step_sizes

        draw_step_sizes(path, step_sizes, losses, initial=initial, minimum=minimum, title=header)

    picture = run.draw("steps.png", draw)
    run.directory.write_table("steps.csv", rows)
    every = math.ceil(len(rows) / _ROWS_SHOWN)
    thinned = f", one in {every}" if every > 1 else ""
    publish, series = run.report.publish, run.series
    words = run.describe(f"Loss by step size{thinned}")
    publish(artifacts.table, f"{series}: step sizes", rows[::every], words)
    shown = {
        "initial_loss": result.initial_loss,
        "best_step_size": result.best_step_size,
        "best_loss": result.best_loss,
        **{f"exact minimum: {name}": value for name, value in plain(exact).items()},
    }
    publish(artifacts.summary, f"{series}: result", shown, run.describe("Lowest losses"))
    publish(artifacts.picture, f"{series}: loss", picture, run.describe("Loss by step size"))


def _weights(parameters: Sweep) -> str:
    return parameters.init if parameters.at == START else Path(parameters.at).name
