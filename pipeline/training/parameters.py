"""The parameters of a training run: one class per method, with the parameters of that method."""

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Discriminator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from kernels.updates import Optimiser, Transform, descent, line_search, momentum, scaled
from pipeline.cluster.map_shards import MapShards
from pipeline.inputs.batches import Batches, ShuffledEpochs, UniformSamples, full_batch
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.rules import (
    NUMBER,
    POSITIVE,
    BatchSize,
    DType,
    Init,
    Parameters,
    PositiveNumber,
    RegulariseBias,
    Regulariser,
    Seed,
    Wanted,
    written_as,
)
from pipeline.inputs.weights import InitialWeights
from pipeline.inputs.words import short, with_reg, with_seed
from pipeline.objective import Objective
from pipeline.training.descent import DescentState, Recipe, StopRule
from pipeline.training.schedules import parse_schedule


class Method(StrEnum):
    """The method of a training run."""

    GD = "gd"
    """Gradient descent over all rows."""
    MINIBATCH = "minibatch"
    """Gradient descent over mini-batches."""
    LBFGS = "lbfgs"
    """SciPy's L-BFGS on the hinge loss, over all rows."""
    SMOOTHED = "smoothed"
    """SciPy's L-BFGS on a smoothed hinge loss, with a lower bound on the best possible loss."""


class StepPlacement(StrEnum):
    """The choice of workers that run the steps. The result is bit-identical in every case."""

    AUTO = "auto"
    """One worker for mini-batches of a data set that fits in its memory, otherwise all workers."""
    ALL_WORKERS = "all-workers"
    ONE_WORKER = "one-worker"


_AT_LEAST_ONE = "at least 1"
_PART = "from 0 to below 1"

Steps = Annotated[
    int | None,
    Field(ge=1, description="Number of steps. Leave it at its default if `epochs` is given."),
    Wanted("number of steps", _AT_LEAST_ONE),
]
Epochs = Annotated[
    int | None,
    Field(ge=1, description="Number of passes over the whole data set, instead of `steps`."),
    Wanted("number of epochs", _AT_LEAST_ONE),
]


@dataclass(frozen=True, kw_only=True)
class _Training(Parameters, ABC):
    """The parameters of every method."""

    method: Method
    """The method of the run."""
    reg: Regulariser = 0.0
    reg_bias: RegulariseBias = False
    init: Init = "zeros"
    seed: Seed = 0
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        InitialWeights.parse(self.init)

    @abstractmethod
    def in_words(self) -> str:
        """Return what is done: the method and its decisive parameters."""

    @property
    def identity(self) -> str:
        """The parameters as JSON. A journal stores it to identify its run."""
        return json.dumps(asdict(self), sort_keys=True)

    def objective(self, map_shards: MapShards, mean: NDArray[np.float64]) -> Objective:
        """Return the regularised loss over the shards."""
        return Objective(map_shards, mean, self.reg, self.dtype, self.reg_bias)

    def first_weights(self, classes: int) -> NDArray[np.float64]:
        """Return the weights (classes, D + 1) that the run starts from."""
        return InitialWeights.parse(self.init).weights(classes, self.seed)


