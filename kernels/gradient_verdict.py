"""Verdicts of a gradient check, one per coordinate.

A finite difference and the analytic gradient can disagree for three reasons:

* Margins cross their kink within the difference. That contribution is known exactly
  (`kernels.structured_difference`).
* Floating point rounds. That contribution has a bound, from the sizes of all rounded numbers.
* The gradient is wrong. This is the verdict if the other two do not explain the disagreement.

The relative error is `|a - n| / max(|a|, |n|)`, as in the notes of Stanford's course CS231n.
All arrays of a comparison have the same shape, with one element per coordinate.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TOLERANCE = 1e-7
"""The relative error up to which a coordinate needs no explanation, from the CS231n notes."""

ROUNDOFF_UNIT = 2.0**-53
"""The largest relative error of one float64 operation."""

WORST = 10
"""The largest number of coordinates in `Findings.worst`."""

ERROR_DECADES = range(-18, 3)
"""The powers of 10 at the edges of the histogram of relative errors."""


class Verdict(IntEnum):
    """The outcome of the check of one coordinate."""

    PASS = 0
    """The relative error is at most `TOLERANCE`, and kinks and rounding can explain the error."""
    KINK = 1
    """Gradient and difference disagree, and crossed kinks explain it up to rounding."""
    ROUNDOFF = 2
    """Gradient and difference disagree, and rounding can explain it."""
    WRONG = 3
    """Gradient and difference disagree, and neither kinks nor rounding explain it."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """An analytic gradient, its numerical gradient, and what may make them differ."""

    analytic: Floats
    numerical: Floats
    """The difference quotient."""
    kinks: Floats
    """The part of the difference quotient that is due to crossed kinks."""
    crossings: Integers
    """How many margins crossed their kink."""
    bound: Floats
    """A bound on the rounding error of `analytic - (numerical - kinks)`."""
    undecided: Floats | float = 0.0
    """A further bound: the change of the gradient if margins near 0 get the wrong sign."""

    @property
    def roundoff(self) -> Floats:
        """A bound on all effects of rounding: `bound + undecided`."""
        return np.asarray(self.bound + self.undecided)

    @cached_property
    def error(self) -> Floats:
        """The disagreement, `|a - n|`; it may be non-finite."""
        return np.abs(self.analytic - self.numerical)

    @cached_property
    def error_after_kinks(self) -> Floats:
        """The disagreement that the kinks do not explain."""
        return np.abs(self.analytic - (self.numerical - self.kinks))

    @cached_property
    def relative_error(self) -> Floats:
        """The relative error `|a - n| / max(|a|, |n|)`, and 0 if both are 0."""
        return relative(self.error, self.analytic, self.numerical)

    @cached_property
    def relative_error_after_kinks(self) -> Floats:
        """The relative error without the kinks' part of the difference."""
        return relative(self.error_after_kinks, self.analytic, self.numerical - self.kinks)

    @cached_property
    def verdicts(self) -> NDArray[np.int8]:
        """The `Verdict` of each coordinate.

        Examples:
            >>> cases = [(2.0, 2.0, 0.0, 0, 1e-12), (2.0, 2.5, 0.5, 1, 1e-12),
            ...          (1e-20, 0.0, 0.0, 0, 1e-12), (2.0, 2.1, 0.0, 0, 1e-12)]
            >>> [Verdict(each).name for each in Comparison(*np.array(cases).T).verdicts.tolist()]
            ['PASS', 'KINK', 'ROUNDOFF', 'WRONG']
        """
        after = self.error_after_kinks
        found = np.full(after.shape, Verdict.KINK, np.int8)
        found[(self.error <= self.bound) | (after > self.bound)] = Verdict.ROUNDOFF
        found[self.relative_error <= TOLERANCE] = Verdict.PASS
        found[~(after <= self.roundoff)] = Verdict.WRONG  # also for nan, which compares False
        return found


def relative(error: Floats, a: Floats, b: Floats) -> Floats:
    """Return `error / max(|a|, |b|)`, and 0 where the error is 0.

    Examples:
        >>> relative(np.array([0.0, 0.5]), np.array([0.0, 2.0]), np.array([0.0, -1.0]))
        array([0.  , 0.25])
    """
    size = np.maximum(np.abs(a), np.abs(b))
    with np.errstate(invalid="ignore"):  # inf / inf
        return np.divide(error, size, out=np.zeros_like(error), where=error != 0)


