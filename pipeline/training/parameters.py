"""The parameters of a training run: one class per method, each with what the method takes."""

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, Discriminator, Field

from kernels.updates import Optimiser, Transform, descent, line_search, momentum, scaled
from pipeline.cluster.map_shards import MapShards
from pipeline.inputs.batches import Batches, ShuffledEpochs, UniformSamples, full_batch
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.rules import (
    POSITIVE,
    DType,
    Parameters,
    PositiveNumber,
    RegulariseBias,
    Regulariser,
    Seed,
    Wanted,
)
from pipeline.inputs.weights import InitialWeights
from pipeline.objective import Objective
from pipeline.training.descent import DescentState, Recipe, StopRule
from pipeline.training.schedules import parse_schedule


class Method(StrEnum):
    """How a run gets from the first weights to the last."""

    GD = "gd"
    """Steps along the gradient over all rows."""
    MINIBATCH = "minibatch"
    """Steps along the gradient over a batch of rows."""
    LBFGS = "lbfgs"
    """SciPy's L-BFGS on the hinge, over all rows."""
    SMOOTHED = "smoothed"
    """SciPy's L-BFGS on a smoothed hinge, with a lower bound on the best possible loss."""


class StepPlacement(StrEnum):
    """Who takes the steps. It changes no bit of the result."""

    AUTO = "auto"
    """One worker for mini-batches of a data set that fits one worker, else all workers."""
    ALL_WORKERS = "all-workers"
    ONE_WORKER = "one-worker"


_AT_LEAST_ONE = "at least 1"
_PART = "from 0 to below 1"

Steps = Annotated[
    int | None,
    Field(ge=1, description="Steps to take. Leave it at its default if `epochs` is given."),
    Wanted("steps", _AT_LEAST_ONE),
]
Epochs = Annotated[
    int | None,
    Field(ge=1, description="Passes over the whole data set, instead of `steps`."),
    Wanted("epochs", _AT_LEAST_ONE),
]


@dataclass(frozen=True, kw_only=True)
class _Training(Parameters):
    """What every method takes."""

    # A parameter that the method does not take is an error, also in JSON.
    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    method: Method
    reg: Regulariser = 0.0
    reg_bias: RegulariseBias = False
    init: Annotated[
        str, Field(description="First weights: `zeros`, `normal:SCALE` or `uniform:SCALE`.")
    ] = "zeros"
    seed: Seed = 0
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        InitialWeights.parse(self.init)

    @property
    def identity(self) -> str:
        """The parameters as JSON. A journal says by it which run it belongs to."""
        return json.dumps(asdict(self), sort_keys=True)

    def objective(self, map_shards: MapShards, mean: NDArray[np.float64]) -> Objective:
        """Return the regularised loss over the shards."""
        return Objective(map_shards, mean, self.reg, self.dtype, self.reg_bias)

    def first_weights(self, classes: int) -> NDArray[np.float64]:
        """Return the weights (classes, D + 1) that the run starts from."""
        return InitialWeights.parse(self.init).weights(classes, self.seed)


@dataclass(frozen=True, kw_only=True)
class StepParameters(_Training, ABC):
    """What the methods take that go step by step: gradient descent and mini-batches."""

    STOP_WINDOW: ClassVar[int]
    """How many losses are averaged to judge whether the loss still changes."""
    CHECKPOINT_EVERY: ClassVar[int]
    """Steps between checkpoints if the user does not say: some seconds of work."""

    steps: Steps = None
    epochs: Epochs = None
    step_size: Annotated[
        PositiveNumber | Literal["exact"],
        Field(
            description="What a step multiplies the gradient by. `exact`: to the lowest loss "
            "along the gradient."
        ),
        Wanted("step size", "a positive number or `exact`"),
    ] = 1e-7
    schedule: Annotated[
        str,
        Field(
            description="How the step size falls: constant, cosine:STEPS, inverse:STEPS or "
            "staircase:FACTOR:STEPS."
        ),
    ] = "constant"
    momentum: Annotated[
        float,
        Field(ge=0, lt=1, description="The part of the last step's velocity that is kept."),
        Wanted("momentum", _PART),
    ] = 0.0
    nesterov: Annotated[bool, Field(description="Whether to use Nesterov's momentum.")] = False
    tolerance: Annotated[
        float,
        Field(ge=0, lt=1, description="Stop when the mean loss changes by at most this part."),
        Wanted("tolerance", _PART),
    ] = 0.0
    placement: Annotated[
        StepPlacement, Field(description="Who takes the steps. It changes no bit of the result.")
    ] = StepPlacement.AUTO

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps == type(self).steps:
            object.__setattr__(self, "steps", None)  # the default, as in a form; not asked for
        super().__post_init__()
        if (self.steps is None) == (self.epochs is None):
            raise PipelineError("give either a number of steps or a number of epochs")
        parse_schedule(self.schedule, 1.0)

    @abstractmethod
    def batches(self, rows: int) -> Batches:
        """Return which of `rows` rows each step takes.

        Raises PipelineError if a batch is larger than that.
        """

    @abstractmethod
    def total_steps(self, rows: int) -> int:
        """Return how many steps the run has over `rows` rows."""

    @abstractmethod
    def optimiser(self) -> Optimiser:
        """Return the update rule."""

    def recipe(self, rows: int) -> Recipe:
        """Return how the run steps over `rows` rows.

        Raises PipelineError if a batch is larger than that.
        """
        rule = StopRule(self.STOP_WINDOW, self.tolerance)
        return Recipe(self.batches(rows), self.optimiser(), rule)

    def start(self, classes: int) -> DescentState:
        """Return the state before the first step."""
        W = self.first_weights(classes)
        return DescentState(0, W, self.optimiser().init(W), np.empty(0))

    def _fixed_steps(self, step_size: float) -> Optimiser:
        """Return the update rule of steps whose size does not depend on the loss."""
        scale = scaled(parse_schedule(self.schedule, step_size))
        velocity: list[Transform] = []
        if self.momentum:
            velocity = [momentum(self.momentum, nesterov=self.nesterov)]
        return descent(*velocity, scale)


