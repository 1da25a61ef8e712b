"""Parameters of a gradient check: the gradient, the difference scheme, the weights and the rows."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kernels.finite_difference import Scheme
from pipeline.inputs.batches import UniformSamples
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Examples, Rows, sample_numbers
from pipeline.inputs.random_streams import Purpose
from pipeline.inputs.rules import (
    BatchSize,
    DType,
    ExamplesText,
    Parameters,
    RegulariseBias,
    Regulariser,
    Seed,
    Wanted,
)
from pipeline.inputs.words import with_reg, with_seed
from storage.schema import PIXELS


class Gradient(StrEnum):
    """The gradient to check."""

    FULL = "full"
    """The gradient of the loss with respect to the weights, over all examples."""
    MINIBATCH = "minibatch"
    """The same gradient over the first batch of a mini-batch training run."""
    DATA = "data"
    """The gradient of each example's loss with respect to its own pixels."""


class CheckMethod(StrEnum):
    """The method that computes the differences."""

    STRUCTURED = "structured"
    """Hinge by hinge, for all coordinates in one pass (`kernels.structured_difference`)."""
    BLACK_BOX = "black-box"
    """From the whole loss, with one weight moved at a time (`pipeline.check.black_box`)."""


SMALLEST_STEP, LARGEST_STEP = 1e-100, 1e100
"""Bounds of the difference step h.

Within them, float64 can represent the moved weights and the unit to which
`kernels.structured_difference` rounds."""

NO_FINITE_LOSS = "the loss near these weights is not finite; use smaller weights, or a smaller step"

STEP, DATA_STEP = 1e-5, 1e-2
"""The default difference step h in a weight (the value of the notes), and in a pixel.

The step in a pixel is larger because it is multiplied by the weights, which are small."""


@dataclass(frozen=True)
class GradientCheck(Parameters):
    """The parameters that determine the result of a gradient check."""

    at: str = "normal:1e-3"
    """The weights: `zeros`, `normal:SCALE`, `uniform:SCALE`, or the run whose weights to use."""
    gradient: Gradient = Gradient.FULL
    """The gradient to check: over all examples, over one mini-batch, or with respect to pixels."""
    method: CheckMethod = CheckMethod.STRUCTURED
    """The method of the differences: all at once by hinge, or one by one from the whole loss."""
    scheme: Scheme = Scheme.CENTRED
    """The points of a difference: on both sides of a coordinate (centred), or ahead (forward)."""
    step: Annotated[
        float,
        Field(ge=SMALLEST_STEP, le=LARGEST_STEP),
        Wanted("step", f"a positive number ({SMALLEST_STEP:g} to {LARGEST_STEP:g})"),
    ] = STEP
    """The difference step h: the distance that a coordinate is moved."""
    coordinates: Annotated[
        Annotated[int, Field(ge=1)] | Literal["all"], Wanted("coordinates", "`all`, or at least 1")
    ] = "all"
    """The weights to check: `all`, or the size of a random sample."""
    examples: ExamplesText = "all"
    batch_size: BatchSize = 256
    """Images per mini-batch, if the gradient is that of a mini-batch."""
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
        """Raise PipelineError for parameters that do not apply to the gradient."""
        if self.gradient is Gradient.MINIBATCH and self.examples != "all":
            raise PipelineError(
                "a mini-batch draws its own examples, so --examples does not apply; "
                "give --batch-size instead"
            )
        if self.gradient is not Gradient.DATA:
            return
        if self.method is CheckMethod.BLACK_BOX:
            raise PipelineError(
                "the gradient with respect to the data can be checked by the structured method only"
            )
        if self.reg or self.reg_bias:
            raise PipelineError(
                "the regulariser has no gradient with respect to the data; leave out --reg and "
                "--reg-bias"
            )
        if self.dtype != "float64":
            raise PipelineError("the gradient with respect to the data is computed in float64 only")
        if self.coordinates != "all":
            raise PipelineError(
                "all pixels are checked, so --coordinates does not apply; use fewer --examples"
            )

    def in_words(self) -> str:
        """Return what is done, such as `check full structured at normal:1e-3`."""
        words = f"check {self.gradient} {self.method}"
        if self.coordinates != "all":
            words += f" {self.coordinates} coordinates"
        words = with_reg(f"{words} at {PurePath(self.at).name}", self.reg)
        return with_seed(words, self.seed) if self.seed else words

    def rows(self, rows: int) -> Rows | None:
        """Return the numbers of the training rows to check, or None for all `rows` of them.

        Raises PipelineError if the check needs more than `rows` rows.
        """
        if self.gradient is Gradient.MINIBATCH:
            return UniformSamples(rows, self.batch_size, self.seed)(0)
        return Examples.parse(self.examples).rows(rows, self.seed)

    def coordinate_indices(self, classes: int) -> NDArray[np.int64]:
        """Return the weights to check (k,), as indices into the flattened (classes, D + 1).

        Raises PipelineError if `coordinates` is larger than the number of weights.
        """
        size = classes * (PIXELS + 1)
        if self.coordinates == "all":
            return np.arange(size)
        if self.coordinates > size:
            raise PipelineError(
                f"there are only {size:,} coordinates, so {self.coordinates:,} cannot be checked"
            )
        return sample_numbers(self.seed, Purpose.COORDINATES, size, self.coordinates)
