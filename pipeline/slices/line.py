"""The loss along a line in the space of weights, over all shards.

Scores are linear in the weights, so two passes over the images give every margin as a linear
function of the step size (`kernels.line`). The shards keep these functions. After that, the loss
at any step size needs no further pass over the images, and a few rounds find the exact minimum of
the loss along the line.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernels.exact_sum import LossSum, Sums
from kernels.hinge import Scorer, fold
from kernels.line import Line, SlopeSum, breakpoints, losses, margins_along_line, slopes
from kernels.line_minimum import LineMinimum, Penalty, minimum, penalty
from kernels.partial import regularised, squared_norm
from kernels.piecewise import PiecewiseLinear, piecewise_linear
from kernels.updates import LineSearch
from pipeline.cluster.map_shards import shown_as, sum_over_shards
from pipeline.cluster.shards import Shard, concatenate_blocks
from pipeline.inputs.examples import Rows
from pipeline.objective import Objective

Floats = NDArray[np.float64]


class LineRequest(NamedTuple):
    """The inputs of `line_losses`, `line_slopes` and `line_breakpoints`."""

    scorer: Scorer
    direction: Scorer
    steps: Floats
    """Step sizes (K,). For `line_breakpoints`, the two ends of an interval."""
    rows: Rows | None = None
    """Row numbers in the split; None for all rows."""


class Breakpoints(NamedTuple):
    """The breakpoints of the loss along a line, in any order."""

    positions: Floats
    """(k,): step sizes at which a margin crosses 0."""
    jumps: Floats
    """(k,): the rise of the slope at each position."""

    def combine(self, other: "Breakpoints", /) -> "Breakpoints":
        """Return the breakpoints of both sets of rows."""
        return Breakpoints(
            np.concatenate([self.positions, other.positions]),
            np.concatenate([self.jumps, other.jumps]),
        )


@shown_as("hinge-line-losses")
def line_losses(shard: Shard, request: LineRequest) -> Sums[LossSum]:
    """Sum the losses of a shard at each step size."""
    return Sums(losses(_line(shard, request), request.steps))


@shown_as("hinge-line-slopes")
def line_slopes(shard: Shard, request: LineRequest) -> Sums[SlopeSum]:
    """Sum the slopes of the losses of a shard at each step size."""
    return Sums(slopes(_line(shard, request), request.steps))


@shown_as("hinge-line-breakpoints")
def line_breakpoints(shard: Shard, request: LineRequest) -> Breakpoints:
    """Return the breakpoints of a shard between two step sizes."""
    return Breakpoints(*breakpoints(_line(shard, request), *request.steps.tolist()))


def _line(shard: Shard, request: LineRequest) -> Line:
    """Return the margins of a shard along the line. The shard keeps them for the next request."""

    def compute() -> Line:
        parts = [
            margins_along_line(request.scorer, request.direction, *block.chosen)
            for block in shard.blocks(request.rows)
        ]
        return Line(
            concatenate_blocks([part.margins for part in parts], axis=1),
            concatenate_blocks([part.slopes for part in parts], axis=1),
        )

    return shard.memory.recall("line", (*request.scorer, *request.direction, request.rows), compute)


@dataclass(frozen=True, eq=False)
class LossAlongLine:
    """The objective at `W + a V`, as a function of the step size a."""

    objective: Objective
    W: Floats
    """(C, D + 1)."""
    V: Floats
    """The direction (C, D + 1). For steepest descent, the negative gradient."""
    rows: Rows | None = None
    """The rows over which the loss is averaged; None for all rows."""

    @cached_property
    def _scorers(self) -> tuple[Scorer, Scorer]:
        """The scorers of W and V, in float64 because rounding would change the direction."""
        mean = self.objective.mean
        return fold(self.W, mean, np.float64), fold(self.V, mean, np.float64)

    def __call__(self, steps: Floats) -> list[float]:
        """Return the loss at each of the step sizes (K,), including the regulariser."""
        sums = sum_over_shards(self.objective.map_shards, line_losses, self._request(steps))
        return [
            regularised(summed, self.regulariser(a))
            for summed, a in zip(sums, np.asarray(steps).tolist(), strict=True)
        ]

    def _request(self, steps: ArrayLike) -> LineRequest:
        return LineRequest(*self._scorers, np.asarray(steps, np.float64), self.rows)

    def regulariser(self, a: float) -> float:
        """Return the regulariser at a step size."""
        reg, bias = self.objective.reg, self.objective.reg_bias
        with np.errstate(over="ignore"):  # the loss is then inf
            return reg * squared_norm(self.W + a * self.V, bias=bias) if reg else 0.0

    def minimum(self) -> LineMinimum:
        """Return the exact minimum of the loss over step sizes of at least 0.

        Raises ValueError if the loss or the direction is out of range.
        """
        map_shards = self.objective.map_shards
        return minimum(
            lambda steps: sum_over_shards(map_shards, line_slopes, self._request(steps)),
            lambda low, high: sum_over_shards(
                map_shards, line_breakpoints, self._request([low, high])
            ),
            self._penalty(),
        )

    def function(self, low: float, high: float) -> PiecewiseLinear:
        """Return the mean hinge loss between two step sizes as a function, without the regulariser.

        Raises ValueError if the loss or the direction is out of range.
        """
        map_shards = self.objective.map_shards

        def loss_at(a: float) -> LossSum:
            return sum_over_shards(map_shards, line_losses, self._request([a]))[0]

        [slope] = sum_over_shards(map_shards, line_slopes, self._request([low]))
        found = sum_over_shards(map_shards, line_breakpoints, self._request([low, high]))
        return piecewise_linear(low, high, slope, *found, loss_at)

    def _penalty(self) -> Penalty:
        reg, bias = self.objective.reg, self.objective.reg_bias
        try:
            with np.errstate(over="ignore"):  # `minimum` raises if the penalty is not finite
                return penalty(self.W, self.V, reg, reg_bias=bias)
        except OverflowError as error:
            raise ValueError("the regulariser along the line is out of range") from error


def line_search(objective: Objective) -> LineSearch:
    """Return a function of `W` and `step`: the step size with the lowest loss along `-step`."""
    return lambda W, step: LossAlongLine(objective, W, -step).minimum().step_size
