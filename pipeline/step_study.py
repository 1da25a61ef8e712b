"""How the error of a difference depends on its step, measured, and as theory has it.

Of a loss with kinks, a larger step crosses more of them; a smaller one loses more of a margin's
digits. Between lies the best step. With margins that are dense at 0, so that a score's move by
`h |x|` crosses `kappa h` kinks in a coordinate, each at a place that is uniform along the way:

    centred   departures have either sign: their sum is of the size
              sqrt(kappa h x2 / 12) / N,  so that the error grows as the root of h
    forward   all have one sign: kappa h x1 / 4 N,  so that it grows as h

with x1 and x2 the mean of |x| and of x^2 over the crossings. Rounding a moved margin (up and down
are rounded alike) makes an error of the size of `u |m| sqrt(n / 6) / h N` over the n margins m
that are not 0, and more where the step is so small that equal pixels of many images are rounded
alike; at the most it is the bound of `kernels.structured_difference.roundoff`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.finite_difference import Scheme
from kernels.gradient_verdict import ROUNDOFF_UNIT, Comparison
from kernels.partial import LOSS_UNIT_BITS
from kernels.structured_difference import Differences
from pipeline.check_parameters import LARGEST_STEP, SMALLEST_STEP, GradientCheck
from pipeline.errors import PipelineError

Floats = NDArray[np.float64]

MAX_STEPS = 200

ENOUGH = 100_000
"""Crossings that a density is known by to a few per cent: margins cross in hundreds at a time."""


@dataclass(frozen=True)
class StepStudy:
    """Everything that decides what comes of a study."""

    check: GradientCheck = field(default_factory=GradientCheck)
    """At which weights and over which examples; its own step is that of the picture's mark."""
    steps: str = "1e-3:1e-11"
    """The largest and the smallest step."""
    points_per_decade: int = 2

    def __post_init__(self) -> None:
        if self.points_per_decade < 1:
            raise PipelineError(f"a decade needs at least 1 point, not {self.points_per_decade}")
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
        """What decides the weights, and what is sampled."""
        return self.check.seed

    @property
    def step_sizes(self) -> list[float]:
        """The steps, falling.

        >>> [f"{h:.0e}" for h in StepStudy(steps="1e-3:1e-5", points_per_decade=1).step_sizes]
        ['1e-03', '1e-04', '1e-05']
        """
        return [float(h) for h in np.geomspace(*self._bounds(), self._points())]


class StepErrors(NamedTuple):
    """Root mean squares over all coordinates, at one step."""

    step: float
    scheme: str
    error: float
    error_after_kinks: float
    max_error: float
    crossings: int
    truncation: float
    """What theory expects of the kinks."""
    rounding: float
    """What it expects of rounding."""
    rounding_bound: float
    """What rounding can make, at most."""


class Pixels(NamedTuple):
    """Means over pixels of `|image - mean|`, weighted by it, as crossings are."""

    x1: float
    x2: float

    @classmethod
    def of(cls, images: NDArray[np.uint8], mean: Floats) -> "Pixels":
        """Return those of some images (n, D)."""
        x = np.abs(images - mean)
        weight = x.sum()
        return cls(float((x**2).sum() / weight), float((x**3).sum() / weight))


def density(found: Sequence[tuple[float, Comparison]]) -> float:
    """Return how many kinks a coordinate crosses a unit of the step: the theory's kappa.

    It is that of the smallest of the falling steps that still crosses `ENOUGH`, if one does:
    where moves are small beside the margins, and chance is too.
    """
    crossed = [(step, int(compared.crossings.sum()), compared) for step, compared in found]
    step, crossings, compared = next(
        (each for each in reversed(crossed) if each[1] >= ENOUGH), crossed[0]
    )
    return crossings / (compared.crossings.size * step)


def step_errors(
    step: float,
    scheme: Scheme,
    compared: Comparison,
    sums: Differences,
    kappa: float,
    pixels: Pixels,
) -> StepErrors:
    """Sum up a comparison at one step; `kappa` is how many kinks a coordinate crosses a unit."""
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
        _root_mean_square(compared.error),
        _root_mean_square(compared.error_after_kinks),
        float(compared.error.max()),
        int(compared.crossings.sum()),
        truncation / sums.rows,
        _root_mean_square(rounding),
        _root_mean_square(compared.roundoff),
    )


def _root_mean_square(values: Floats) -> float:
    return math.sqrt(float(np.mean(values**2)))
