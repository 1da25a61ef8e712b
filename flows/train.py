"""The flow `train`: one training run, from the store to weights, loss curve and record."""

import time
from pathlib import Path
from typing import Any

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE

from flows import artifacts
from flows.defaults import CHECKPOINT_EVERY, STEPS
from flows.evaluate import evaluate_task
from flows.figures import draw_loss_curve
from flows.lifecycle import Kind, Plan, data_name
from flows.record import Run, weights_sha256
from flows.session import Session, flow_session
from kernels.partial import Evaluation
from pipeline import checkpoints
from pipeline.descent import DescentState, Status
from pipeline.errors import PipelineError
from pipeline.parameters import Method, TrainingParameters
from pipeline.training import prepare, resolve, train
from storage.schema import SPLITS

TrainingPlan = Plan[TrainingParameters]

TRAIN = Kind("train", TrainingParameters, ends=(Status.DONE, Status.CONVERGED, Status.DIVERGED))


def plan_training(
    store: str, runs: Path, parameters: TrainingParameters, resume: str | None = None
) -> TrainingPlan:
    """Plan to train on the store at `store`, or to go on with the run `resume` of `runs`.

    Raises DataError or PipelineError for what cannot be trained on (see `Kind.plan`), a batch
    larger than the data and a damaged checkpoint too.
    """
    plan = TRAIN.plan(store, runs, parameters, resume)
    plan.parameters.recipe(plan.dataset.rows("train"))
    if not plan.finished:
        reached(plan)
    return plan


def reached(plan: TrainingPlan) -> DescentState:
    """Return where a run stands: at its last checkpoint, if it has one.

    Raises PipelineError if that is damaged, or of another run.
    """
    start = plan.parameters.start(len(plan.dataset.classes))
    if not (plan.run and plan.run.checkpoint.exists()):
        return start
    state = checkpoints.load(plan.run.checkpoint, plan.parameters.optimiser())
    if state.W.shape != start.W.shape:
        raise PipelineError(
            f"{plan.run.checkpoint} is no checkpoint of this run (weights of shape "
            f"{state.W.shape}, not {start.W.shape}); start the run anew"
        )
    return state


def _flow_run_name() -> str:
    """Name a flow run by its method and its data, or by the run that it goes on with."""
    given = runtime.flow_run.parameters
    if given["resume"] is not None:
        return f"{Path(given['resume']).name}, resumed"
    method = given["parameters"].method if given["parameters"] else Method.GD
    return f"{method} on {data_name(given['store'])}"


@flow(name="train", description=__doc__, flow_run_name=_flow_run_name)
def train_flow(
    store: str,
    parameters: TrainingParameters | None = None,
    resume: str | None = None,
    runs: str = "runs",
    checkpoint_every: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Train on the store at `store` with `parameters`, or go on with the run `resume` of `runs`.

    A checkpoint is written every `checkpoint_every` steps (0: never). Returns the run's
    record. Raises DataError or PipelineError for what cannot be trained on.
    """
    parameters = parameters or TrainingParameters(steps=STEPS[Method.GD])
    plan = plan_training(store, Path(runs), parameters, resume)
    if plan.finished:
        return plan.finished
    start = reached(plan)
    with (
        flow_session(workers=workers, scheduler=scheduler) as session,
        plan.begun(session, _placement(plan, session)) as begun,
    ):
        state, timings = descend_task(session, plan, begun.run, start, checkpoint_every)
        train_part, test_part = (
            evaluate_task(
                session,
                plan.dataset,
                state.W,
                split,
                reg=plan.parameters.reg,
                reg_bias=plan.parameters.reg_bias,
                dtype=plan.parameters.dtype,
            )
            for split in SPLITS
        )
        rate = (state.step - start.step) / timings["training"] if timings["training"] else 0.0
        results = _results(state, train_part, test_part) | {"steps_per_second": rate}
        keep_task(begun.run, plan, state, results)
        return begun.ended(state.status, results, timings)


@task(name="train", cache_policy=NO_CACHE)
def descend_task(
    session: Session,
    plan: TrainingPlan,
    run: Run,
    state: DescentState,
    checkpoint_every: int | None,
) -> tuple[DescentState, dict[str, float]]:
    """Take all steps; return where they led and how long loading and stepping took."""
    if checkpoint_every is None:
        checkpoint_every = CHECKPOINT_EVERY[plan.parameters.method]
    steps = plan.parameters.total_steps(plan.dataset.rows("train"))
    clock = time.perf_counter()
    with (
        session.console.progress("train", steps) as advance,
        prepare(
            session.placements(plan.dataset),
            plan.parameters,
            lambda step, loss: advance(step, f"loss {loss:.4f}"),
        ) as stretch,
    ):
        loaded = time.perf_counter()
        state = train(
            stretch,
            state,
            steps,
            checkpoint_every=checkpoint_every,
            checkpoint=lambda reached: checkpoints.save(run.checkpoint, reached),
        )
    return state, {"loading": loaded - clock, "training": time.perf_counter() - loaded}


@task(name="keep results", cache_policy=NO_CACHE)
def keep_task(run: Run, plan: TrainingPlan, state: DescentState, results: dict[str, Any]) -> None:
    """Write weights and loss curve, and show what came of the run."""
    parameters, dataset = plan.parameters, plan.dataset
    diverged = ", diverged" if state.status is Status.DIVERGED else ""
    run.write_weights(state.W)
    run.write_losses(state.losses)
    draw_loss_curve(
        run.path / "loss.png",
        state.losses,
        title=f"{run.id}: {parameters.method}, step size {parameters.step_size}{diverged}",
        window=1 if parameters.method is Method.GD else 50,
    )
    described = f"Run {run.id} on {dataset.name} ({dataset.fingerprint[:12]})"
    shown = ("steps", "loss", "train_accuracy", "test_accuracy", "steps_per_second")
    rows = {"status": str(state.status)} | {name: results[name] for name in shown}
    artifacts.table("training", {"result": list(rows), "value": list(rows.values())}, described)
    artifacts.picture("loss", run.path / "loss.png", f"{described}: loss{diverged}")


def _placement(plan: TrainingPlan, session: Session) -> dict[str, Any]:
    """Return who takes the steps, as the record says it."""
    parameters, rows = plan.parameters, plan.dataset.rows("train")
    return {"placement": resolve(parameters.placement, parameters.method, rows, session.client)}


def _results(state: DescentState, train_part: Evaluation, test_part: Evaluation) -> dict[str, Any]:
    return {
        "steps": state.step,
        "loss": train_part.loss,
        "test_loss": test_part.loss,
        "train_accuracy": train_part.accuracy,
        "test_accuracy": test_part.accuracy,
        "weights_sha256": weights_sha256(state.W),
    }
