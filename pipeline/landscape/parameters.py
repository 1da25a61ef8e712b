"""The parameters of a landscape: which slice of the loss, around which weights, and how wide."""

from dataclasses import dataclass

from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Examples
from pipeline.inputs.rules import Parameters, Regulariser, Seed

RANDOM, GRADIENT = "random", "gradient"
"""Directions by name; every other name is a run."""

AROUND = "normal:1e-3"
"""The weights in the middle, unless the user names others."""

MOST_POINTS = {1: 100_000, 2: 2_000}
"""The most points of an axis, by dimensions: seconds of work for a line, minutes for a plane."""

LARGEST_EXTENT = 1e15
"""Beyond, the loss in the middle is lost in the rounding of the loss at the edge."""


@dataclass(frozen=True)
class Landscape(Parameters):
    """Everything that decides a slice."""

    dims: int = 2
    """1 for a line, 2 for a plane."""
    examples: str = "all"
    """`all` training images, a sample of N, or `first:N`."""
    around: str = AROUND
    """`zeros`, `normal:SCALE` or `uniform:SCALE`, or the run whose weights are in the middle."""
    directions: str = RANDOM
    """`random`, `gradient`, or for each dimension one of these or a run, separated by commas."""
    extent: float | None = None
    """How far an axis goes each way, in its own unit; None for a default that fits its kind."""
    points: int = 101
    """Points of an axis."""
    path: str | None = None
    """The training run whose path to show; it decides the middle, the directions and the loss."""
    reg: Regulariser = 0.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        Examples.parse(self.examples)
        if self.dims not in MOST_POINTS:
            raise PipelineError(f"a slice has 1 or 2 dimensions, not {self.dims}")
        check_grid(self.points, self.extent, MOST_POINTS[self.dims])
        if self.path is None:
            self.each_direction()
        elif (self.dims, self.around, self.directions, self.reg) != (2, AROUND, RANDOM, 0.0):
            raise PipelineError(
                "a run's path has its own plane of 2 dimensions, and its own loss; leave --dims, "
                "--around, --directions and --reg out"
            )

    def each_direction(self) -> list[str]:
        """Return the direction of each dimension.

        >>> Landscape(dims=2, directions="gradient").each_direction()
        ['gradient', 'random']
        """
        names = [name.strip() for name in self.directions.split(",")]
        if names == [RANDOM]:
            return [RANDOM] * self.dims
        if names == [GRADIENT]:
            return [GRADIENT, RANDOM][: self.dims]
        fixed = [name for name in names if name != RANDOM]  # two of the same are no plane
        if len(names) != self.dims or not all(names) or len(set(fixed)) < len(fixed):
            raise PipelineError(
                f"directions are `random`, `gradient`, or {self.dims} of these or of runs that "
                f"differ (one a dimension), with commas between, not {self.directions!r}"
            )
        return names


def check_grid(points: int, extent: float | None, most: int) -> None:
    """Raise PipelineError unless an axis can have these points and this extent."""
    if not 2 <= points <= most:
        raise PipelineError(f"an axis has from 2 to {most:,} points, not {points:,}")
    if extent is not None and not 0 < extent <= LARGEST_EXTENT:
        raise PipelineError(
            f"the extent must be a positive number, at most {LARGEST_EXTENT:g}, not {extent}"
        )


@dataclass(frozen=True)
class Panels(Parameters):
    """Everything that decides the panels."""

    around: str = AROUND
    """`zeros`, `normal:SCALE` or `uniform:SCALE`, or the run whose weights are in the middle."""
    extent: float | None = None
    """How far an axis goes each way, in lengths of the weights in the middle; None for 1."""
    points: int = 101
    """Points of an axis."""
    reg: Regulariser = 0.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.points, self.extent, MOST_POINTS[2])
