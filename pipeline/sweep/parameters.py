"""Parameters of a sweep over step sizes."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated

from pydantic import Field

from pipeline.inputs.errors import PipelineError
from pipeline.inputs.rules import Init, Parameters, PointsPerDecade, Regulariser, Seed, written_as
from pipeline.inputs.weights import InitialWeights
from pipeline.inputs.words import with_reg, with_seed

START = "W0"
"""The value of `--at` that stands for the weights of `--init`."""

MAX_EXPONENT = 100
"""The largest exponent of a step size. The square of a larger one could be out of range."""

_INTEGER = r"\s*[+-]?[\d_]+\s*"

MAX_POINTS = 20_000
"""The maximum number of step sizes. The maximum takes a few seconds."""


@dataclass(frozen=True)
class Sweep(Parameters):
    """The parameters that determine the result of a sweep."""

    exponents: Annotated[
        str,
        Field(json_schema_extra=written_as(f"{_INTEGER}:{_INTEGER}")),
    ] = "-10:-1"
    """The exponents of the first and the last step size, as powers of 10: `FIRST:LAST`."""
    points_per_decade: PointsPerDecade = 1
    at: str = START
    """`W0`, or the run whose weights to sweep at."""
    init: Init = "uniform:1e-3"
    """The weights that `W0` stands for."""
    reg: Regulariser = 0.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        InitialWeights.parse(self.init)
        first, last = self._bounds()
        points = (last - first) * self.points_per_decade + 1
        if points > MAX_POINTS:
            raise PipelineError(
                f"{points:,} step sizes are too many; take at most {MAX_POINTS:,}, with fewer "
                "decades or fewer points per decade"
            )

    def _bounds(self) -> tuple[int, int]:
        """Return the first and the last exponent."""
        first, _, last = self.exponents.partition(":")
        try:
            bounds = int(first), int(last)
        except ValueError:
            bounds = 0, -1
        if not -MAX_EXPONENT <= bounds[0] <= bounds[1] <= MAX_EXPONENT:
            raise PipelineError(
                "exponents must be FIRST:LAST, two whole numbers in rising order, from "
                f"-{MAX_EXPONENT} to {MAX_EXPONENT}, such as -10:-1, not {self.exponents!r}"
            )
        return bounds

    def in_words(self) -> str:
        """Return what is done, such as `sweep 1e-10..1e-1 at W0`."""
        first, last = self._bounds()
        many = f" x {self.points_per_decade}" if self.points_per_decade > 1 else ""
        at = with_seed(START, self.seed) if self.at == START and self.seed else self.at
        return with_reg(f"sweep 1e{first}..1e{last}{many} at {PurePath(at).name}", self.reg)

    @property
    def step_sizes(self) -> list[float]:
        """The step sizes, in rising order. A power of 10 is rounded to the nearest float64 number.

        Examples:
            >>> Sweep("-8:-6").step_sizes
            [1e-08, 1e-07, 1e-06]
            >>> Sweep("0:1", points_per_decade=2).step_sizes
            [1.0, 3.1622776601683795, 10.0]
        """
        first, last = self._bounds()
        many = self.points_per_decade
        return [
            float(f"1e{first + i // many}") if i % many == 0 else 10.0 ** (first + i / many)
            for i in range((last - first) * many + 1)
        ]
