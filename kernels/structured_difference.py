"""Finite differences of the loss in every weight at once, from the hinges themselves.

Changing the weight W[j, d] by h moves only the margins that the score of class j enters, each
by the pixel: `m_ij` by `h x_id`, and in rows of class j every other margin by `-h x_id`. So one
pass over the images takes the difference of the true loss in all coordinates: for each row,
class and column both hinge values are evaluated and subtracted. The gradient's formula is never
used; the scores are, which are linear in W.

    centred   (L(W + h e) - L(W - h e)) / 2h    from    hinge(m + h x) - hinge(m - h x)
    forward   (L(W + h e) - L(W)) / h           from    hinge(m + h x) - hinge(m)

A hinge has a kink where its margin is 0. A margin that crosses it within the difference makes
the difference depart from the subgradient (the one with indicator 0 at m = 0), by an amount that
is known exactly: the part of the move on the far side. Crossings are counted for each coordinate,
and their departures added up, so that what is left of a disagreement is rounding alone.

Differences are rounded to whole units, of a 2^47th part of the largest, and added as integers:
the same bits in any order and grouping of the rows.
"""

import math
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import differences as compiled
from kernels.exact_sum import LIMB_ROWS, LOSS_LIMBS, LOSS_UNIT_BITS, LossSum, Sums
from kernels.finite_difference import Scheme
from kernels.gradient_verdict import ROUNDOFF_UNIT
from kernels.hinge import Scorer, check_arrays, check_bytes, pad, pick_rows
from kernels.simd.difference_tiles import TILE_CLASSES

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

STEPS = 1e-200, 1e200
"""The smallest step and the largest: units are float64's, as are the moved margins."""

_UNITS = 47
"""The largest difference has 2^47 units, and a unit in the last place may double it: those of
256 rows and 128 classes fit int64."""

_HIGHER_ORDERS = 1 + 1e-6
"""What products of round-offs add to a bound of the first order, and its own rounding."""

_BIAS_LANES = 8
"""The bias's column stands at the end of a vector of its own."""


class Probe(NamedTuple):
    """What is asked of every row."""

    scorer: Scorer
    """Of the weights, float64, with the mean folded in; see `hinge.fold`."""
    mean: Floats
    """The mean image (D,)."""
    step: float
    """h, positive."""
    scheme: Scheme = Scheme.CENTRED
    delta: float = 1.0
    slack: float = 0.0
    """How far the scores of the gradient to be checked may be off, as a part of `|W| . |x|`.

    0 if they are taken in float64 as here, to the same bits."""

    @property
    def reach(self) -> float:
        """The farthest that a margin may be moved."""
        centred = np.maximum(np.abs(self.mean), np.abs(255 - self.mean))
        return float(np.nextafter(self.step * max(1.0, centred.max(initial=0)), math.inf))

    @property
    def unit(self) -> float:
        """What differences are counted in: a power of two."""
        _, exponent = math.frexp(2 * self.reach)
        return math.ldexp(1.0, exponent - _UNITS)


@dataclass(frozen=True, eq=False)
class Differences:
    """The sums over a set of rows, of one probe; `combine` adds two."""

    differences: Integers
    """(2, C, D + 1): what the rows' losses gain, in units: what is below 2^32 of it, and above."""
    departures: Integers
    """(2, C, D + 1): how much of it is due to crossed kinks, likewise."""
    crossings: Integers
    """(C, D + 1): the margins that cross their kink within the difference."""
    undecided: Integers
    """(C, D + 1): pixels of margins that `slack` leaves without a sign, in 2^-20."""
    active: Sums[LossSum]
    """(C,): the sizes of the margins that are not 0 all along the way; `rows` counts them."""
    rows: int

    def combine(self, other: "Differences") -> Self:
        """Return the sums over both sets of rows."""
        return type(self)(
            _carry(self.differences + other.differences),
            _carry(self.departures + other.departures),
            self.crossings + other.crossings,
            self.undecided + other.undecided,
            self.active.combine(other.active),
            self.rows + other.rows,
        )

    @property
    def overflows(self) -> int:
        """0 if all margins are finite, and all that are active are below 2^80 in size."""
        return sum(each.overflows for each in self.active)


