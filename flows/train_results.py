"""What a training run leaves: the numbers of its record, its weights, its curve and pictures."""

from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows import artifacts
from flows.figures import draw_loss_curve, draw_passes
from flows.lifecycle import Plan
from flows.record import Run, weights_sha256
from kernels.partial import Evaluation
from pipeline.descent import DescentState, Status
from pipeline.parameters import Method, TrainingParameters
from pipeline.quasi_newton import Minimised

TrainingPlan = Plan[TrainingParameters]


@dataclass(frozen=True, eq=False)
class Trained:
    """Where a run's steps led, and how long they took."""

    state: DescentState
    steps_taken: int
    """Steps that were taken now, and not before the run was gone on with."""
    timings: dict[str, float]
    minimised: Minimised | None = None
    """What else is known of a run by passes."""


def results(
    plan: TrainingPlan, trained: Trained, train_part: Evaluation, test_part: Evaluation
) -> dict[str, Any]:
    """Return what the record says of a run, given its weights' evaluations on both splits."""
    state, seconds, minimised = trained.state, trained.timings["training"], trained.minimised
    found = {
        "steps": state.step,
        "loss": train_part.loss,
        "test_loss": test_part.loss,
        "train_accuracy": train_part.accuracy,
        "test_accuracy": test_part.accuracy,
        "weights_sha256": weights_sha256(state.W),
        "steps_per_second": trained.steps_taken / seconds if seconds else 0.0,
    }
    if minimised:
        found["passes"] = len(state.losses)
    if minimised and plan.parameters.method is Method.SMOOTHED:
        loss, bound = train_part.loss, float(minimised.lower_bounds[-1])
        found |= {"lower_bound": bound, "gap": (loss - bound) / loss}
        found["gap_reached"] = minimised.gap_reached
    return found


@task(name="keep results", cache_policy=NO_CACHE)
def keep_task(run: Run, plan: TrainingPlan, trained: Trained, found: dict[str, Any]) -> None:
    """Write weights and loss curve, and show what came of the run."""
    dataset, state = plan.dataset, trained.state
    diverged = ", diverged" if state.status is Status.DIVERGED else ""
    run.write_weights(state.W)
    if trained.minimised:
        _keep_passes(run, plan, trained.minimised, diverged)
    else:
        _keep_steps(run, plan, state, diverged)
    described = f"Run {run.id} on {dataset.name} ({dataset.fingerprint[:12]})"
    shown = ("steps", "passes", "loss", "lower_bound", "gap", "train_accuracy", "test_accuracy",
             "steps_per_second")  # fmt: skip
    rows = {"status": str(state.status)} | {name: found[name] for name in shown if name in found}
    artifacts.table("training", {"result": list(rows), "value": list(rows.values())}, described)
    artifacts.picture("loss", run.path / "loss.png", f"{described}: loss{diverged}")


def _keep_steps(run: Run, plan: TrainingPlan, state: DescentState, diverged: str) -> None:
    """Write the loss before each step."""
    parameters = plan.parameters
    run.write_losses(state.losses)
    draw_loss_curve(
        run.path / "loss.png",
        state.losses,
        title=f"{run.id}: {parameters.method}, step size {parameters.step_size}{diverged}",
        window=1 if parameters.method is Method.GD else 50,
    )


def _keep_passes(run: Run, plan: TrainingPlan, minimised: Minimised, diverged: str) -> None:
    """Write the loss of each pass, and the best lower bound after it where there is one."""
    parameters, losses = plan.parameters, minimised.state.losses
    columns: dict[str, Any] = {"pass": range(len(losses)), "loss": losses}
    if parameters.method is Method.SMOOTHED:
        columns["lower_bound"] = minimised.lower_bounds
    run.write_table("loss.csv", columns)
    draw_passes(
        run.path / "loss.png",
        losses,
        minimised.lower_bounds,
        title=f"{run.id}: {parameters.method}, reg {parameters.reg:g}{diverged}",
    )
