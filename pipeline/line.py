"""The loss along a line in the space of weights, over all shards.

Scores are linear in the weights, so two passes over the images give every margin as a linear
function of the step size (`kernels.line`). The shards keep them: after that, no step size
costs a pass over the images, and the exact minimum of the loss along the line is a few
rounds away.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernels.hinge import Scorer, fold
from kernels.line import Line, SlopeSum, along, breakpoints, losses, slopes
from kernels.line_minimum import LineMinimum, Penalty, minimum, penalty
from kernels.partial import LossSum, Sums, regularised, squared_norm
from kernels.piecewise import PiecewiseLinear, piecewise_linear
from kernels.updates import LineSearch
from pipeline.objective import Objective, total
from pipeline.shards import Rows, Shard, joined

Floats = NDArray[np.float64]


class Asked(NamedTuple):
    """What the functions of a shard below take."""

    scorer: Scorer
    direction: Scorer
    steps: Floats
    """Step sizes (K,), or the two ends of an interval of them."""
    rows: Rows | None = None
    """Which rows the loss is over; None for all."""


class Breakpoints(NamedTuple):
    """Where margins cross 0, and what the slope gains there, both (k,) in no order."""

    positions: Floats
    jumps: Floats

    def combine(self, other: "Breakpoints", /) -> "Breakpoints":
        """Return those of both."""
        return Breakpoints(
            np.concatenate([self.positions, other.positions]),
            np.concatenate([self.jumps, other.jumps]),
        )


def line_losses(shard: Shard, asked: Asked) -> Sums[LossSum]:
    """Sum a shard's losses at each step size."""
    return Sums(losses(_line(shard, asked), asked.steps))


def line_slopes(shard: Shard, asked: Asked) -> Sums[SlopeSum]:
    """Sum the slopes of a shard's losses at each step size."""
    return Sums(slopes(_line(shard, asked), asked.steps))


def line_breakpoints(shard: Shard, asked: Asked) -> Breakpoints:
    """Return a shard's breakpoints between two step sizes."""
    return Breakpoints(*breakpoints(_line(shard, asked), *asked.steps.tolist()))


def _line(shard: Shard, asked: Asked) -> Line:
    """Return the shard's margins along the line, which it remembers."""

    def find() -> Line:
        parts = [
            along(asked.scorer, asked.direction, *block.chosen)
            for block in shard.blocks(asked.rows)
        ]
        return Line(
            joined([part.margins for part in parts], axis=1),
            joined([part.slopes for part in parts], axis=1),
        )

    return shard.memory.recalled("line", (*asked.scorer, *asked.direction, asked.rows), find)


@dataclass(frozen=True, eq=False)
class LossAlongLine:
    """The objective at `W + a V`, as a function of the step size a."""

    objective: Objective
    W: Floats
    """(C, D + 1)."""
    V: Floats
    """The direction (C, D + 1): of a descent, less the gradient."""
    rows: Rows | None = None
    """Which rows the loss is over; None for all."""

    @cached_property
    def _scorers(self) -> tuple[Scorer, Scorer]:
        """Both in float64: a rounded direction would be another."""
        mean = self.objective.mean
        return fold(self.W, mean, np.float64), fold(self.V, mean, np.float64)

    def __call__(self, steps: Floats) -> list[float]:
        """Return the loss at each of the step sizes (K,), the regulariser included."""
        sums = total(self.objective.over, line_losses, self._asked(steps))
        return [
            regularised(summed, self.regulariser(a))
            for summed, a in zip(sums, np.asarray(steps).tolist(), strict=True)
        ]

    def _asked(self, steps: ArrayLike) -> Asked:
        return Asked(*self._scorers, np.asarray(steps, np.float64), self.rows)

    def regulariser(self, a: float) -> float:
        """Return what the regulariser adds at a step size."""
        reg, bias = self.objective.reg, self.objective.reg_bias
        with np.errstate(over="ignore"):  # the loss says so
            return reg * squared_norm(self.W + a * self.V, bias=bias) if reg else 0.0

    def minimum(self) -> LineMinimum:
        """Return the step size, at least 0, at which the loss is lowest: exactly.

        Raises ValueError where the loss or the direction is out of all range.
        """
        over = self.objective.over
        return minimum(
            lambda steps: total(over, line_slopes, self._asked(steps)),
            lambda low, high: total(over, line_breakpoints, self._asked([low, high])),
            self._penalty(),
        )

    def function(self, low: float, high: float) -> PiecewiseLinear:
        """Return the mean hinge loss from step size `low` to `high`, whole: without a regulariser.

        Raises ValueError where the loss or the direction is out of all range.
        """
        over = self.objective.over

        def loss_at(a: float) -> LossSum:
            return total(over, line_losses, self._asked([a]))[0]

        [slope] = total(over, line_slopes, self._asked([low]))
        found = total(over, line_breakpoints, self._asked([low, high]))
        return piecewise_linear(low, high, slope, *found, loss_at)

    def _penalty(self) -> Penalty:
        reg, bias = self.objective.reg, self.objective.reg_bias
        try:
            with np.errstate(over="ignore"):  # `minimum` refuses what is not finite
                return penalty(self.W, self.V, reg, reg_bias=bias)
        except OverflowError as error:
            raise ValueError("the regulariser along the line is out of range") from error


def line_search(objective: Objective) -> LineSearch:
    """Return the search for the lowest loss down along a step, over all rows."""
    return lambda W, step: LossAlongLine(objective, W, -step).minimum().step_size