def differences(
    probe: Probe,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    rows: Integers | None = None,
    tiles: bool = True,
) -> Differences:
    """Add up the differences over `images` (n, D) and `labels` (n,), both uint8.

    `rows` picks some rows, in any order and as often as it names them. `tiles=False` takes the
    plain way: the same integers, slower.

    Raises ValueError for a step that is not positive, or arrays that do not fit together.
    """
    _check_probe(probe)
    check_arrays(probe.scorer.weights, images, labels)
    check_bytes(images, labels)
    rows = pick_rows(rows, len(images))
    runs = range(0, max(1, len(rows)), LIMB_ROWS // len(probe.scorer.offset))
    return reduce(
        Differences.combine,
        (_run(probe, images, labels, rows[start : start + runs.step], tiles) for start in runs),
    )


def _check_probe(probe: Probe) -> None:
    """Raise ValueError unless differences can be counted by it."""
    smallest, largest = STEPS
    if not smallest <= probe.step <= largest:
        raise ValueError(
            f"the step of a difference must be from {smallest:g} to {largest:g}, not {probe.step}"
        )
    weights = probe.scorer.weights
    if weights.dtype != np.float64:
        raise ValueError(f"differences are taken of float64 scores, not of {weights.dtype}")
    if probe.mean.shape != weights.shape[1:]:
        raise ValueError(
            f"weights {weights.shape} need a mean of their pixels, not {probe.mean.shape}"
        )


def _run(
    probe: Probe,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    rows: Integers,
    tiles: bool,
) -> Differences:
    """Add up so few rows that no sum overflows."""
    weights, images = pad(probe.scorer.weights, images)
    classes, columns = probe.scorer.weights.shape
    tiles_of_classes = -(-classes // TILE_CLASSES) * TILE_CLASSES
    sums = np.zeros((2, tiles_of_classes, images.shape[1] + _BIAS_LANES), np.int64)
    departures = np.zeros((2, tiles_of_classes, columns + 1), np.int64)
    crossings, undecided = np.zeros((2, tiles_of_classes, columns + 1), np.int64)
    counts = np.zeros(tiles_of_classes, np.int64)
    sizes = np.zeros((tiles_of_classes, LOSS_LIMBS), np.int64)
    offset = np.pad(probe.scorer.offset, (0, len(weights) - classes))
    overflows = compiled.differences(
        images,
        labels,
        rows,
        (weights, probe.scorer.offset),
        (np.abs(weights), np.abs(offset)),
        np.pad(probe.mean, (0, images.shape[1] - columns)),
        _numbers(probe),
        tiles,
        (sums, departures, crossings, undecided, counts, sizes),
    )
    active = Sums(
        LossSum.of_limbs(limbs, overflows, count)
        for limbs, count in zip(sizes[:classes], counts.tolist(), strict=False)
    )
    used = [*range(columns), sums.shape[2] - 1]
    return Differences(
        _carry(sums[:, :classes, used]),
        _carry(departures[:, :classes]),
        crossings[:classes],
        undecided[:classes],
        active,
        len(rows),
    )


def _carry(limbs: Integers) -> Integers:
    """Return the same numbers with their lower limbs in 0..2^32 - 1: in the one way there is."""
    low, high = limbs
    return np.stack([low & (2**compiled.LIMB_BITS - 1), high + (low >> compiled.LIMB_BITS)])


def _numbers(probe: Probe) -> tuple[float, float, float, float, float, bool]:
    """Return what the compiled loop takes of a probe; see there."""
    magic = 1.5 * 2.0**52 * probe.unit
    centred = probe.scheme is Scheme.CENTRED
    return probe.delta, probe.step, probe.reach, magic, probe.slack, centred


def quotient(total: Differences, probe: Probe) -> Floats:
    """Return the difference quotient (C, D + 1) of the mean hinge loss.

    Raises ValueError if no row was summed.
    """
    return _whole(total.differences) * _weight(total, probe)


def kink_part(total: Differences, probe: Probe) -> Floats:
    """Return how much of the quotient (C, D + 1) is there only because kinks were crossed."""
    return _whole(total.departures) * _weight(total, probe)


def _whole(limbs: Integers) -> Floats:
    """Return the numbers that the limbs stand for, rounded once."""
    low, high = limbs.astype(np.float64)
    return np.asarray(high * 2.0**compiled.LIMB_BITS + low)


def _weight(total: Differences, probe: Probe) -> float:
    """What a unit of the sums is of the quotient."""
    if total.rows == 0:
        raise ValueError("the mean over no rows is not defined; sum at least one row")
    return probe.unit / (probe.step * probe.scheme.width * total.rows)


def roundoff(total: Differences, probe: Probe) -> Floats:
    """Return what rounding can make of the quotient less its kink part, at most (C, D + 1).

    Rounded are, for each margin that is not 0 all along, the centred pixel, both moved margins,
    the difference, and that to whole units; of each crossing the departure, to whole units; and
    both of the sums.
    """
    sizes = np.array([each.loss / (1 << LOSS_UNIT_BITS) for each in total.active])
    counts = np.array([each.rows for each in total.active])
    each = 8 * ROUNDOFF_UNIT * probe.reach + probe.unit
    bound = (2 * ROUNDOFF_UNIT * sizes + each * counts) * _weight(total, probe) / probe.unit
    sums = np.abs(quotient(total, probe)) + np.abs(kink_part(total, probe))
    return np.asarray(_HIGHER_ORDERS * (bound[:, None] + 4 * ROUNDOFF_UNIT * sums))


def undecided_part(total: Differences) -> Floats:
    """Return what scores that are off by the probe's slack can make of a gradient (C, D + 1)."""
    part = total.undecided * (2.0**-compiled.PIXEL_BITS / total.rows)
    return np.asarray(part, np.float64)


def slack_of_float32(columns: int) -> float:
    """Return how far float32 scores of so many pixels may be off, as a part of `|W| . |x|`.

    A score is summed in `columns / 16` steps and a tree of four, and has an offset; weights and
    offset are rounded, and a margin takes two more operations.

    N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, chapter 3.
    """
    n = -(-columns // 16) + 4 + 5
    u = 2.0**-24
    return n * u / (1 - n * u)