class Named(NamedTuple):
    """One of the coordinates with the largest errors."""

    place: tuple[int, ...]
    """The indices of the coordinate."""
    verdict: Verdict
    analytic: float
    numerical: float
    error: float
    error_after_kinks: float
    crossings: int

    @property
    def rank(self) -> tuple[int, float, tuple[int, ...]]:
        """The sort key: wrong coordinates first, then by decreasing `error_after_kinks`."""
        off = self.error_after_kinks if np.isfinite(self.error_after_kinks) else np.inf
        return -int(self.verdict is Verdict.WRONG), -off, self.place


class Largest(NamedTuple):
    """The largest value of each error over a set of coordinates."""

    relative_error: float
    relative_error_after_kinks: float
    error: float
    error_after_kinks: float
    bound: float
    """The largest bound on rounding, `Comparison.roundoff`."""


@dataclass(frozen=True, eq=False)
class Findings:
    """A summary of the check of a set of coordinates; `combine` joins two."""

    verdicts: Integers
    """(4,): how many coordinates have each verdict."""
    crossings: int
    largest: Largest
    histograms: Integers
    """(2, len(ERROR_DECADES) - 1): relative errors by their power of 10, before and after kinks.

    The outer bins also count everything beyond them; an error of 0 is in the lowest."""
    worst: tuple[Named, ...]
    """The coordinates with the largest errors, at most `WORST`."""

    @classmethod
    def of(cls, comparison: Comparison, rows: Integers | None = None) -> Self:
        """Summarise a comparison; `rows` (n,) are the numbers of its rows (default: 0 to n - 1)."""
        errors = [
            comparison.relative_error,
            comparison.relative_error_after_kinks,
            comparison.error,
            comparison.error_after_kinks,
            comparison.roundoff,
        ]
        return cls(
            np.bincount(comparison.verdicts.ravel(), minlength=len(Verdict)).astype(np.int64),
            int(comparison.crossings.sum()),
            Largest._make(float(each.max(initial=0.0)) for each in errors),
            np.stack([_by_decade(each) for each in errors[:2]]),
            _worst(comparison, rows),
        )

    def combine(self, other: "Findings") -> "Findings":
        """Return the summary of both sets."""
        return Findings(
            self.verdicts + other.verdicts,
            self.crossings + other.crossings,
            # np.maximum propagates nan
            Largest._make(np.maximum(self.largest, other.largest).tolist()),
            self.histograms + other.histograms,
            tuple(sorted(self.worst + other.worst, key=lambda each: each.rank)[:WORST]),
        )

    @property
    def wrong(self) -> int:
        """The number of coordinates with the verdict `WRONG`."""
        return int(self.verdicts[Verdict.WRONG])


def _by_decade(errors: Floats) -> Integers:
    """Count errors by their power of 10; nan counts as the largest."""
    last = len(ERROR_DECADES) - 2
    with np.errstate(divide="ignore"):
        decades = np.floor(np.log10(errors.ravel())) - ERROR_DECADES[0]
    places = np.clip(np.nan_to_num(decades, nan=last, copy=False), 0, last)
    return np.bincount(places.astype(np.int64), minlength=last + 1)


def _worst(comparison: Comparison, rows: Integers | None) -> tuple[Named, ...]:
    """Return the `WORST` coordinates: wrong ones first, then by decreasing error after kinks."""
    after = comparison.error_after_kinks.ravel()
    wrong = np.flatnonzero(comparison.verdicts.ravel() == Verdict.WRONG)
    among = wrong if len(wrong) >= WORST else np.arange(after.size)
    chosen = {*_largest(np.nan_to_num(after, nan=np.inf), among).tolist(), *wrong[:WORST].tolist()}
    named = (_named(comparison, flat, rows) for flat in chosen)
    return tuple(sorted(named, key=lambda each: each.rank)[:WORST])


def _largest(values: Floats, among: Integers) -> Integers:
    """Return the positions of the `WORST` largest values; of equal values, the first."""
    if len(among) > WORST:
        least = np.partition(values[among], -WORST)[-WORST]
        among = among[values[among] >= least]
    return among[np.argsort(-values[among], kind="stable")[:WORST]]


def _named(comparison: Comparison, flat: int, rows: Integers | None) -> Named:
    place = tuple(map(int, np.unravel_index(flat, comparison.analytic.shape)))
    if rows is not None:
        place = (int(rows[place[0]]), *place[1:])
    return Named(
        place,
        Verdict(int(comparison.verdicts.flat[flat])),
        float(comparison.analytic.flat[flat]),
        float(comparison.numerical.flat[flat]),
        float(comparison.error.flat[flat]),
        float(comparison.error_after_kinks.flat[flat]),
        int(comparison.crossings.flat[flat]),
    )
