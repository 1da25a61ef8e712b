"""Parameters of a landscape: the slice of the loss, the weights in its middle, and its extent."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated

from pydantic import Field

from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Examples
from pipeline.inputs.rules import ExamplesText, Parameters, Regulariser, Seed
from pipeline.inputs.words import with_reg, with_seed

RANDOM, GRADIENT = "random", "gradient"
"""Names of directions. Any other name is the name of a run."""

AROUND = "normal:1e-3"
"""The default weights in the middle."""

MOST_POINTS = {1: 100_000, 2: 2_000}
"""The maximum number of points per axis, by number of dimensions.

The maximum takes seconds for a line and minutes for a plane."""

LARGEST_EXTENT = 1e15
"""The largest extent of an axis.

For a larger one, the rounding error at the edge would exceed the loss in the middle."""

Extent = Annotated[float, Field(gt=0, le=LARGEST_EXTENT)] | None


@dataclass(frozen=True)
class Landscape(Parameters):
    """The parameters that determine a slice."""

    dims: Annotated[int, Field(ge=1, le=2)] = 2
    """1 for a line, 2 for a plane."""
    examples: ExamplesText = "all"
    around: str = AROUND
    """The weights in the middle: `zeros`, `normal:SCALE`, `uniform:SCALE`, or those of a run."""
    directions: str = RANDOM
    """`random`, `gradient`, or a comma-separated list with one of these or a run per dimension."""
    extent: Extent = None
    """The reach of each axis in both directions, in its own unit; None for the axis's default."""
    points: Annotated[int, Field(ge=2, le=MOST_POINTS[1])] = 101
    """Points per axis, at least 2: at most 100,000 for a line, and 2,000 for a plane."""
    path: str | None = None
    """The training run whose path to show. It determines the middle, the directions and the
    loss."""
    reg: Regulariser = 0.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        Examples.parse(self.examples)
        if self.dims not in MOST_POINTS:
            raise PipelineError(f"a slice must have 1 or 2 dimensions, not {self.dims}")
        check_grid(self.points, self.extent, MOST_POINTS[self.dims])
        if self.path is None:
            self.each_direction()
        elif (self.dims, self.around, self.directions, self.reg) != (2, AROUND, RANDOM, 0.0):
            raise PipelineError(
                "--path determines the plane and the loss; leave out --dims, --around, "
                "--directions and --reg"
            )

    def in_words(self) -> str:
        """Return what is done, such as `landscape 2d random around normal:1e-3 seed 0`."""
        if self.path is not None:
            return f"landscape path of {PurePath(self.path).name}"
        directions = ", ".join(PurePath(name).name for name in self.directions.split(","))
        words = f"landscape {self.dims}d {directions} around {PurePath(self.around).name}"
        return with_seed(with_reg(words, self.reg), self.seed)

    def each_direction(self) -> list[str]:
        """Return the direction of each dimension.

        Examples:
            >>> Landscape(dims=2, directions="gradient").each_direction()
            ['gradient', 'random']
        """
        names = [name.strip() for name in self.directions.split(",")]
        if names == [RANDOM]:
            return [RANDOM] * self.dims
        if names == [GRADIENT]:
            return [GRADIENT, RANDOM][: self.dims]
        fixed = [name for name in names if name != RANDOM]  # equal directions span no plane
        if len(names) != self.dims or not all(names) or len(set(fixed)) < len(fixed):
            raise PipelineError(
                f"directions must be `random`, `gradient`, or {self.dims} of these or of different "
                f"runs (one per dimension), separated by commas, not {self.directions!r}"
            )
        return names


def check_grid(points: int, extent: float | None, most: int) -> None:
    """Raise PipelineError if an axis cannot have this number of points or this extent."""
    if not 2 <= points <= most:
        raise PipelineError(f"an axis must have from 2 to {most:,} points, not {points:,}")
    if extent is not None and not 0 < extent <= LARGEST_EXTENT:
        raise PipelineError(
            f"the extent must be a positive number, at most {LARGEST_EXTENT:g}, not {extent}"
        )


@dataclass(frozen=True)
class Panels(Parameters):
    """The parameters that determine the four panels: one line and three planes."""

    around: str = AROUND
    """The weights in the middle: `zeros`, `normal:SCALE`, `uniform:SCALE`, or those of a run."""
    extent: Extent = None
    """The reach of each axis in both directions, in lengths of the weights in the middle; None
    for 1."""
    points: Annotated[int, Field(ge=2, le=MOST_POINTS[2])] = 101
    """Points per axis, from 2 to 2,000."""
    reg: Regulariser = 0.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.points, self.extent, MOST_POINTS[2])

    def in_words(self) -> str:
        """Return what is done, such as `panels around normal:1e-3 seed 0`."""
        words = f"panels around {PurePath(self.around).name}"
        return with_seed(with_reg(words, self.reg), self.seed)
