"""What decides a gradient check: which gradient, at which weights and rows, by what difference."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kernels.finite_difference import Scheme
from pipeline.batches import UniformSamples
from pipeline.errors import PipelineError
from pipeline.examples import Examples, sample
from pipeline.shards import Rows
from pipeline.streams import Purpose
from storage.schema import PIXELS


class Gradient(StrEnum):
    """Which gradient is checked."""

    FULL = "full"
    """That of the loss in the weights, over all examples."""
    MINIBATCH = "minibatch"
    """The same over the first batch that a run of mini-batches takes."""
    DATA = "data"
    """Each example's own, in its pixels."""


class CheckMethod(StrEnum):
    """How the differences are taken."""

    STRUCTURED = "structured"
    """Every hinge by itself, all coordinates in one pass (`kernels.structured_difference`)."""
    BLACK_BOX = "black-box"
    """The loss as a whole, evaluated at every moved weight (`pipeline.black_box`)."""


SMALLEST_STEP, LARGEST_STEP = 1e-100, 1e100
"""Within them differences can be counted and moved weights are numbers."""

NO_FINITE_LOSS = (
    "the loss near these weights is no finite number; take smaller ones, or a smaller step"
)

STEP, DATA_STEP = 1e-5, 1e-2
"""The default h: that of the notes in a weight, and in a pixel, whose weights are small."""


@dataclass(frozen=True)
class GradientCheck:
    """Everything that decides what a check finds."""

    at: str = "normal:1e-3"
    """`zeros`, `normal:SCALE` or `uniform:SCALE`, or the run whose weights to check at."""
    gradient: Gradient = Gradient.FULL
    method: CheckMethod = CheckMethod.STRUCTURED
    scheme: Scheme = Scheme.CENTRED
    step: float = STEP
    coordinates: int | Literal["all"] = "all"
    """How many of the weights, or of each example's pixels, are checked: a sample of them."""
    examples: str = "all"
    """`all` training images, a sample of N, or `first:N`."""
    batch_size: int = 256
    reg: float = 0.0
    reg_bias: bool = False
    dtype: Literal["float32", "float64"] = "float64"
    """The type that the gradient's scores are taken in."""
    seed: int = 0

    def __post_init__(self) -> None:
        wanted = {
            "step": (
                SMALLEST_STEP <= self.step <= LARGEST_STEP,
                f"a positive number ({SMALLEST_STEP:g} to {LARGEST_STEP:g})",
            ),
            "coordinates": (
                self.coordinates == "all" or int(self.coordinates) >= 1,
                "`all`, or at least 1",
            ),
            "regulariser": (0 <= self.reg < math.inf, "a number that is not negative"),
            "seed": (0 <= self.seed < 2**64, "from 0 to 2^64 - 1"),
            "dtype": (self.dtype in {"float32", "float64"}, "float32 or float64"),
        }
        for name, (good, values) in wanted.items():
            if not good:
                value = getattr(self, {"regulariser": "reg"}.get(name, name))
                raise PipelineError(f"the {name} must be {values}, not {value}")
        Examples.parse(self.examples)
        self._check_gradient()

    def _check_gradient(self) -> None:
        """Refuse what the gradient has no use for."""
        if self.gradient is Gradient.MINIBATCH and self.examples != "all":
            raise PipelineError("a mini-batch has its own examples; give --batch-size instead")
        if self.gradient is not Gradient.DATA:
            return
        if self.method is CheckMethod.BLACK_BOX:
            raise PipelineError("the gradient in the data has the structured method only")
        if self.reg or self.reg_bias:
            raise PipelineError(
                "the regulariser has no gradient in the data; leave --reg and --reg-bias out"
            )
        if self.dtype != "float64":
            raise PipelineError("the gradient in the data is taken in float64 only")
        if self.coordinates != "all":
            raise PipelineError("all pixels are checked; take fewer --examples instead")

    def rows(self, rows: int) -> Rows | None:
        """Return which of so many training rows the check is over; None for all.

        Raises PipelineError if there are not so many.
        """
        if self.gradient is Gradient.MINIBATCH:
            return UniformSamples(rows, self.batch_size, self.seed)(0)
        return Examples.parse(self.examples).rows(rows, self.seed)

    def chosen(self, classes: int) -> NDArray[np.int64]:
        """Return the weights (k,) to check, by their places in the flattened (C, D + 1).

        Raises PipelineError if there are not so many.
        """
        size = classes * (PIXELS + 1)
        if self.coordinates == "all":
            return np.arange(size)
        if self.coordinates > size:
            raise PipelineError(f"there are {size:,} coordinates, not {self.coordinates:,}")
        return sample(self.seed, Purpose.COORDINATES, size, self.coordinates)
