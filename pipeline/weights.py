"""Where a run's weights start."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.streams import Purpose, stream
from storage.schema import PIXELS


@dataclass(frozen=True)
class Init:
    """A distribution of weights: `zeros`, or independent normals of standard deviation `scale`."""

    kind: str
    scale: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `zeros` or `normal:SCALE`.

        >>> Init.parse("normal:1e-3")
        Init(kind='normal', scale=0.001)
        """
        kind, _, scale = text.partition(":")
        if text == "zeros":
            return cls(kind)
        try:
            value = float(scale)
        except ValueError:
            value = math.nan
        if kind != "normal" or not (math.isfinite(value) and value > 0):
            raise PipelineError(
                f"weights cannot start from {text!r}; write `zeros` or `normal:SCALE` with a "
                "positive number, such as `normal:1e-3`"
            )
        return cls(kind, value)

    def weights(self, classes: int, seed: int) -> NDArray[np.float64]:
        """Return the weights (classes, D + 1), bias included, that `seed` stands for."""
        shape = (classes, PIXELS + 1)
        if self.kind == "zeros":
            return np.zeros(shape)
        return self.scale * stream(seed, Purpose.WEIGHTS, 0).standard_normal(shape)
