"""The flow `train`: one training run, from the store to weights, loss curve and record."""

import time
from collections.abc import Iterator
from typing import Any

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE

from flows.runs.evaluation import evaluate_weights
from flows.runs.flow_parameters import Count, Name
from flows.runs.flow_run_names import flow_run_name
from flows.runs.lifecycle import Plan, RunKind
from flows.services.guarded_flow import flow
from flows.services.session import Session
from flows.train.inputs import CheckpointEvery, StepInputs, TrainInputs, prepare_training
from flows.train.passes import minimise_in_passes
from flows.train.results import (
    Trained,
    TrainRecord,
    TrainResult,
    TrainRun,
    result_of,
    save_results,
)
from kernels.partial import Evaluation
from pipeline.training import checkpoints
from pipeline.training.descent import DescentState
from pipeline.training.parameters import (
    GradientDescent,
    SmoothedHinge,
    StepParameters,
    StepPlacement,
    TrainingParameters,
)
from pipeline.training.steps import prepare_steps, resolve_placement, train
from storage.schema import SPLITS


def describe_placement(
    plan: Plan[TrainingParameters, TrainResult, TrainInputs], session: Session
) -> dict[str, Any]:
    """Return who takes the steps, or the passes, for the record."""
    placement, rows = StepPlacement.ALL_WORKERS, plan.dataset.rows("train")
    if isinstance(plan.parameters, StepParameters):
        placement = resolve_placement(plan.parameters, rows, session.client)
    return {"placement": placement.value}


TRAIN = RunKind(
    "train",
    TrainingParameters,  # type: ignore[arg-type]  # a union of classes
    TrainResult,
    prepare_training,
    statuses=("done", "converged", "diverged"),
    describe_cluster=describe_placement,
)


@flow(
    name="train",
    description="One training run, from the store to weights, loss curve and record.",
    flow_run_name=lambda: flow_run_name(runtime.flow_run.parameters["parameters"].method),
)
def train_flow(
    store: str,
    parameters: TrainingParameters = GradientDescent(),
    resume: Name = "",
    runs: str = "runs",
    checkpoint_every: CheckpointEvery = "auto",
    workers: Count = 0,
    scheduler: Name = "",
) -> TrainRecord:
    """Train, or resume an interrupted training run.

    Args:
        store: The Zarr store, a path or a URL.
        parameters: The method, and everything else that decides the result.
        resume: The run to resume, its name or its directory; empty for a new run.
        runs: The directory that runs are kept in.
        checkpoint_every: Steps between checkpoints; 0 for none, `auto` for the method's default.
        workers: Worker processes on this machine; 0 for one per core.
        scheduler: The address of a Dask scheduler; empty to start workers on this machine.

    Returns:
        The run's record.

    Raises:
        DataError: There is no such store, or it is damaged.
        PipelineError: The run cannot be done.
    """
    return TRAIN.run(
        _train,
        store,
        parameters,
        resume,
        runs,
        workers,
        scheduler,
        checkpoint_every=checkpoint_every,
    )


def _train(session: Session, run: TrainRun) -> TrainRecord:
    inputs = run.plan.inputs
    if isinstance(inputs, StepInputs):
        trained = take_all_steps(session, run, inputs)
    else:
        trained = minimise_in_passes(session, run, inputs.parameters)
    on_train, on_test = _evaluations(session, run, trained.state)
    result = result_of(run.parameters, trained, on_train, on_test)
    save_results(run, trained, result)
    record = run.finish(result, trained.timings, trained.state.status.value)
    run.directory.passes.unlink(missing_ok=True)  # half a megabyte per pass
    return record


@task(name="train", cache_policy=NO_CACHE)
def take_all_steps(session: Session, run: TrainRun, inputs: StepInputs) -> Trained:
    """Take all steps of a run by steps."""
    clock = time.perf_counter()
    with (
        session.console.progress("train", inputs.total_steps) as advance,
        prepare_steps(
            session.placed(run.dataset),
            inputs.parameters,
            lambda step, loss: advance(step, f"loss {loss:.4f}"),
        ) as take_steps,
    ):
        loaded = time.perf_counter()
        state = train(
            take_steps,
            inputs.start,
            inputs.total_steps,
            checkpoint_every=inputs.checkpoint_every,
            checkpoint=lambda reached: checkpoints.save(run.directory.checkpoint, reached),
        )
    timings = {"loading": loaded - clock, "training": time.perf_counter() - loaded}
    return Trained(state, state.step - inputs.start.step, timings)


def _evaluations(session: Session, run: TrainRun, state: DescentState) -> Iterator[Evaluation]:
    """Evaluate the final weights on both splits.

    The scores are float64 if the loss is compared with a lower bound.
    """
    parameters = run.parameters
    dtype = "float64" if isinstance(parameters, SmoothedHinge) else parameters.dtype
    for split in SPLITS:
        yield evaluate_weights(
            session,
            run.dataset,
            state.W,
            split,
            reg=parameters.reg,
            reg_bias=parameters.reg_bias,
            dtype=dtype,
        )
