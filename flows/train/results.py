"""What a training run leaves: its result, weights, loss curve and picture."""

from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, Loss, OptionalNumber, plain
from flows.runs.weights import weights_sha256
from flows.train.figures import draw_loss_curve, draw_passes
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


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a training run. Losses include the regulariser."""

    steps: int
    """Of `lbfgs` iterations, of `smoothed` passes."""
    loss: Loss
    """The loss of the final weights over all training images."""
    test_loss: Loss
    train_accuracy: float
    test_accuracy: float
    weights_sha256: str
    steps_per_second: float
    passes: int | None = None
    """Passes over the images, of `lbfgs` and `smoothed`."""
    lower_bound: OptionalNumber = None
    """No weights have a lower loss than this (`smoothed`)."""
    gap: OptionalNumber = None
    """How far the loss may be above the best possible, as a part of it (`smoothed`)."""
    gap_reached: bool | None = None
    """Whether `gap` is as small as was asked for (`smoothed`)."""


TrainRecord = FinishedRecord[TrainingParameters, TrainResult]
TrainRun = ActiveRun[TrainingParameters, TrainResult, TrainInputs]


@dataclass(frozen=True, eq=False)
class Trained:
    """The end of a run, and how long it took."""

    state: DescentState
    steps_taken: int
    """Steps taken since the run was started or resumed."""
    timings: dict[str, float]
    minimised: Minimised | None = None
    """What else is known of a run by passes."""

    @property
    def diverged(self) -> str:
        """What a title adds if the run diverged."""
        return ", diverged" if self.state.status is Status.DIVERGED else ""


def result_of(
    parameters: TrainingParameters, trained: Trained, on_train: Evaluation, on_test: Evaluation
) -> TrainResult:
    """Return the result, given the evaluations of the final weights on both splits."""
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
    """Return the fields that only a run by passes has."""
    if minimised is None:
        return {}
    passes = {"passes": len(minimised.state.losses)}
    if not isinstance(parameters, SmoothedHinge):
        return passes
    bound = float(minimised.lower_bounds[-1])
    gap = (loss - bound) / loss
    return {**passes, "lower_bound": bound, "gap": gap, "gap_reached": minimised.gap_reached}


@task(name="save results", cache_policy=NO_CACHE)
def save_results(run: TrainRun, trained: Trained, result: TrainResult) -> None:
    """Write the weights, the loss curve and its picture, and show them in Prefect."""
    run.directory.write_weights(trained.state.W)
    if isinstance(run.parameters, StepParameters):
        _save_steps(run, trained, run.parameters)
    elif trained.minimised:
        _save_passes(run, trained, trained.minimised)
    shown = {"status": trained.state.status.value} | plain(result)
    for name in ("test_loss", "weights_sha256", "gap_reached"):
        shown.pop(name, None)
    artifacts.summary("training", shown, run.title)
    picture = run.directory.path / "loss.png"
    artifacts.picture("loss", picture, f"{run.title}: loss{trained.diverged}")


def _save_steps(run: TrainRun, trained: Trained, parameters: StepParameters) -> None:
    """Write the loss before each step, and draw it."""
    losses = trained.state.losses
    run.directory.write_losses(losses)
    draw_loss_curve(
        run.directory.path / "loss.png",
        losses,
        title=f"{run.id}: {parameters.method}, step size {parameters.step_size}{trained.diverged}",
        window=1 if isinstance(parameters, GradientDescent) else 50,
    )


def _save_passes(run: TrainRun, trained: Trained, minimised: Minimised) -> None:
    """Write the loss of each pass, and the best lower bound after it if there is one; draw them."""
    parameters, losses = run.parameters, minimised.state.losses
    columns: dict[str, Any] = {"pass": range(len(losses)), "loss": losses}
    if isinstance(parameters, SmoothedHinge):
        columns["lower_bound"] = minimised.lower_bounds
    run.directory.write_table("loss.csv", columns)
    draw_passes(
        run.directory.path / "loss.png",
        losses,
        minimised.lower_bounds,
        title=f"{run.id}: {parameters.method}, reg {parameters.reg:g}{trained.diverged}",
    )
