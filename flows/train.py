"""The flow `train`: one training run, from the store to weights, loss curve and record."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE

from flows.defaults import CHECKPOINT_EVERY, STEPS
from flows.evaluate import evaluate_task
from flows.guarded_flow import flow
from flows.lifecycle import Kind, flow_run_name
from flows.minimise import check_journal, journal_path, minimise_task
from flows.record import Run
from flows.session import Session, flow_session
from flows.train_results import Trained, TrainingPlan, keep_task, results
from kernels.partial import Evaluation
from pipeline import checkpoints
from pipeline.descent import DescentState, Status
from pipeline.errors import PipelineError
from pipeline.parameters import Method, TrainingParameters
from pipeline.training import prepare, resolve, train
from storage.schema import SPLITS

TRAIN = Kind("train", TrainingParameters, ends=(Status.DONE, Status.CONVERGED, Status.DIVERGED))


def plan_training(
    store: str,
    runs: Path,
    parameters: TrainingParameters,
    resume: str | None = None,
    checkpoint_every: int | None = None,
) -> TrainingPlan:
    """Plan to train on the store at `store`, or to go on with the run `resume` of `runs`.

    Raises DataError or PipelineError for what cannot be trained on (see `Kind.plan`), a batch
    larger than the data and a damaged checkpoint or journal too.
    """
    plan = TRAIN.plan(store, runs, parameters, resume)
    method = plan.parameters.method
    if checkpoint_every is not None and not method.by_steps:
        raise PipelineError(f"{method} keeps every pass; leave the steps between checkpoints out")
    if method.by_steps:
        plan.parameters.recipe(plan.dataset.rows("train"))
    if not plan.finished:
        check = reached if method.by_steps else check_journal
        check(plan)
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
    parameters = runtime.flow_run.parameters["parameters"]
    return flow_run_name(parameters.method if parameters else Method.GD)


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
    plan = plan_training(store, Path(runs), parameters, resume, checkpoint_every)
    if plan.finished:
        return plan.finished
    with (
        flow_session(workers=workers, scheduler=scheduler) as session,
        plan.begun(session, _placement(plan, session)) as begun,
    ):
        if plan.parameters.method.by_steps:
            trained = descend_task(session, plan, begun.run, reached(plan), checkpoint_every)
        else:
            trained = minimise_task(session, plan, begun.run)
        found = results(plan, trained, *_evaluated(session, plan, trained.state))
        keep_task(begun.run, plan, trained, found)
        record = begun.ended(trained.state.status, found, trained.timings)
        journal_path(begun.run).unlink(missing_ok=True)
        return record


@task(name="train", cache_policy=NO_CACHE)
def descend_task(
    session: Session,
    plan: TrainingPlan,
    run: Run,
    state: DescentState,
    checkpoint_every: int | None,
) -> Trained:
    """Take all steps from `state`; return where they led."""
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
        end = train(
            stretch,
            state,
            steps,
            checkpoint_every=checkpoint_every,
            checkpoint=lambda reached: checkpoints.save(run.checkpoint, reached),
        )
    timings = {"loading": loaded - clock, "training": time.perf_counter() - loaded}
    return Trained(end, end.step - state.step, timings)


def _evaluated(session: Session, plan: TrainingPlan, state: DescentState) -> Iterator[Evaluation]:
    """Evaluate the weights on both splits; in float64 where a lower bound is held against it."""
    parameters = plan.parameters
    dtype = "float64" if parameters.method is Method.SMOOTHED else parameters.dtype
    for split in SPLITS:
        yield evaluate_task(
            session,
            plan.dataset,
            state.W,
            split,
            reg=parameters.reg,
            reg_bias=parameters.reg_bias,
            dtype=dtype,
        )


def _placement(plan: TrainingPlan, session: Session) -> dict[str, Any]:
    """Return who takes the steps, as the record says it."""
    parameters, rows = plan.parameters, plan.dataset.rows("train")
    return {"placement": resolve(parameters.placement, parameters.method, rows, session.client)}
