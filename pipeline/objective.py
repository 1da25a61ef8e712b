"""The objective: the loss and its gradient over the training rows, wherever they lie.

The path of the data, whole: the weights are folded with the mean image into a `Scorer`;
every shard sums its rows' losses and integer gradients into a `Partial`; the partials are
combined, in any order, to the same bits; `finalize` turns them into the mean loss and its
gradient. Where the shards are (this process, the actors of `pipeline.actors`, the tasks of
`pipeline.evaluation`) is the business of an `OverShards` alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from kernels.hinge import fold
from kernels.partial import Evaluation, finalize
from pipeline.shards import Pass, Rows, Shard, partial


class Summable(Protocol):
    """What comes from shards: it can be combined in any order, to the same bits."""

    def combine(self, other: Self, /) -> Self:
        """Return the sum of both."""
        ...


I = TypeVar("I")  # noqa: E741
S = TypeVar("S", bound=Summable)


class OverShards(Protocol):
    """Goes over all shards of a split."""

    def __call__(self, function: Callable[[Shard, I], S], inputs: I, /) -> Iterable[S]:
        """Call `function(shard, inputs)` for every shard; return sums that make up the total.

        `function` is found by its name in a module, and keeps nothing but in `shard.memory`.
        """
        ...


def total(over: OverShards, function: Callable[[Shard, I], S], inputs: I) -> S:
    """Return the sum of `function(shard, inputs)` over all shards."""
    return reduce(lambda a, b: a.combine(b), over(function, inputs))


def here(shards: Sequence[Shard]) -> OverShards:
    """Go over shards in this process, one after another."""

    def over(function: Callable[[Shard, I], S], inputs: I, /) -> list[S]:
        return [function(shard, inputs) for shard in shards]

    return over


@dataclass(frozen=True, eq=False)
class Objective:
    """The regularised mean hinge loss, as a function of the weights."""

    over: OverShards
    mean: NDArray[np.float64]
    """The mean training image (D,)."""
    reg: float = 0.0
    """The loss has `reg * ||W without bias||^2` added."""
    dtype: str = "float32"
    """The type scores are taken in; sums and weights are exact or float64 in any case."""
    reg_bias: bool = False
    """Whether the regulariser takes the bias as well."""

    def __call__(self, W: NDArray[np.float64], rows: Rows | None = None) -> Evaluation:
        """Evaluate at `W` (C, D + 1) over `rows`, or over all."""
        sums = total(self.over, partial, Pass(fold(W, self.mean, self.dtype), rows))
        return finalize(sums, W, self.mean, reg=self.reg, reg_bias=self.reg_bias)
