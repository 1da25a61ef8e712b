"""Inputs of a training run in addition to its parameters, checked before anything is started."""

from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from flows.runs.lifecycle import RunRequest
from flows.runs.old_records import refuse_old_journal
from pipeline.inputs.errors import PipelineError
from pipeline.journals.journal import Journal
from pipeline.training import checkpoints
from pipeline.training.descent import DescentState
from pipeline.training.parameters import PassParameters, StepParameters, TrainingParameters
from pipeline.training.quasi_newton import identity
from pipeline.training.replay import entries

CheckpointEvery = Annotated[
    Annotated[int, Field(ge=0)] | Literal["auto"],
    BeforeValidator(lambda value: "auto" if value is None else value),
]
"""Steps between checkpoints; 0 for none, `auto` for the method's default."""


class StepInputs(NamedTuple):
    """Inputs of a run of gradient descent or mini-batches."""

    parameters: StepParameters
    start: DescentState
    """The state before the first step, or at the last checkpoint."""
    total_steps: int
    checkpoint_every: int
    """The number of steps between checkpoints; 0 for no checkpoints."""


class PassInputs(NamedTuple):
    """Inputs of a run of `lbfgs` or `smoothed`. The journal has been checked."""

    parameters: PassParameters


TrainInputs = StepInputs | PassInputs


def prepare_training(
    request: RunRequest[TrainingParameters], checkpoint_every: CheckpointEvery = "auto"
) -> TrainInputs:
    """Return what the run needs to start or to resume.

    Raises PipelineError if a batch is larger than the training split, if the checkpoint or journal
    is damaged or belongs to another run, or if `checkpoint_every` is given and the method writes no
    checkpoints.
    """
    parameters = request.parameters
    if isinstance(parameters, StepParameters):
        rows = request.dataset.rows("train")
        parameters.batches(rows)  # raises PipelineError if a batch is larger than the split
        return StepInputs(
            parameters,
            state_reached(request, parameters),
            parameters.total_steps(rows),
            parameters.CHECKPOINT_EVERY if checkpoint_every == "auto" else checkpoint_every,
        )
    if checkpoint_every != "auto":
        raise PipelineError(
            f"{parameters.method} records every pass and writes no checkpoints; omit "
            "--checkpoint-every"
        )
    check_journal(request, parameters)
    return PassInputs(parameters)


def state_reached(
    request: RunRequest[TrainingParameters], parameters: StepParameters
) -> DescentState:
    """Return the state at the run's last checkpoint, or before the first step.

    Raises PipelineError if the checkpoint is damaged or belongs to another run.
    """
    start, directory = parameters.start(len(request.dataset.classes)), request.directory
    if directory is None or not directory.checkpoint.exists():
        return start
    state = checkpoints.load(directory.checkpoint, parameters.optimiser())
    if state.W.shape != start.W.shape:
        raise PipelineError(
            f"{directory.checkpoint} is not a checkpoint of this run (its weights have shape "
            f"{state.W.shape}, expected {start.W.shape}); start a new run"
        )
    return state


def check_journal(request: RunRequest[TrainingParameters], parameters: PassParameters) -> None:
    """Raise PipelineError if the journal of a run to resume cannot be used.

    It may be damaged, belong to another run, or have been written by an earlier version.
    """
    if request.directory is None or not request.directory.passes.exists():
        return
    refuse_old_journal(request.earlier, request.directory.passes)
    with Journal(request.directory.passes) as journal:
        for _ in entries(journal, identity(request.dataset, parameters)):
            pass
