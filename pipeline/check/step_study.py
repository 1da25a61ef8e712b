"""How the error of a finite difference depends on its step: measured, and predicted by theory.

The loss has kinks. A larger step crosses more of them; with a smaller step more digits of a margin
are lost. The best step is in between. The theory assumes that margins are dense at 0. Then a
score's move by `h |x|` crosses `kappa h` kinks per coordinate, each at a place that is uniform
along the way, and their departures make an error of the size

    centred   sqrt(kappa h x2 / 12) / N,  because departures have either sign:
              the error grows as the root of h
    forward   kappa h x1 / 4 N,  because all departures have one sign:
              the error grows as h

where x1 and x2 are the means of |x| and x^2 over the crossings. Rounding the moved margins (up and
down, with the same errors) makes an error of the size `u |m| sqrt(n / 6) / h N` over the n margins
m that are not 0. It makes more where the step is so small that equal pixels of many images are
rounded alike, but never more than the bound of `kernels.structured_difference.roundoff`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.exact_sum import LOSS_UNIT_BITS
from kernels.finite_difference import Scheme
from kernels.gradient_verdict import ROUNDOFF_UNIT, Comparison
from kernels.structured_difference import Differences
from pipeline.check.parameters import LARGEST_STEP, SMALLEST_STEP, GradientCheck
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.rules import Parameters, PointsPerDecade

Floats = NDArray[np.float64]

MAX_STEPS = 200

ENOUGH_CROSSINGS = 100_000
"""So many give the density of kinks to a few per cent: margins cross in hundreds at a time."""


@dataclass(frozen=True)
class StepStudy(Parameters):
    """Everything that decides the result of a study of steps."""

    check: GradientCheck = field(default_factory=GradientCheck)
    """The weights and the examples. Its `step` is only marked in the picture."""
    steps: str = "1e-3:1e-11"
    """The largest and the smallest step."""
    points_per_decade: PointsPerDecade = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._points() > MAX_STEPS:
            raise PipelineError(
                f"{self._points():,} steps are too many; take at most {MAX_STEPS}: fewer decades, "
                "or fewer points in each"
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
                "steps are LARGEST:SMALLEST, two positive numbers that fall, such as 1e-3:1e-11, "
                f"not {self.steps!r}"
            )
        return high, low

    def _points(self) -> int:
        """Return how many steps there are."""
        high, low = self._bounds()
        return round(math.log10(high / low) * self.points_per_decade) + 1

    @property
    def seed(self) -> int:
        """Decides the weights, and which examples are sampled."""
        return self.check.seed

    @property
    def step_sizes(self) -> list[float]:
        """The steps, falling.

        >>> [f"{h:.0e}" for h in StepStudy(steps="1e-3:1e-5", points_per_decade=1).step_sizes]
        ['1e-03', '1e-04', '1e-05']
        """
        return [float(h) for h in np.geomspace(*self._bounds(), self._points())]


class StepErrors(NamedTuple):
    """The errors at one step, in one scheme: root mean squares over all coordinates."""

    step: float
    scheme: str
    error: float
    error_after_kinks: float
    """Once kinks are accounted for."""
    max_error: float
    crossings: int
    """How many margins cross their kink."""
    truncation: float
    """The theory's prediction of what the kinks make."""
    rounding: float
    """The theory's prediction of what rounding makes."""
    rounding_bound: float
    """A bound on what rounding makes."""


class PixelMeans(NamedTuple):
    """Means of `x = |image - mean|` over pixels, each weighted by its x, as crossings are."""

    x1: float
    """Of x."""
    x2: float
    """Of x^2."""

    @classmethod
    def of(cls, images: NDArray[np.uint8], mean: Floats) -> "PixelMeans":
        """Return the means over the pixels of some images (n, D)."""
        x = np.abs(images - mean)
        weight = x.sum()
        return cls(float((x**2).sum() / weight), float((x**3).sum() / weight))


def kink_density(comparisons: Sequence[tuple[float, Comparison]]) -> float:
    """Return how many kinks a coordinate crosses per unit of the step: the theory's kappa.

    `comparisons` are given with their steps, which fall. The density is measured at the smallest
    step that still has `ENOUGH_CROSSINGS`, where moves are small beside the margins and chance
    matters little; at the largest step if none has.
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
    """Sum up the comparison at one step; `kappa` is the `kink_density`."""
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
