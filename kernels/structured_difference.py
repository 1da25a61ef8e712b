"""Finite differences of the loss in every weight at once, from the hinges themselves.

Changing the weight W[j, d] by h moves only the margins that depend on the score of class j:
`m_ij` by `h x_id`, and in rows of class j every other margin by `-h x_id`. So one pass over the
images computes the difference of the true loss in all coordinates. For each row, class and column,
both hinge values are evaluated and subtracted. The formula of the gradient is not used, only the
fact that scores are linear in W.

    centred   (L(W + h e) - L(W - h e)) / 2h    from    hinge(m + h x) - hinge(m - h x)
    forward   (L(W + h e) - L(W)) / h           from    hinge(m + h x) - hinge(m)

A hinge has a kink at margin 0. If a margin crosses its kink within the difference, the difference
departs from the subgradient (the one with indicator 0 at m = 0). The departure is known exactly:
its size is the part of the move beyond the kink. Crossings are counted and departures are summed
per coordinate. For a correct gradient, rounding explains the rest of a disagreement.

Differences are rounded to whole units and added as integers, so the sums are bit-identical for
any order and grouping of the rows. A unit is about 2^-47 of the largest possible difference.
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
"""The smallest and the largest difference step h: units and moved margins must fit float64."""

_UNITS = 47
"""The largest difference has up to 2^47 units, and rounding of the moved margins may double it.
The sums of a block of 256 rows and 128 classes still fit int64."""

_HIGHER_ORDERS = 1 + 1e-6
"""Factor for what a first-order bound omits: products of rounding errors and its own rounding."""

_BIAS_LANES = 8
"""Number of columns in the extra vector for the bias. The bias is its last lane."""


class Probe(NamedTuple):
    """The parameters of the differences."""

    scorer: Scorer
    """The weights with the mean folded in, float64; see `hinge.fold`."""
    mean: Floats
    """The mean image (D,)."""
    step: float
    """The difference step h, positive."""
    scheme: Scheme = Scheme.CENTRED
    delta: float = 1.0
    slack: float = 0.0
    """A bound on the error of the scores that the checked gradient uses, relative to `|W| . |x|`.

    It is 0 for float64 scores, because they are bit-identical to the scores here."""

    @property
    def reach(self) -> float:
        """The largest distance that a margin can move."""
        centred = np.maximum(np.abs(self.mean), np.abs(255 - self.mean))
        return float(np.nextafter(self.step * max(1.0, centred.max(initial=0)), math.inf))

    @property
    def unit(self) -> float:
        """The unit that differences are counted in, a power of two."""
        _, exponent = math.frexp(2 * self.reach)
        return math.ldexp(1.0, exponent - _UNITS)


@dataclass(frozen=True, eq=False)
class Differences:
    """The sums over a set of rows for one probe; `combine` adds two."""

    differences: Integers
    """(2, C, D + 1): the differences of the rows' losses in units, as a lower 32-bit limb and an
    upper limb."""
    departures: Integers
    """(2, C, D + 1): the part of `differences` that is due to crossed kinks, in the same form."""
    crossings: Integers
    """(C, D + 1): the number of margins that cross their kink within the difference."""
    undecided: Integers
    """(C, D + 1): sums of |centred pixel|, in units of 2^-20, over margins whose sign may be wrong
    because of `slack`."""
    active: Sums[LossSum]
    """(C,): sums of |margin| over margins whose hinge may be positive within `Probe.reach`;
    `rows` counts these margins."""
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
        """0 if all margins are finite and all active ones below 2^80 in size, else positive."""
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

    `rows` selects rows, in any order and with repeats (default: every row once). `tiles=False`
    uses the plain implementation, which gives the same integers more slowly.

    Raises ValueError if the difference step is outside `STEPS` or the arrays do not fit together.
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
    """Raise ValueError unless the step, the scores and the mean are usable."""
    smallest, largest = STEPS
    if not smallest <= probe.step <= largest:
        raise ValueError(
            f"the step of a difference must be from {smallest:g} to {largest:g}, not {probe.step}"
        )
    weights = probe.scorer.weights
    if weights.dtype != np.float64:
        raise ValueError(f"differences need float64 scores, not {weights.dtype}")
    if probe.mean.shape != weights.shape[1:]:
        raise ValueError(
            f"weights {weights.shape} need a mean of shape {weights.shape[1:]}, "
            f"not {probe.mean.shape}"
        )


def _run(
    probe: Probe,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    rows: Integers,
    tiles: bool,
) -> Differences:
    """Add up the differences of rows that are few enough for no sum to overflow."""
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
    """Return the same numbers with the lower limb in 0..2^32 - 1, which makes limbs unique."""
    low, high = limbs
    return np.stack([low & (2**compiled.LIMB_BITS - 1), high + (low >> compiled.LIMB_BITS)])


def _numbers(probe: Probe) -> tuple[float, float, float, float, float, bool]:
    """Return the numbers of a probe that `kernels.compiled.differences.differences` needs."""
    magic = 1.5 * 2.0**52 * probe.unit
    centred = probe.scheme is Scheme.CENTRED
    return probe.delta, probe.step, probe.reach, magic, probe.slack, centred


def quotient(total: Differences, probe: Probe) -> Floats:
    """Return the difference quotient (C, D + 1) of the mean hinge loss.

    Raises ValueError if no rows were summed.
    """
    return _whole(total.differences) * _weight(total, probe)


def kink_part(total: Differences, probe: Probe) -> Floats:
    """Return the part of the quotient (C, D + 1) that is due to crossed kinks."""
    return _whole(total.departures) * _weight(total, probe)


def _whole(limbs: Integers) -> Floats:
    """Return the numbers that the limbs represent, rounded once."""
    low, high = limbs.astype(np.float64)
    return np.asarray(high * 2.0**compiled.LIMB_BITS + low)


def _weight(total: Differences, probe: Probe) -> float:
    """Return the contribution of one unit of the sums to the quotient."""
    if total.rows == 0:
        raise ValueError("the mean over no rows is not defined; sum at least one row")
    return probe.unit / (probe.step * probe.scheme.width * total.rows)


def roundoff(total: Differences, probe: Probe) -> Floats:
    """Return a bound on the rounding error of the quotient minus its kink part (C, D + 1).

    For each active margin, the centred pixel, both moved margins and their difference are rounded,
    and the difference again to whole units. For each crossing, the departure is rounded to whole
    units. Last, both sums are rounded.
    """
    sizes = np.array([each.loss / (1 << LOSS_UNIT_BITS) for each in total.active])
    counts = np.array([each.rows for each in total.active])
    each = 8 * ROUNDOFF_UNIT * probe.reach + probe.unit
    bound = (2 * ROUNDOFF_UNIT * sizes + each * counts) * _weight(total, probe) / probe.unit
    sums = np.abs(quotient(total, probe)) + np.abs(kink_part(total, probe))
    return np.asarray(_HIGHER_ORDERS * (bound[:, None] + 4 * ROUNDOFF_UNIT * sums))


def undecided_part(total: Differences) -> Floats:
    """Return a bound on the error of a gradient (C, D + 1) whose scores err by up to the slack."""
    part = total.undecided * (2.0**-compiled.PIXEL_BITS / total.rows)
    return np.asarray(part, np.float64)


def slack_of_float32(columns: int) -> float:
    """Return a bound on the error of float32 scores of `columns` pixels, relative to `|W| . |x|`.

    A score is a sum of `columns / 16` terms per lane, followed by a tree of four additions and
    the offset. Weights and offset are rounded, and a margin needs two more operations.

    N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, chapter 3.
    """
    n = -(-columns // 16) + 4 + 5
    u = 2.0**-24
    return n * u / (1 - n * u)
