"""The record of the three points: each loss as a function of one weight."""

from collections.abc import Mapping
from dataclasses import dataclass

from flows.runs.record import RecordHeader
from kernels.piecewise import PiecewiseLinear

PICTURE = "three-points.png"


@dataclass(frozen=True, kw_only=True)
class WeightKink:
    """A weight at which the slope of a loss changes."""

    w0: float
    loss: float
    slope_after: float


@dataclass(frozen=True, kw_only=True)
class LossSummary:
    """A loss as a function of w_0."""

    kinks: tuple[WeightKink, ...]
    minimum: float
    minimum_at: float
    """The leftmost w_0 with the lowest loss."""


@dataclass(frozen=True, kw_only=True)
class ThreePointsRecord(RecordHeader):
    """The record of the three points."""

    points: tuple[float, ...]
    classes: tuple[int, ...]
    """The classes of the points."""
    weights: tuple[float, ...]
    """The weight of each class, with w_0 = 0. Only w_0 varies."""
    losses: Mapping[str, LossSummary]
    """The loss of each point, and their mean."""


def summarise_loss(loss: PiecewiseLinear) -> LossSummary:
    """Return the kinks and the minimum of a loss."""
    where, lowest = loss.minimum
    inner = loss.positions[1:-1], loss.values[1:-1], loss.slopes[1:]
    kinks = tuple(
        WeightKink(w0=w0, loss=value, slope_after=slope)
        for w0, value, slope in zip(*(each.tolist() for each in inner), strict=True)
    )
    return LossSummary(kinks=kinks, minimum=lowest, minimum_at=where)
