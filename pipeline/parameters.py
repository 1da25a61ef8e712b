"""What decides a training run: its method and everything that the method takes."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kernels.updates import Optimiser, Transform, descent, line_search, momentum, scaled
from pipeline.batches import Batches, ShuffledEpochs, UniformSamples, full_batch
from pipeline.descent import DescentState, Recipe, StopRule
from pipeline.errors import PipelineError
from pipeline.objective import Objective, OverShards
from pipeline.schedules import parse_schedule
from pipeline.weights import Init


class Method(StrEnum):
    """What a run descends along."""

    GD = "gd"
    """The gradient over all rows."""
    MINIBATCH = "minibatch"
    """The gradient over a batch of them."""
    LBFGS = "lbfgs"
    """The quasi-Newton direction of L-BFGS, over all rows."""
    SMOOTHED = "smoothed"
    """That of the smoothed hinge, with a lower bound on the best loss there is."""

    @property
    def by_steps(self) -> bool:
        """Whether it takes one step after another; the others are SciPy's as a whole."""
        return self in {Method.GD, Method.MINIBATCH}


class Placement(StrEnum):
    """Who takes the steps."""

    AUTO = "auto"
    """One worker for mini-batches of a set that fits one, else all."""
    ALL_WORKERS = "all-workers"
    ONE_WORKER = "one-worker"


_OF_STEPS = frozenset(method for method in Method if method.by_steps)
_TAKEN_BY = {
    "epochs": _OF_STEPS,
    "batch_size": frozenset({Method.MINIBATCH}),
    "step_size": _OF_STEPS,
    "schedule": _OF_STEPS,
    "momentum": _OF_STEPS,
    "nesterov": _OF_STEPS,
    "gap": frozenset({Method.SMOOTHED}),
    "tolerance": frozenset({Method.GD, Method.MINIBATCH, Method.LBFGS}),
}
"""The methods that take a parameter that not all do; the others leave it at its default."""


@dataclass(frozen=True)
class TrainingParameters:
    """Everything that decides a run's weights, and `placement`, which does not."""

    method: Method = Method.GD
    steps: int | None = None
    """Steps to take; mini-batches are then uniform samples. Either this or `epochs`.

    Of `lbfgs` the most iterations, of `smoothed` the most passes over the images."""
    epochs: int | None = None
    """Times over the whole set; mini-batches then go through a shuffled order."""
    batch_size: int = 256
    step_size: float | Literal["exact"] = 1e-7
    """What a step multiplies the gradient by; `exact` is where the loss along it is lowest."""
    schedule: str = "constant"
    """How the step size changes; see `pipeline.schedules`."""
    momentum: float = 0.0
    """How much of the last step's velocity is kept."""
    nesterov: bool = False
    """Whether momentum looks ahead."""
    reg: float = 0.0
    reg_bias: bool = False
    """Whether the regulariser takes the bias too."""
    init: str = "zeros"
    seed: int = 0
    dtype: str = "float32"
    tolerance: float = 0.0
    gap: float = 1e-3
    """Where `smoothed` stops: the part of the loss that may be left to the lower bound."""
    placement: Placement = Placement.AUTO

    def __post_init__(self) -> None:
        Init.parse(self.init)
        parse_schedule(self.schedule, 1.0)
        if (self.steps is None) == (self.epochs is None):
            raise PipelineError("give either a number of steps or a number of epochs")
        self._check_ranges()
        self._check_method()

    def _check_ranges(self) -> None:
        size = 1.0 if self.step_size == "exact" else self.step_size
        wanted = {
            "steps": (self.steps is None or self.steps >= 1, "at least 1"),
            "epochs": (self.epochs is None or self.epochs >= 1, "at least 1"),
            "batch size": (self.batch_size >= 1, "at least 1"),
            "step size": (0 < size < np.inf, "a positive number or `exact`"),
            "momentum": (0 <= self.momentum < 1, "from 0 to below 1"),
            "regulariser": (0 <= self.reg < np.inf, "a number that is not negative"),
            "seed": (0 <= self.seed < 2**64, "from 0 to 2^64 - 1"),
            "tolerance": (0 <= self.tolerance < 1, "from 0 to below 1"),
            "gap": (0 < self.gap < 1, "above 0 and below 1"),
            "dtype": (self.dtype in {"float32", "float64"}, "float32 or float64"),
        }
        for name, (good, values) in wanted.items():
            if not good:
                value = getattr(self, {"regulariser": "reg"}.get(name, name.replace(" ", "_")))
                raise PipelineError(f"the {name} must be {values}, not {value}")

    def _check_method(self) -> None:
        """Refuse what the method would not look at, and what it cannot do."""
        for field in fields(self):
            takers = _TAKEN_BY.get(field.name, frozenset(Method))
            if getattr(self, field.name) != field.default and self.method not in takers:
                name = field.name.replace("_", " ")
                methods = " and ".join(sorted(takers))
                raise PipelineError(f"the {name} is of {methods}; {self.method} takes none")
        if self.step_size == "exact":
            if self.method is not Method.GD:
                raise PipelineError("the exact step size is that of all images; take method gd")
            if self.momentum or self.schedule != "constant":
                raise PipelineError("the exact step size takes no momentum and no schedule")
        if self.method is Method.SMOOTHED and not (self.reg > 0 and self.reg_bias):
            raise PipelineError(
                "a lower bound needs a regulariser that takes the bias; give --reg above 0 and "
                "--reg-bias"
            )
        if not self.method.by_steps and self.placement is Placement.ONE_WORKER:
            raise PipelineError(f"{self.method} takes its passes over all workers")

    def recipe(self, rows: int) -> Recipe:
        """Return how a run of steps steps over `rows` rows.

        Raises PipelineError if a batch is larger than that.
        """
        if self.method is not Method.MINIBATCH:
            batches: Batches = full_batch
        elif self.epochs is None:
            batches = UniformSamples(rows, self.batch_size, self.seed)
        else:
            batches = ShuffledEpochs(rows, self.batch_size, self.seed)
        window = 500 if self.method is Method.MINIBATCH else 10
        return Recipe(batches, self.optimiser(), StopRule(window, self.tolerance))

    def total_steps(self, rows: int) -> int:
        """Return how many steps the run has over `rows` rows."""
        if self.epochs is None:
            return self.steps or 0
        if self.method is Method.MINIBATCH:
            return self.epochs * ShuffledEpochs(rows, self.batch_size, self.seed).steps_an_epoch
        return self.epochs

    def optimiser(self) -> Optimiser:
        """Return the update rule of a run of steps."""
        if self.step_size == "exact":
            return descent(line_search())
        scale = scaled(parse_schedule(self.schedule, self.step_size))
        velocity: list[Transform] = []
        if self.momentum:
            velocity = [momentum(self.momentum, nesterov=self.nesterov)]
        return descent(*velocity, scale)

    def objective(self, over: OverShards, mean: NDArray[np.float64]) -> Objective:
        """Return the regularised loss over the shards."""
        return Objective(over, mean, self.reg, self.dtype, self.reg_bias)

    def start(self, classes: int) -> DescentState:
        """Return the state before the first step."""
        W = Init.parse(self.init).weights(classes, self.seed)
        memory = self.optimiser().init(W) if self.method.by_steps else ()
        return DescentState(0, W, memory, np.empty(0))
