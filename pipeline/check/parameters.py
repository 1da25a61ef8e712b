"""The parameters of a gradient check: which gradient, which difference, which weights and rows."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kernels.finite_difference import Scheme
from pipeline.inputs.batches import UniformSamples
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Examples, Rows, sample_numbers
from pipeline.inputs.random_streams import Purpose
from pipeline.inputs.rules import DType, Parameters, RegulariseBias, Regulariser, Seed, Wanted
from storage.schema import PIXELS


class Gradient(StrEnum):
    """Which gradient is checked."""

    FULL = "full"
    """The loss's gradient in the weights, over all examples."""
    MINIBATCH = "minibatch"
    """The same over the first batch of a mini-batch training run."""
    DATA = "data"
    """The gradient of each example's loss in its own pixels."""


class CheckMethod(StrEnum):
    """How the differences are computed."""

    STRUCTURED = "structured"
    """Hinge by hinge, all coordinates in one pass (`kernels.structured_difference`)."""
    BLACK_BOX = "black-box"
    """From evaluations of the whole loss at every moved weight (`pipeline.check.black_box`)."""


SMALLEST_STEP, LARGEST_STEP = 1e-100, 1e100
"""Within these bounds differences can be counted, and moved weights are finite."""

NO_FINITE_LOSS = (
    "the loss near these weights is no finite number; take smaller ones, or a smaller step"
)

STEP, DATA_STEP = 1e-5, 1e-2
"""The default step in a weight, which is the notes', and in a pixel.

A pixel's step is larger because the weights, which multiply it, are small."""


@dataclass(frozen=True)
class GradientCheck(Parameters):
    """Everything that decides the result of a gradient check."""

    at: str = "normal:1e-3"
    """The weights: `zeros`, `normal:SCALE`, `uniform:SCALE`, or the run whose weights to use."""
    gradient: Gradient = Gradient.FULL
    method: CheckMethod = CheckMethod.STRUCTURED
    scheme: Scheme = Scheme.CENTRED
    step: Annotated[
        float,
        Field(ge=SMALLEST_STEP, le=LARGEST_STEP),
        Wanted("step", f"a positive number ({SMALLEST_STEP:g} to {LARGEST_STEP:g})"),
    ] = STEP
    """How far a coordinate is moved."""
    coordinates: Annotated[
        Annotated[int, Field(ge=1)] | Literal["all"], Wanted("coordinates", "`all`, or at least 1")
    ] = "all"
    """How many weights to check: `all`, or a random sample of so many."""
    examples: str = "all"
    """The training images: `all`, a random sample of N, or `first:N`."""
    batch_size: int = 256
    """Images in a mini-batch."""
    reg: Regulariser = 0.0
    reg_bias: RegulariseBias = False
    dtype: DType = "float64"
    """The type of the gradient's scores."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        Examples.parse(self.examples)
        self._check_gradient()

    def _check_gradient(self) -> None:
        """Refuse parameters that the gradient does not have."""
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
        """Return which of `rows` training rows the check is over; None for all.

        Raises PipelineError if it needs more rows than that.
        """
        if self.gradient is Gradient.MINIBATCH:
            return UniformSamples(rows, self.batch_size, self.seed)(0)
        return Examples.parse(self.examples).rows(rows, self.seed)

    def coordinate_indices(self, classes: int) -> NDArray[np.int64]:
        """Return which weights to check (k,), as indices into the flattened (classes, D + 1).

        Raises PipelineError if there are fewer weights than that.
        """
        size = classes * (PIXELS + 1)
        if self.coordinates == "all":
            return np.arange(size)
        if self.coordinates > size:
            raise PipelineError(f"there are {size:,} coordinates, not {self.coordinates:,}")
        return sample_numbers(self.seed, Purpose.COORDINATES, size, self.coordinates)
