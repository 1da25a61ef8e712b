"""Step study: the measured and predicted error of a finite difference, as a function of its step.

The loss has kinks. A larger difference step h crosses more of them. A smaller h loses more digits
of the margins to rounding. The best step is in between.

The theory assumes that the margins are dense around 0. Moving a score by `h |x|` then crosses
`kappa h` kinks per coordinate. The position of each kink is uniform along the move. Each crossed
kink adds a departure from the subgradient, and together the departures make an error of the size

    centred   sqrt(kappa h x2 / 12) / N,  because departures have either sign:
              the error grows as the square root of h
    forward   kappa h x1 / 4 N,  because all departures have the same sign:
              the error grows as h

where x1 and x2 are the means of |x| and x^2 over the crossings.

Rounding of the moved margins makes an error of the size `u |m| sqrt(n / 6) / h N` over the n
nonzero margins m. A margin moved up and the same margin moved down have opposite rounding errors,
which add up in their difference. The rounding error is larger if the step is so small that equal
pixels of many images round alike, but it never exceeds the bound of
`kernels.structured_difference.roundoff`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kernels.exact_sum import LOSS_UNIT_BITS
from kernels.finite_difference import Scheme
from kernels.gradient_verdict import ROUNDOFF_UNIT, Comparison
from kernels.structured_difference import Differences
from pipeline.check.parameters import LARGEST_STEP, SMALLEST_STEP, GradientCheck
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.rules import NUMBER, Parameters, PointsPerDecade, written_as
from pipeline.inputs.words import short

Floats = NDArray[np.float64]

MAX_STEPS = 200

ENOUGH_CROSSINGS = 100_000
"""The number of crossings that is enough to measure the density of kinks to a few per cent.

It is large because margins cross in groups of hundreds."""


@dataclass(frozen=True)
class StepStudy(Parameters):
    """The parameters that determine the result of a step study."""

    check: GradientCheck = GradientCheck()
    """The weights and the examples. Its `step` is only marked in the figure."""
    steps: Annotated[
        str,
        Field(json_schema_extra=written_as(f"{NUMBER}:{NUMBER}")),
    ] = "1e-3:1e-11"
    """The largest and the smallest step, as `LARGEST:SMALLEST`."""
    points_per_decade: PointsPerDecade = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._points() > MAX_STEPS:
            raise PipelineError(
                f"{self._points():,} steps are too many; take at most {MAX_STEPS}, with fewer "
                "decades or fewer points per decade"
            )

    def _bounds(self) -> tuple[float, float]:
        """Return the largest and the smallest step."""
        first, _, last = self.steps.partition(":")
        try:
            high, low = float(first), float(last)
        except ValueError:
            high = low = math.nan
        if not SMALLEST_STEP <= low <= high <= LARGEST_STEP:
            raise PipelineError(
                "steps must be LARGEST:SMALLEST, two positive numbers in falling order, such as "
                f"1e-3:1e-11, not {self.steps!r}"
            )
        return high, low

    def _points(self) -> int:
        """Return the number of steps."""
        high, low = self._bounds()
        return round(math.log10(high / low) * self.points_per_decade) + 1

    def in_words(self) -> str:
        """Return what is done, such as `check-step 1e-3..1e-11 at normal:1e-3`."""
        steps = "..".join(short(step) for step in self._bounds())
        return f"check-step {steps} at {PurePath(self.check.at).name}"

    @property
    def seed(self) -> int:
        """The seed of the weights and of the sampled examples."""
        return self.check.seed

    @property
    def step_sizes(self) -> list[float]:
        """The steps, in falling order.

        Examples:
            >>> [f"{h:.0e}" for h in StepStudy(steps="1e-3:1e-5", points_per_decade=1).step_sizes]
            ['1e-03', '1e-04', '1e-05']
        """
        return [float(h) for h in np.geomspace(*self._bounds(), self._points())]


class StepErrors(NamedTuple):
    """The errors at one step and in one scheme.

    Errors are root mean squares over all coordinates, except `max_error`.
    """

    step: float
    scheme: str
    error: float
    error_after_kinks: float
    """The error that is left after the crossed kinks are accounted for."""
    max_error: float
    crossings: int
    """The number of margins that cross their kink."""
    truncation: float
    """The error from kinks, as predicted by the theory."""
    rounding: float
    """The error from rounding, as predicted by the theory."""
    rounding_bound: float
    """A bound on the error from rounding."""


class PixelMeans(NamedTuple):
    """Means over pixels of `x = |image - mean|`, each pixel weighted by its x.

    These are means over crossings, because a pixel crosses kinks in proportion to its x.
    """

    x1: float
    """The mean of x."""
    x2: float
    """The mean of x^2."""

    @classmethod
    def of(cls, images: NDArray[np.uint8], mean: Floats) -> "PixelMeans":
        """Return the means over the pixels of some images (n, D)."""
        x = np.abs(images - mean)
        weight = x.sum()
        return cls(float((x**2).sum() / weight), float((x**3).sum() / weight))


def kink_density(comparisons: Sequence[tuple[float, Comparison]]) -> float:
    """Return the number of kinks that a coordinate crosses per unit of the step (kappa).

    `comparisons` are pairs of a step and its comparison, in falling order of the steps. The
    density is measured at the smallest step with at least `ENOUGH_CROSSINGS`: there the moves are
    small compared with the margins, and chance has little influence. If no step has enough
    crossings, the largest step is used.
    """
    counted = [(step, int(each.crossings.sum()), each) for step, each in comparisons]
    step, crossings, comparison = next(
        (each for each in reversed(counted) if each[1] >= ENOUGH_CROSSINGS), counted[0]
    )
    return crossings / (comparison.crossings.size * step)


def step_errors(
    step: float,
    scheme: Scheme,
    comparison: Comparison,
    sums: Differences,
    kappa: float,
    pixels: PixelMeans,
) -> StepErrors:
    """Return the measured and predicted errors at one step; `kappa` is the `kink_density`."""
    margins = np.array([each.loss / (1 << LOSS_UNIT_BITS) for each in sums.active])
    counts = np.array([each.rows for each in sums.active])
    truncation = math.sqrt(kappa * step * pixels.x2 / 12)
    if scheme is Scheme.FORWARD:
        truncation = math.hypot(kappa * step * pixels.x1 / 4, math.sqrt(2) * truncation)
    sizes = margins / np.maximum(counts, 1)
    rounding = ROUNDOFF_UNIT * sizes * np.sqrt(counts / 6) / (step * sums.rows)
    return StepErrors(
        step,
        str(scheme),
        _root_mean_square(comparison.error),
        _root_mean_square(comparison.error_after_kinks),
        float(comparison.error.max()),
        int(comparison.crossings.sum()),
        truncation / sums.rows,
        _root_mean_square(rounding),
        _root_mean_square(comparison.roundoff),
    )


def _root_mean_square(values: Floats) -> float:
    return math.sqrt(float(np.mean(values**2)))
