"""The flow `train`: one training run, from the store to the weights, loss curve and record."""

import time
from collections.abc import Iterator
from typing import Any

from flows.runs.evaluation import evaluate_weights
from flows.runs.flow_parameters import Count, Name
from flows.runs.lifecycle import Plan, RunKind
from flows.services.guarded_flow import flow
from flows.services.session import Session
from flows.services.tasks import task
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
    MiniBatches,
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
    """Return the placement of the steps or passes, for the record."""
    placement, rows = StepPlacement.ALL_WORKERS, plan.dataset.rows("train")
    if isinstance(plan.parameters, StepParameters):
        placement = resolve_placement(plan.parameters, rows, session.client)
    return {"placement": placement.value}


def uses_all_shards(parameters: TrainingParameters) -> bool:
    """Return whether training starts with the images distributed over all workers."""
    if not isinstance(parameters, StepParameters):
        return True
    if parameters.placement is StepPlacement.AUTO:
        return not isinstance(parameters, MiniBatches)
    return parameters.placement is StepPlacement.ALL_WORKERS


TRAIN = RunKind(
    "train",
    TrainingParameters,  # type: ignore[arg-type]  # a union of classes
    TrainResult,
    prepare_training,
    statuses=("done", "converged", "diverged"),
    describe_cluster=describe_placement,
    uses_all_shards=uses_all_shards,
)


@flow(
    name="train",
    description="Train the SVM on the images of a store and evaluate it.",
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
        store: The path or URL of the Zarr store.
        parameters: The method and its parameters.
        resume: The name or directory of the run to resume; empty for a new run.
        runs: The directory that contains the runs.
        checkpoint_every: Steps between checkpoints; 0 for none, `auto` for the method's default.
        workers: The number of worker processes to start; 0 for those of the workbench, or else one
            with a thread per core.
        scheduler: The address of a Dask scheduler; empty for that of the workbench, or else for
            workers on this machine.

    Returns:
        The run's record.

    Raises:
        DataError: The store does not exist, or is damaged.
        PipelineError: The run cannot be started with these parameters.
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


@task("train")
def take_all_steps(session: Session, run: TrainRun, inputs: StepInputs) -> Trained:
    """Take all remaining steps of a run of gradient descent or mini-batches."""
    clock = time.perf_counter()
    with (
        run.report.progress("train", inputs.total_steps, done=inputs.start.step) as advance,
        prepare_steps(
            session.placed(run.dataset),
            inputs.parameters,
            lambda step, loss: advance(step, loss=loss),
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
    """Yield the evaluations of the final weights on both splits.

    The scores are float64 if the loss will be compared with a lower bound.
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