@dataclass(frozen=True, kw_only=True)
class GradientDescent(StepParameters):
    """Gradient descent over all rows."""

    STOP_WINDOW: ClassVar[int] = 10
    CHECKPOINT_EVERY: ClassVar[int] = 100

    method: Literal[Method.GD] = Method.GD
    steps: Steps = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size == "exact" and (self.momentum or self.schedule != "constant"):
            raise PipelineError("the exact step size takes no momentum and no schedule")

    def batches(self, rows: int) -> Batches:  # noqa: ARG002 (mini-batches need it)
        """Return the rule that takes all rows at every step."""
        return full_batch

    def total_steps(self, rows: int) -> int:  # noqa: ARG002
        """Return the number of steps; an epoch is one."""
        return self.steps or self.epochs or 0

    def optimiser(self) -> Optimiser:
        """Return the update rule."""
        if self.step_size == "exact":
            return descent(line_search())
        return self._fixed_steps(self.step_size)


@dataclass(frozen=True, kw_only=True)
class MiniBatches(StepParameters):
    """Mini-batch gradient descent: uniform samples, or shuffled epochs."""

    STOP_WINDOW: ClassVar[int] = 500
    CHECKPOINT_EVERY: ClassVar[int] = 1000

    method: Literal[Method.MINIBATCH] = Method.MINIBATCH
    steps: Steps = 3000
    batch_size: Annotated[int, Field(ge=1), Wanted("batch size", _AT_LEAST_ONE)] = 256
    """Images in a mini-batch."""
    step_size: Annotated[
        PositiveNumber, Wanted("step size", f"{POSITIVE} (only gd takes `exact`)")
    ] = 1e-7
    """What a step multiplies the gradient by."""

    def batches(self, rows: int) -> Batches:
        """Return uniform samples of `steps`, or the shuffled batches of `epochs`."""
        if self.epochs is None:
            return UniformSamples(rows, self.batch_size, self.seed)
        return ShuffledEpochs(rows, self.batch_size, self.seed)

    def total_steps(self, rows: int) -> int:
        """Return the number of steps; an epoch is as many as there are batches."""
        if self.epochs is None:
            return self.steps or 0
        return self.epochs * ShuffledEpochs(rows, self.batch_size, self.seed).steps_per_epoch

    def optimiser(self) -> Optimiser:
        """Return the update rule."""
        return self._fixed_steps(self.step_size)


@dataclass(frozen=True, kw_only=True)
class LBFGS(_Training):
    """SciPy's L-BFGS on the hinge as it is."""

    method: Literal[Method.LBFGS] = Method.LBFGS
    steps: Annotated[int, Field(ge=1), Wanted("steps", _AT_LEAST_ONE)] = 30
    """The most iterations."""
    tolerance: Annotated[float, Field(ge=0, lt=1), Wanted("tolerance", _PART)] = 0.0
    """Stop when an iteration changes the loss by at most this part of it."""


@dataclass(frozen=True, kw_only=True)
class SmoothedHinge(_Training):
    """SciPy's L-BFGS on a smoothed hinge, until a lower bound proves the loss near the best."""

    method: Literal[Method.SMOOTHED] = Method.SMOOTHED
    steps: Annotated[int, Field(ge=1), Wanted("steps", _AT_LEAST_ONE)] = 200
    """The most passes over the images."""
    gap: Annotated[float, Field(gt=0, lt=1), Wanted("gap", "above 0 and below 1")] = 1e-3
    """Stop when the loss is proved to be within this part of the best possible."""
    reg: Regulariser = 1e3
    reg_bias: RegulariseBias = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.reg > 0 and self.reg_bias):
            raise PipelineError(
                "a lower bound needs a regulariser that includes the bias; give --reg above 0 and "
                "--reg-bias"
            )


PassParameters = LBFGS | SmoothedHinge
"""What the methods take that SciPy runs as a whole, pass by pass over all rows."""


def _with_method(value: Any) -> Any:
    """Return parameters that the API sent; they are of gradient descent if they name no method."""
    return {"method": Method.GD.value, **value} if isinstance(value, dict) else value


TrainingParameters = Annotated[
    GradientDescent | MiniBatches | LBFGS | SmoothedHinge,
    Discriminator("method"),
    BeforeValidator(_with_method),
]
"""Everything that decides a run's weights, and `placement`, which does not."""

METHODS: dict[str, type[GradientDescent | MiniBatches | LBFGS | SmoothedHinge]] = {
    Method.GD: GradientDescent,
    Method.MINIBATCH: MiniBatches,
    Method.LBFGS: LBFGS,
    Method.SMOOTHED: SmoothedHinge,
}
"""The class of each method's parameters."""


def methods_with(parameter: str) -> list[str]:
    """Return the methods that take a parameter.

    >>> methods_with("tolerance")
    ['gd', 'minibatch', 'lbfgs']
    """
    return [
        str(method)
        for method, kind in METHODS.items()
        if parameter in {field.name for field in fields(kind)}
    ]