@dataclass(frozen=True, kw_only=True)
class StepParameters(_Training):
    """The parameters of the methods that take steps: gradient descent and mini-batches."""

    STOP_WINDOW: ClassVar[int]
    """How many losses are averaged to decide whether the loss still changes."""
    CHECKPOINT_EVERY: ClassVar[int]
    """The default number of steps between checkpoints: a few seconds of work."""

    steps: Steps = None
    epochs: Epochs = None
    step_size: Annotated[
        PositiveNumber | Literal["exact"],
        Field(
            description="Factor by which a step multiplies the gradient. `exact` leads to the "
            "lowest loss along the gradient."
        ),
        Wanted("step size", "a positive number or `exact`"),
    ] = 1e-7
    schedule: Annotated[
        str,
        Field(
            description="How the step size decreases: `constant`, `cosine:STEPS`, `inverse:STEPS` "
            "or `staircase:FACTOR:STEPS`.",
            json_schema_extra=written_as(f"constant|(cosine|inverse|staircase:{NUMBER}):{NUMBER}"),
        ),
    ] = "constant"
    momentum: Annotated[
        float,
        Field(ge=0, lt=1, description="Fraction of the last step's velocity that is kept."),
        Wanted("momentum", _PART),
    ] = 0.0
    nesterov: Annotated[bool, Field(description="Whether to use Nesterov momentum.")] = False
    tolerance: Annotated[
        float,
        Field(ge=0, lt=1, description="Stop when the mean loss changes by at most this fraction."),
        Wanted("tolerance", _PART),
    ] = 0.0
    placement: Annotated[
        StepPlacement,
        Field(description="Which workers run the steps. The result is always bit-identical."),
    ] = StepPlacement.AUTO

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps == type(self).steps:
            object.__setattr__(self, "steps", None)  # Prefect's form fills in the default
        super().__post_init__()
        if (self.steps is None) == (self.epochs is None):
            raise PipelineError("give either a number of steps or a number of epochs")
        parse_schedule(self.schedule, 1.0)

    @abstractmethod
    def batches(self, rows: int) -> Batches:
        """Return the function that gives the rows of each step, out of `rows` rows.

        Raises PipelineError if a batch is larger than `rows`.
        """

    @abstractmethod
    def total_steps(self, rows: int) -> int:
        """Return the number of steps of a run over `rows` rows."""

    @abstractmethod
    def optimiser(self) -> Optimiser:
        """Return the update rule."""

    def recipe(self, rows: int) -> Recipe:
        """Return the recipe of a run over `rows` rows: its batches, update rule and stop rule.

        Raises PipelineError if a batch is larger than `rows`.
        """
        rule = StopRule(self.STOP_WINDOW, self.tolerance)
        return Recipe(self.batches(rows), self.optimiser(), rule)

    def start(self, classes: int) -> DescentState:
        """Return the state before the first step."""
        W = self.first_weights(classes)
        return DescentState(0, W, self.optimiser().init(W), np.empty(0))

    @property
    def _length(self) -> str:
        """The number of steps or of epochs."""
        return f"{self.steps}" if self.epochs is None else f"{self.epochs} epochs"

    def _fixed_steps(self, step_size: float) -> Optimiser:
        """Return the update rule for steps whose size does not depend on the loss."""
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
    """The method of the run."""
    steps: Steps = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size == "exact" and (self.momentum or self.schedule != "constant"):
            raise PipelineError(
                "the exact step size cannot be combined with momentum or a schedule"
            )

    def in_words(self) -> str:
        """Return what is done, such as `gd 200 x 1e-7`."""
        return with_reg(f"{self.method} {self._length} x {short(self.step_size)}", self.reg)

    def batches(self, rows: int) -> Batches:  # noqa: ARG002 (mini-batches need it)
        """Return the function that gives all rows for every step."""
        return full_batch

    def total_steps(self, rows: int) -> int:  # noqa: ARG002
        """Return the number of steps. An epoch is one step."""
        return self.steps or self.epochs or 0

    def optimiser(self) -> Optimiser:
        """Return the update rule."""
        if self.step_size == "exact":
            return descent(line_search())
        return self._fixed_steps(self.step_size)


@dataclass(frozen=True, kw_only=True)
class MiniBatches(StepParameters):
    """Mini-batch gradient descent, with uniform samples or shuffled epochs."""

    STOP_WINDOW: ClassVar[int] = 500
    CHECKPOINT_EVERY: ClassVar[int] = 1000

    method: Literal[Method.MINIBATCH] = Method.MINIBATCH
    """The method of the run."""
    steps: Steps = 3000
    batch_size: BatchSize = 256
    step_size: Annotated[
        PositiveNumber, Wanted("step size", f"{POSITIVE} (only gd takes `exact`)")
    ] = 1e-7
    """Factor by which a step multiplies the gradient."""

    def in_words(self) -> str:
        """Return what is done, such as `minibatch 3000 x 256 x 1e-7 seed 0`."""
        words = f"{self.method} {self._length} x {self.batch_size} x {short(self.step_size)}"
        return with_seed(with_reg(words, self.reg), self.seed)

    def batches(self, rows: int) -> Batches:
        """Return uniform samples if `steps` is given, or shuffled batches if `epochs` is given."""
        if self.epochs is None:
            return UniformSamples(rows, self.batch_size, self.seed)
        return ShuffledEpochs(rows, self.batch_size, self.seed)

    def total_steps(self, rows: int) -> int:
        """Return the number of steps. An epoch has one step per batch."""
        if self.epochs is None:
            return self.steps or 0
        return self.epochs * ShuffledEpochs(rows, self.batch_size, self.seed).steps_per_epoch

    def optimiser(self) -> Optimiser:
        """Return the update rule."""
        return self._fixed_steps(self.step_size)


