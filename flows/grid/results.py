"""What a grid leaves: its result, a table of the trials, their curves and the best weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.grid.figures import Curve, draw_loss_curves
from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, Loss, plain
from flows.runs.weights import weights_sha256
from pipeline.training.grid import TrainingGrid, Trial, TrialOutcome

_WINDOW = 50
"""Mini-batches whose losses are averaged in a curve."""

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
    """By test accuracy, the best first; trials that diverged come last."""
    best: TrialResult | None
    """None if all trials diverged."""


class GridInputs(NamedTuple):
    """What a grid needs beside its parameters; its journal has been checked."""

    trials: list[Trial]


GridRecord = FinishedRecord[TrainingGrid, GridResult]
GridRun = ActiveRun[TrainingGrid, GridResult, GridInputs]


def trial_result(grid: TrainingGrid, outcome: TrialOutcome) -> TrialResult:
    """Return the outcome of a trial as the record holds it."""
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


@task(name="save results", cache_policy=NO_CACHE)
def save_results(run: GridRun, outcomes: Mapping[int, TrialOutcome]) -> GridResult:
    """Write the trials, their curves and the best weights, show them in Prefect, return the result.

    `outcomes` are the outcomes of all trials by number.
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
    draw_loss_curves(
        directory.path / "curves.png",
        _panels(grid, outcomes),
        columns=len(grid.regs),
        title=f"{run.id}\n{grid.steps:,} steps of every size",
    )
    artifacts.table("grid: trials", rows[:_ROWS_SHOWN], f"{run.title}: trials by test accuracy")
    picture = directory.path / "curves.png"
    artifacts.picture("grid: loss", picture, f"{run.title}: loss curves")
    return GridResult(trials=trials, best=best)


def _panels(grid: TrainingGrid, outcomes: Mapping[int, TrialOutcome]) -> dict[str, list[Curve]]:
    """Return the loss curves of each group under the group's title."""
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
