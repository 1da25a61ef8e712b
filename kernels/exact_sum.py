"""Exact sums of losses: integers in units of 2^-80, so that a sum does not depend on its order.

The compiled loops add each loss to four limbs (`LOSS_LIMBS`). `LossSum` joins the limbs to one
integer, and combines with others in any order and any grouping to the same bits.
"""

import math
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

LIMB_BITS = 40
LOSS_LIMBS = 4
"""A sum of losses is four int64 limbs, in units of 2^-80, 2^-40, 1 and 2^40.

A row's loss goes in exactly, but for what is below 2^-80, so that the sum has no order; a
limb takes `LIMB_ROWS` before it could overflow."""

LIMB_ROWS = 2 ** (63 - LIMB_BITS)

LARGEST_LOSS = 2.0 ** (LIMB_BITS * LOSS_LIMBS // 2)
"""A row's loss has to be below this to count as a number; see `kernels.partial`."""

LOSS_UNIT_BITS = LIMB_BITS * (LOSS_LIMBS // 2)
"""Losses are summed in units of 2^-80."""


@dataclass(frozen=True)
class LossSum:
    """The losses of a set of rows, summed; `LossSum()` and `combine` make them a monoid."""

    loss: int = 0
    """Sum of the rows' losses in units of 2^-80, without the rows that overflow."""
    overflows: int = 0
    """Rows that overflow: a margin is not finite, or the loss is 2^80 or more."""
    rows: int = 0
    """How many rows were summed."""

    @classmethod
    def of_limbs(cls, limbs: NDArray[np.int64], overflows: int, rows: int) -> Self:
        """Join the limbs (`LOSS_LIMBS`, or more,) of a compiled sum, the lowest first."""
        loss = sum(int(limb) << (i * LIMB_BITS) for i, limb in enumerate(limbs))
        return cls(loss, int(overflows), rows)

    def combine(self, other: "LossSum") -> "LossSum":
        """Return the sum over both sets of rows.

        >>> LossSum(3, 0, 1).combine(LossSum(4, 1, 2))
        LossSum(loss=7, overflows=1, rows=3)
        """
        return LossSum(
            self.loss + other.loss, self.overflows + other.overflows, self.rows + other.rows
        )

    @property
    def mean(self) -> float:
        """The mean loss of a row; inf if a row overflows.

        Raises ValueError if no row was summed.
        """
        if self.rows == 0:
            raise ValueError("the mean over no rows is not defined; sum at least one row")
        return math.inf if self.overflows else self.loss / (self.rows << LOSS_UNIT_BITS)


class _Combinable(Protocol):
    def combine(self, other: Self, /) -> Self: ...


T = TypeVar("T", bound=_Combinable)


class Sums(tuple[T, ...]):
    """Several sums over the same rows, side by side: one for each of some weights, say."""

    __slots__ = ()

    def combine(self, other: "Sums[T]", /) -> "Sums[T]":
        """Return the sums over both sets of rows.

        >>> Sums([LossSum(3, 0, 1), LossSum(5, 0, 1)]).combine(Sums([LossSum(1, 0, 2)] * 2))[1]
        LossSum(loss=6, overflows=0, rows=3)
        """
        return Sums(a.combine(b) for a, b in zip(self, other, strict=True))
