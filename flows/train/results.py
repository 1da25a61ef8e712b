"""Results of a training run: its record, the weights, the loss curve and its figure."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, Loss, OptionalNumber, plain
from flows.runs.weights import weights_sha256
from flows.services.tasks import task
from flows.train.inputs import TrainInputs
from kernels.partial import Evaluation
from pipeline.training.descent import DescentState, Status
from pipeline.training.parameters import (
    GradientDescent,
    SmoothedHinge,
    StepParameters,
    TrainingParameters,
)
from pipeline.training.quasi_newton import Minimised

PICTURE = "loss.png"
"""The figure's file."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a training run. Losses include the regulariser."""

    steps: int
    """The number of steps, of iterations (`lbfgs`) or of passes (`smoothed`)."""
    loss: Loss
    """The loss of the final weights over all training images."""
    test_loss: Loss
    train_accuracy: float
    test_accuracy: float
    weights_sha256: str
    steps_per_second: float
    passes: int | None = None
    """The number of passes over the images (`lbfgs` and `smoothed` only)."""
    lower_bound: OptionalNumber = None
    """A lower bound on the loss of any weights (`smoothed` only)."""
    gap: OptionalNumber = None
    """`(loss - lower_bound) / loss` (`smoothed` only)."""
    gap_reached: bool | None = None
    """Whether the requested gap was reached (`smoothed` only)."""

    def in_words(self) -> str:
        """Return the final loss and accuracy as one line."""
        words = f"loss {self.loss:.4f} after {self.steps:,} steps"
        if self.gap is not None and math.isfinite(self.gap):
            words += f", at most {self.gap:.3%} above the lowest possible"
        return f"{words}; test accuracy {self.test_accuracy:.2%}"


TrainRecord = FinishedRecord[TrainingParameters, TrainResult]
TrainRun = ActiveRun[TrainingParameters, TrainResult, TrainInputs]


@dataclass(frozen=True, eq=False)
class Trained:
    """The final state of a run, and its timings."""

    state: DescentState
    steps_taken: int
    """The number of steps since the run was started or last resumed."""
    timings: dict[str, float]
    minimised: Minimised | None = None
    """The further results of `lbfgs` or `smoothed`; None for the other methods."""

    @property
    def diverged(self) -> str:
        """The text that ends a title: ", diverged" if the run diverged, otherwise empty."""
        return ", diverged" if self.state.status is Status.DIVERGED else ""


def result_of(
    parameters: TrainingParameters, trained: Trained, on_train: Evaluation, on_test: Evaluation
) -> TrainResult:
    """Return the result of a run, given the evaluations of the final weights on both splits."""
    state, seconds = trained.state, trained.timings["training"]
    return TrainResult(
        steps=state.step,
        loss=on_train.loss,
        test_loss=on_test.loss,
        train_accuracy=on_train.accuracy,
        test_accuracy=on_test.accuracy,
        weights_sha256=weights_sha256(state.W),
        steps_per_second=trained.steps_taken / seconds if seconds else 0.0,
        **_pass_results(parameters, trained.minimised, on_train.loss),
    )


def _pass_results(
    parameters: TrainingParameters, minimised: Minimised | None, loss: float
) -> dict[str, Any]:
    """Return the fields that only `lbfgs` and `smoothed` have."""
    if minimised is None:
        return {}
    passes = {"passes": len(minimised.state.losses)}
    if not isinstance(parameters, SmoothedHinge):
        return passes
    bound = float(minimised.lower_bounds[-1])
    gap = (loss - bound) / loss
    return {**passes, "lower_bound": bound, "gap": gap, "gap_reached": minimised.gap_reached}


@task("save results")
def save_results(run: TrainRun, trained: Trained, result: TrainResult) -> None:
    """Write the weights, the loss curve and its figure, and create Prefect artifacts."""
    run.directory.write_weights(trained.state.W)
    if isinstance(run.parameters, StepParameters):
        _save_steps(run, trained, run.parameters)
    elif trained.minimised:
        _save_passes(run, trained, trained.minimised)
    shown = {"status": trained.state.status.value} | plain(result)
    for name in ("test_loss", "weights_sha256", "gap_reached"):
        shown.pop(name, None)
    publish, series = run.report.publish, run.series
    publish(artifacts.summary, f"{series}: result", shown, run.describe("Result"))
    picture = run.directory.path / PICTURE
    words = run.describe(f"Loss{trained.diverged}")
    publish(artifacts.picture, f"{series}: loss", picture, words)


def _save_steps(run: TrainRun, trained: Trained, parameters: StepParameters) -> None:
    """Write and draw the loss before each step."""
    losses, window = trained.state.losses, 1 if isinstance(parameters, GradientDescent) else 50
    title = f"{run.id}: {parameters.method}, step size {parameters.step_size}{trained.diverged}"

    def draw(path: Path) -> None:
        from flows.train.figures import draw_loss_curve

        draw_loss_curve(path, losses, title=title, window=window)

    run.draw(PICTURE, draw)
    run.directory.write_losses(losses)


def _save_passes(run: TrainRun, trained: Trained, minimised: Minimised) -> None:
    """Write and draw the loss of each pass and, for `smoothed`, the best lower bound after it."""
    parameters, losses, bounds = run.parameters, minimised.state.losses, minimised.lower_bounds
    title = f"{run.id}: {parameters.method}, reg {parameters.reg:g}{trained.diverged}"

    def draw(path: Path) -> None:
        from flows.train.figures import draw_passes

        draw_passes(path, losses, bounds, title=title)

    run.draw(PICTURE, draw)
    columns: dict[str, Any] = {"pass": range(len(losses)), "loss": losses}
    if isinstance(parameters, SmoothedHinge):
        columns["lower_bound"] = bounds
    run.directory.write_table("loss.csv", columns)
