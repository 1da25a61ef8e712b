"""Helpers for tests of gradient checks: assembling a comparison, and comparing sums."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from kernels.finite_difference import Scheme
from kernels.gradient_verdict import Comparison
from kernels.hinge import fold, sum_rows
from kernels.partial import finalize
from kernels.regulariser_difference import gradient_roundoff, regulariser_quotient
from kernels.structured_difference import (
    Differences,
    Probe,
    differences,
    kink_part,
    quotient,
    roundoff,
    undecided_part,
)

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Checked:
    """An objective and the differences of its loss, with which any gradient can be checked."""

    W: Floats
    images: Bytes
    labels: Bytes
    mean: Floats
    probe: Probe
    reg: float
    sums: Differences

    @classmethod
    def at(
        cls,
        W: Floats,
        images: Bytes,
        labels: Bytes,
        mean: Floats,
        *,
        step: float,
        scheme: Scheme = Scheme.CENTRED,
        delta: float = 1.0,
        reg: float = 0.0,
        slack: float = 0.0,
    ) -> "Checked":
        """Return the objective with its differences summed over the images."""
        probe = Probe(fold(W, mean, np.float64), mean, step, scheme, delta, slack)
        return cls(W, images, labels, mean, probe, reg, differences(probe, images, labels))

    def gradient(self, dtype: type = np.float64) -> Floats:
        """Return the gradient as training computes it, with scores of type `dtype`."""
        scorer = fold(self.W, self.mean, dtype)
        total = sum_rows(scorer, self.images, self.labels, delta=self.probe.delta)
        return finalize(total, self.W, self.mean, reg=self.reg).gradient

    def compare(self, gradient: Floats) -> Comparison:
        """Compare a gradient (C, D + 1) with the differences."""
        regulariser = regulariser_quotient(self.W, self.reg, self.probe.step, self.probe.scheme)
        rounded = gradient_roundoff(gradient, self.W, self.mean, self.reg)
        return Comparison(
            gradient,
            quotient(self.sums, self.probe) + regulariser.value,
            kink_part(self.sums, self.probe),
            self.sums.crossings,
            roundoff(self.sums, self.probe) + regulariser.bound + rounded,
            undecided_part(self.sums),
        )


def in_units(limbs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join the limbs of differences or departures (C, D + 1) of few rows."""
    low, high = limbs
    joined: NDArray[np.int64] = (high << 32) + low
    return joined


def assert_same_sums(a: Differences, b: Differences) -> None:
    """Assert that every field of two sums contains the same integers."""
    for field in fields(Differences):
        mine, others = getattr(a, field.name), getattr(b, field.name)
        np.testing.assert_array_equal(mine, others, err_msg=field.name)
