"""What a finite difference says of a gradient, coordinate by coordinate.

A difference and the gradient disagree for three reasons. Margins cross their kink on the way:
how much that makes is known exactly (`kernels.structured_difference`). Floating point rounds:
how much that can make is bounded, from the sizes of all that is rounded. What neither explains
is a wrong gradient.

The relative error is `|a - n| / max(|a|, |n|)`, as in the notes of Stanford's course CS231n.
All arrays of a comparison are of one shape, an element a coordinate.
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
"""The relative error up to which a coordinate needs no explanation; it is the course's."""

ROUNDOFF_UNIT = 2.0**-53
"""What a float64 operation is off by at most, as a part of its result."""

WORST = 10
"""Coordinates that are named."""

ERROR_DECADES = range(-18, 3)
"""The powers of 10 that the histogram of relative errors goes from and to."""


class Verdict(IntEnum):
    """What is found of a coordinate."""

    PASS = 0
    """Gradient and difference agree: to `TOLERANCE`, and within the bound on rounding."""
    KINK = 1
    """They disagree by what the crossed kinks explain, but for rounding."""
    ROUNDOFF = 2
    """They disagree by no more than the rounding of both."""
    WRONG = 3
    """They disagree by what nothing explains."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """A gradient beside its difference, and what may part them."""

    analytic: Floats
    numerical: Floats
    """The difference quotient."""
    kinks: Floats
    """How much of that is there only because kinks were crossed."""
    crossings: Integers
    """How many margins crossed theirs."""
    bound: Floats
    """What rounding can make of the rest, at most."""
    undecided: Floats | float = 0.0
    """What more it can make of the gradient by giving margins near 0 the other sign."""

    @property
    def roundoff(self) -> Floats:
        """All that rounding can make, at most."""
        return np.asarray(self.bound + self.undecided)

    @cached_property
    def error(self) -> Floats:
        """The disagreement, `|a - n|`; it may be no number."""
        return np.abs(self.analytic - self.numerical)

    @cached_property
    def error_after_kinks(self) -> Floats:
        """The disagreement that the kinks do not explain."""
        return np.abs(self.analytic - (self.numerical - self.kinks))

    @cached_property
    def relative_error(self) -> Floats:
        """`|a - n| / max(|a|, |n|)`, and 0 where both are 0."""
        return relative(self.error, self.analytic, self.numerical)

    @cached_property
    def relative_error_after_kinks(self) -> Floats:
        """The same once the kinks are accounted for."""
        return relative(self.error_after_kinks, self.analytic, self.numerical - self.kinks)

    @cached_property
    def verdicts(self) -> NDArray[np.int8]:
        """Each coordinate's `Verdict`.

        >>> cases = [(2.0, 2.0, 0.0, 0, 1e-12), (2.0, 2.5, 0.5, 1, 1e-12),
        ...          (1e-20, 0.0, 0.0, 0, 1e-12), (2.0, 2.1, 0.0, 0, 1e-12)]
        >>> [Verdict(each).name for each in Comparison(*np.array(cases).T).verdicts.tolist()]
        ['PASS', 'KINK', 'ROUNDOFF', 'WRONG']
        """
        after = self.error_after_kinks
        found = np.full(after.shape, Verdict.KINK, np.int8)
        found[(self.error <= self.bound) | (after > self.bound)] = Verdict.ROUNDOFF
        found[self.relative_error <= TOLERANCE] = Verdict.PASS
        found[~(after <= self.roundoff)] = Verdict.WRONG  # what is no number, too
        return found


def relative(error: Floats, a: Floats, b: Floats) -> Floats:
    """Return `error / max(|a|, |b|)`, and 0 where there is no error.

    >>> relative(np.array([0.0, 0.5]), np.array([0.0, 2.0]), np.array([0.0, -1.0]))
    array([0.  , 0.25])
    """
    size = np.maximum(np.abs(a), np.abs(b))
    with np.errstate(invalid="ignore"):  # of an infinite one
        return np.divide(error, size, out=np.zeros_like(error), where=error != 0)


class Named(NamedTuple):
    """One coordinate of those that are the farthest off."""

    place: tuple[int, ...]
    """Its indices."""
    verdict: Verdict
    analytic: float
    numerical: float
    error: float
    error_after_kinks: float
    crossings: int

    @property
    def rank(self) -> tuple[int, float, tuple[int, ...]]:
        """What the farthest off is the first by: wrong ones, then by what is unexplained."""
        off = self.error_after_kinks if np.isfinite(self.error_after_kinks) else np.inf
        return -int(self.verdict is Verdict.WRONG), -off, self.place


class Largest(NamedTuple):
    """The largest of each error of a set of coordinates."""

    relative_error: float
    relative_error_after_kinks: float
    error: float
    error_after_kinks: float
    bound: float
    """Of the bounds on rounding."""


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found of a set of coordinates, in few numbers; `combine` joins two."""

    verdicts: Integers
    """(4,): how many coordinates have each."""
    crossings: int
    largest: Largest
    histograms: Integers
    """(2, len(ERROR_DECADES) - 1): relative errors by their power of 10, before and after kinks.

    What is below the lowest, 0 among it, or above the highest is counted there."""
    worst: tuple[Named, ...]
    """The farthest off, at most `WORST`."""

    @classmethod
    def of(cls, comparison: Comparison, rows: Integers | None = None) -> Self:
        """Sum up a comparison; `rows` (n,) are its rows' numbers, where those are not its own."""
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
        """Return what was found of both sets."""
        return Findings(
            self.verdicts + other.verdicts,
            self.crossings + other.crossings,
            # NumPy's maximum keeps what is no number
            Largest._make(np.maximum(self.largest, other.largest).tolist()),
            self.histograms + other.histograms,
            tuple(sorted(self.worst + other.worst, key=lambda each: each.rank)[:WORST]),
        )

    @property
    def wrong(self) -> int:
        """How many coordinates are wrong."""
        return int(self.verdicts[Verdict.WRONG])


def _by_decade(errors: Floats) -> Integers:
    """Count errors by their power of 10; what is no number counts as the largest."""
    last = len(ERROR_DECADES) - 2
    with np.errstate(divide="ignore"):
        decades = np.floor(np.log10(errors.ravel())) - ERROR_DECADES[0]
    places = np.clip(np.nan_to_num(decades, nan=last, copy=False), 0, last)
    return np.bincount(places.astype(np.int64), minlength=last + 1)


def _worst(comparison: Comparison, rows: Integers | None) -> tuple[Named, ...]:
    """Return the farthest off: the wrong ones first, then by what is unexplained."""
    after = comparison.error_after_kinks.ravel()
    wrong = np.flatnonzero(comparison.verdicts.ravel() == Verdict.WRONG)
    among = wrong if len(wrong) >= WORST else np.arange(after.size)
    chosen = {*_largest(np.nan_to_num(after, nan=np.inf), among).tolist(), *wrong[:WORST].tolist()}
    named = (_named(comparison, flat, rows) for flat in chosen)
    return tuple(sorted(named, key=lambda each: each.rank)[:WORST])


def _largest(values: Floats, among: Integers) -> Integers:
    """Return where the `WORST` largest values are, the first of equals."""
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
