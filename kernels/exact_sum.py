"""Exact sums of losses: integers in units of 2^-80, so that a sum does not depend on its order.

The compiled loops add each loss to four limbs (`LOSS_LIMBS`). `LossSum` joins the limbs into one
integer. Sums combine in any order and any grouping, with bit-identical results.
"""

import math
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

LIMB_BITS = 40
LOSS_LIMBS = 4
"""A sum of losses is four int64 limbs, in units of 2^-80, 2^-40, 1 and 2^40.

A row's loss is added exactly, except for the part below 2^-80, so the sum does not depend on the
order of the rows. `LIMB_ROWS` rows can be added before a limb could overflow."""

LIMB_ROWS = 2 ** (63 - LIMB_BITS)

LARGEST_LOSS = 2.0 ** (LIMB_BITS * LOSS_LIMBS // 2)
"""A row whose loss is this or more overflows; see `kernels.partial`."""

LOSS_UNIT_BITS = LIMB_BITS * (LOSS_LIMBS // 2)
"""Losses are summed in units of 2^-80."""


@dataclass(frozen=True)
class LossSum:
    """The sum of the losses of a set of rows. `LossSum()` is the sum over no rows."""

    loss: int = 0
    """Sum of the rows' losses in units of 2^-80, without the rows that overflow."""
    overflows: int = 0
    """Rows that overflow: a margin is not finite, or the loss is 2^80 or more."""
    rows: int = 0
    """Number of rows, including those that overflow."""

    @classmethod
    def of_limbs(cls, limbs: NDArray[np.int64], overflows: int, rows: int) -> Self:
        """Join the limbs of a compiled sum (`LOSS_LIMBS` or more of them), lowest first."""
        loss = sum(int(limb) << (i * LIMB_BITS) for i, limb in enumerate(limbs))
        return cls(loss, int(overflows), rows)

    def combine(self, other: "LossSum") -> "LossSum":
        """Return the sum over both sets of rows.

        Examples:
            >>> LossSum(3, 0, 1).combine(LossSum(4, 1, 2))
            LossSum(loss=7, overflows=1, rows=3)
        """
        return LossSum(
            self.loss + other.loss, self.overflows + other.overflows, self.rows + other.rows
        )

    @property
    def mean(self) -> float:
        """The mean loss of the rows; inf if a row overflows.

        Raises ValueError if no row was summed.
        """
        if self.rows == 0:
            raise ValueError("the mean over no rows is not defined; sum at least one row")
        return math.inf if self.overflows else self.loss / (self.rows << LOSS_UNIT_BITS)


class _Combinable(Protocol):
    def combine(self, other: Self, /) -> Self: ...


T = TypeVar("T", bound=_Combinable)


class Sums(tuple[T, ...]):
    """Several sums over the same rows, for example one per trial."""

    __slots__ = ()

    def combine(self, other: "Sums[T]", /) -> "Sums[T]":
        """Return the sums over both sets of rows.

        Examples:
            >>> Sums([LossSum(3, 0, 1), LossSum(5, 0, 1)]).combine(Sums([LossSum(1, 0, 2)] * 2))[1]
            LossSum(loss=6, overflows=0, rows=3)
        """
        return Sums(a.combine(b) for a, b in zip(self, other, strict=True))
