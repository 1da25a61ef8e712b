"""What a training run needs beside its parameters, checked before anything is started."""

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
    """What a run by steps needs."""

    parameters: StepParameters
    start: DescentState
    """Before the first step, or at the last checkpoint."""
    total_steps: int
    checkpoint_every: int
    """0 for no checkpoints."""


class PassInputs(NamedTuple):
    """What a run by passes needs; its journal has been checked."""

    parameters: PassParameters


TrainInputs = StepInputs | PassInputs


def prepare_training(
    request: RunRequest[TrainingParameters], checkpoint_every: CheckpointEvery = "auto"
) -> TrainInputs:
    """Return what the run needs to start, or to resume.

    Raises PipelineError for a batch larger than the data, a damaged checkpoint or journal, one of
    another run, and for checkpoints of a method that has none.
    """
    parameters = request.parameters
    if isinstance(parameters, StepParameters):
        rows = request.dataset.rows("train")
        parameters.batches(rows)  # refuses a batch larger than that
        return StepInputs(
            parameters,
            state_reached(request, parameters),
            parameters.total_steps(rows),
            parameters.CHECKPOINT_EVERY if checkpoint_every == "auto" else checkpoint_every,
        )
    if checkpoint_every != "auto":
        raise PipelineError(
            f"{parameters.method} keeps every pass and takes no checkpoints; leave "
            "--checkpoint-every out"
        )
    check_journal(request, parameters)
    return PassInputs(parameters)


def state_reached(
    request: RunRequest[TrainingParameters], parameters: StepParameters
) -> DescentState:
    """Return the state at the run's last checkpoint, or before the first step.

    Raises PipelineError if the checkpoint is damaged, or of another run.
    """
    start, directory = parameters.start(len(request.dataset.classes)), request.directory
    if directory is None or not directory.checkpoint.exists():
        return start
    state = checkpoints.load(directory.checkpoint, parameters.optimiser())
    if state.W.shape != start.W.shape:
        raise PipelineError(
            f"{directory.checkpoint} is no checkpoint of this run (weights of shape "
            f"{state.W.shape}, not {start.W.shape}); start the run anew"
        )
    return state


def check_journal(request: RunRequest[TrainingParameters], parameters: PassParameters) -> None:
    """Read the journal of a run to resume.

    Raises PipelineError if it is damaged, of another run, or of an earlier version.
    """
    if request.directory is None or not request.directory.passes.exists():
        return
    refuse_old_journal(request.earlier, request.directory.passes)
    with Journal(request.directory.passes) as journal:
        for _ in entries(journal, identity(request.dataset, parameters)):
            pass
