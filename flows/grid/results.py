"""Results of a grid: its record, a table and loss curves of its trials, and the best weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from flows.grid.curves import Curve
from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, Loss, plain
from flows.runs.weights import weights_sha256
from flows.services.tasks import task
from pipeline.inputs.words import short
from pipeline.training.grid import TrainingGrid, Trial, TrialOutcome

_WINDOW = 50
"""The number of mini-batches in the running mean of a curve."""

_ROWS_SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """The result of a trial. Losses include the regulariser."""

    step_size: float
    batch_size: int | Literal["all"]
    reg: float
    status: str
    """`done`, `converged` or `diverged`."""
    steps: int
    loss: Loss
    """The loss of the final weights over all training images."""
    test_loss: Loss
    train_accuracy: float
    test_accuracy: float
    weights_sha256: str

    @property
    def diverged(self) -> bool:
        """Whether the trial diverged."""
        return self.status == "diverged"


@dataclass(frozen=True, kw_only=True)
class GridResult:
    """The result of a grid."""

    trials: tuple[TrialResult, ...]
    """Sorted by test accuracy, highest first; trials that diverged come last."""
    best: TrialResult | None
    """The first of `trials`; None if all trials diverged."""

    def in_words(self) -> str:
        """Return the best trial as one line."""
        if self.best is None:
            return f"all {len(self.trials)} trials diverged"
        best, diverged = self.best, sum(trial.diverged for trial in self.trials)
        return (
            f"best test accuracy {best.test_accuracy:.2%} at {short(best.step_size)}, batch size "
            f"{best.batch_size}, reg {short(best.reg)}; {diverged} of {len(self.trials)} diverged"
        )


class GridInputs(NamedTuple):
    """The inputs of a grid in addition to its parameters. The journal has been checked."""

    trials: list[Trial]


GridRecord = FinishedRecord[TrainingGrid, GridResult]
GridRun = ActiveRun[TrainingGrid, GridResult, GridInputs]


def trial_result(grid: TrainingGrid, outcome: TrialOutcome) -> TrialResult:
    """Return the outcome of a trial as it is stored in the record."""
    group, member = divmod(outcome.number, len(grid.step_sizes))
    batch_size, reg = grid.groups()[group]
    return TrialResult(
        step_size=grid.step_sizes[member],
        batch_size=batch_size,
        reg=reg,
        status=outcome.status.value,
        steps=outcome.steps,
        loss=outcome.loss,
        test_loss=outcome.test_loss,
        train_accuracy=outcome.train_accuracy,
        test_accuracy=outcome.test_accuracy,
        weights_sha256=weights_sha256(outcome.W),
    )


@task("save results")
def save_results(run: GridRun, outcomes: Mapping[int, TrialOutcome]) -> GridResult:
    """Write the trials, their curves and the best weights, and return the grid's result.

    Also publishes them as Prefect artifacts. `outcomes` maps each trial's number to its outcome.
    """
    grid, directory = run.parameters, run.directory
    ranked = sorted(
        outcomes.values(), key=lambda each: (each.diverged, -each.test_accuracy, each.number)
    )
    trials = tuple(trial_result(grid, outcome) for outcome in ranked)
    best = None if trials[0].diverged else trials[0]
    if best:
        directory.write_weights(ranked[0].W)
    rows = plain(trials)
    directory.write_table("trials.csv", rows)
    panels, columns = _panels(grid, outcomes), len(grid.regs)
    header = f"{run.id}\n{grid.steps:,} steps per trial"

    def draw(path: Path) -> None:
        from flows.grid.figures import draw_loss_curves

        draw_loss_curves(path, panels, columns=columns, title=header)

    picture = run.draw("curves.png", draw)
    publish, series = run.report.publish, run.series
    best_first = run.describe("Trials by test accuracy")
    publish(artifacts.table, f"{series}: trials", rows[:_ROWS_SHOWN], best_first)
    publish(artifacts.picture, f"{series}: loss", picture, run.describe("Loss curves"))
    return GridResult(trials=trials, best=best)


def _panels(grid: TrainingGrid, outcomes: Mapping[int, TrialOutcome]) -> dict[str, list[Curve]]:
    """Return the loss curves of each group, keyed by the title of its panel."""
    return {
        f"{_batches(batch_size)}, reg {reg:g}": [
            Curve(
                f"{step_size:g}",
                outcomes[number].losses,
                1 if batch_size == "all" else _WINDOW,
                outcomes[number].diverged,
            )
            for step_size, number in zip(grid.step_sizes, grid.members(group), strict=True)
        ]
        for group, (batch_size, reg) in enumerate(grid.groups())
    }


def _batches(batch_size: int | str) -> str:
    return "all images" if batch_size == "all" else f"batches of {batch_size}"
