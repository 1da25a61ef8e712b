"""The initial weights of a run, and the random weights of a search."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kernels.fixed_point import FixedPoint, fixed_point
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.random_streams import Purpose, random_stream
from storage.schema import PIXELS


@dataclass(frozen=True)
class InitialWeights:
    """A distribution of initial weights, which are independent of each other.

    `zeros`, `normal` with standard deviation `scale`, or `uniform` from 0 to `scale`.
    """

    kind: str
    scale: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `zeros`, `normal:SCALE` or `uniform:SCALE`.

        Examples:
            >>> InitialWeights.parse("normal:1e-3")
            InitialWeights(kind='normal', scale=0.001)
        """
        kind, _, scale = text.partition(":")
        if text == "zeros":
            return cls(kind)
        try:
            value = float(scale)
        except ValueError:
            value = math.nan
        if kind not in {"normal", "uniform"} or not (math.isfinite(value) and value > 0):
            raise PipelineError(
                f"the initial weights cannot be {text!r}; write `zeros`, or `normal:SCALE` or "
                "`uniform:SCALE` with a positive number, such as `normal:1e-3`"
            )
        return cls(kind, value)

    def weights(self, classes: int, seed: int) -> NDArray[np.float64]:
        """Return the weights (classes, D + 1), bias included, drawn with `seed`."""
        shape = (classes, PIXELS + 1)
        if self.kind == "zeros":
            return np.zeros(shape)
        generator = random_stream(seed, Purpose.WEIGHTS, 0)
        draw = generator.standard_normal if self.kind == "normal" else generator.random
        with np.errstate(over="ignore"):  # the loss is then not finite
            return self.scale * draw(shape)


def draw_weights(
    seed: int, purpose: Purpose, numbers: Sequence[int], scale: float, classes: int
) -> FixedPoint:
    """Return normal weights (B, classes, D + 1) of standard deviation `scale`, bias included.

    The weights with number t are drawn from the random stream of `purpose` and t, and rounded to
    the fixed-point unit of `scale`.
    """
    shape = (classes, PIXELS + 1)
    normals = np.empty((len(numbers), *shape))
    for place, number in enumerate(numbers):
        random_stream(seed, purpose, number).standard_normal(out=normals[place])
    return fixed_point(normals, scale)
