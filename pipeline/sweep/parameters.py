"""The parameters of a sweep over step sizes."""

from dataclasses import dataclass

from pipeline.inputs.errors import PipelineError
from pipeline.inputs.rules import Parameters, PointsPerDecade, Regulariser, Seed
from pipeline.inputs.weights import InitialWeights

START = "W0"
"""What `--at` says for the weights of `--init`."""

MAX_EXPONENT = 100
"""Of a step size: beyond, its square is out of range."""

MAX_POINTS = 20_000
"""Step sizes of a sweep: some seconds of work."""


@dataclass(frozen=True)
class Sweep(Parameters):
    """Everything that decides the result of a sweep."""

    exponents: str = "-10:-1"
    """The step sizes' first and last power of 10."""
    points_per_decade: PointsPerDecade = 1
    at: str = START
    """`W0`, or the run whose weights to sweep at."""
    init: str = "uniform:1e-3"
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
                f"{points:,} step sizes are too many; take at most {MAX_POINTS:,}: fewer decades, "
                "or fewer points in each"
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
                f"exponents are FIRST:LAST, two whole numbers that rise, from -{MAX_EXPONENT} to "
                f"{MAX_EXPONENT}, such as -10:-1, not {self.exponents!r}"
            )
        return bounds

    @property
    def step_sizes(self) -> list[float]:
        """The step sizes, rising; a power of 10 is the number that is written so.

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