@dataclass(frozen=True, kw_only=True)
class LBFGS(_Training):
    """SciPy's L-BFGS on the hinge loss itself."""

    method: Literal[Method.LBFGS] = Method.LBFGS
    """The method of the run."""
    steps: Annotated[int, Field(ge=1), Wanted("number of steps", _AT_LEAST_ONE)] = 30
    """Maximum number of iterations."""
    tolerance: Annotated[float, Field(ge=0, lt=1), Wanted("tolerance", _PART)] = 0.0
    """Stop when an iteration changes the loss by at most this fraction of it."""

    def in_words(self) -> str:
        """Return what is done, such as `lbfgs 30 reg 1000`."""
        return with_reg(f"{self.method} {self.steps}", self.reg)


@dataclass(frozen=True, kw_only=True)
class SmoothedHinge(_Training):
    """SciPy's L-BFGS on a smoothed hinge, until a lower bound proves the loss nearly optimal."""

    method: Literal[Method.SMOOTHED] = Method.SMOOTHED
    """The method of the run."""
    steps: Annotated[int, Field(ge=1), Wanted("number of steps", _AT_LEAST_ONE)] = 200
    """Maximum number of passes over the images."""
    gap: Annotated[float, Field(gt=0, lt=1), Wanted("gap", "above 0 and below 1")] = 1e-3
    """Stop when the loss is proved to be within this fraction of the best possible loss."""
    reg: Annotated[Regulariser, Field(json_schema_extra={"exclusiveMinimum": 0})] = 1e3
    """Regularisation strength R: the loss includes R ||W||^2. A lower bound needs R above 0."""
    reg_bias: Annotated[RegulariseBias, Field(json_schema_extra={"const": True})] = True
    """Whether ||W||^2 includes the bias. A lower bound needs it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.reg > 0 and self.reg_bias):
            raise PipelineError(
                "a lower bound needs a regulariser that includes the bias; give --reg above 0 and "
                "--reg-bias"
            )

    def in_words(self) -> str:
        """Return what is done, such as `smoothed 200 gap 1e-3 reg 1000`."""
        return with_reg(f"{self.method} {self.steps} gap {short(self.gap)}", self.reg)


PassParameters = LBFGS | SmoothedHinge
"""The parameters of the methods that SciPy runs, pass by pass over all rows."""


def _with_method(value: Any) -> Any:
    """Return parameters from the API, with gradient descent as the method if they name none."""
    return {"method": Method.GD.value, **value} if isinstance(value, dict) else value


class _AnyOf:
    """Makes the JSON schema of a union `anyOf`, for which Prefect's form shows one tab per class.

    The form shows `oneOf`, which is Pydantic's choice, as text to edit.
    """

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler(core_schema)
        return {"anyOf": schema["oneOf"]}


TrainingParameters = Annotated[
    GradientDescent | MiniBatches | LBFGS | SmoothedHinge,
    Discriminator("method"),
    BeforeValidator(_with_method),
    _AnyOf(),
]
"""The parameters that decide a run's weights, and `placement`, which does not affect them."""

METHODS: dict[str, type[GradientDescent | MiniBatches | LBFGS | SmoothedHinge]] = {
    Method.GD: GradientDescent,
    Method.MINIBATCH: MiniBatches,
    Method.LBFGS: LBFGS,
    Method.SMOOTHED: SmoothedHinge,
}
"""The parameter class of each method."""


def methods_with(parameter: str) -> list[str]:
    """Return the methods that have a parameter.

    Examples:
        >>> methods_with("tolerance")
        ['gd', 'minibatch', 'lbfgs']
    """
    return [
        str(method)
        for method, kind in METHODS.items()
        if parameter in {field.name for field in fields(kind)}
    ]
