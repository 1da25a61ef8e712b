"""The objective: the loss and its gradient over the training rows, wherever they lie.

The path of the data, whole: the weights are folded with the mean image into a `Scorer`;
every shard sums its rows' losses and integer gradients into a `Partial`; the partials are
combined, in any order, to the same bits; `finalize` turns them into the mean loss and its
gradient. Where the shards are (this process, the actors of `pipeline.actors`, the tasks of
`pipeline.evaluation`) is the business of `partials` alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from kernels.hinge import Scorer, fold
from kernels.partial import Evaluation, Partial, finalize
from pipeline.shards import Rows, Shard

Partials = Callable[[Scorer, Rows | None], Iterable[Partial]]
"""Every shard's sums over all its rows, or over those of the given rows that it has."""


@dataclass(frozen=True, eq=False)
class Objective:
    """The regularised mean hinge loss, as a function of the weights."""

    partials: Partials
    mean: NDArray[np.float64]
    """The mean training image (D,)."""
    reg: float = 0.0
    """The loss has `reg * ||W without bias||^2` added."""
    dtype: str = "float32"
    """The type scores are taken in; sums and weights are exact or float64 in any case."""

    def __call__(self, W: NDArray[np.float64], rows: Rows | None = None) -> Evaluation:
        """Evaluate at `W` (C, D + 1) over `rows`, or over all."""
        scorer = fold(W, self.mean, self.dtype)
        total = reduce(Partial.combine, self.partials(scorer, rows))
        return finalize(total, W, self.mean, reg=self.reg)


def here(shards: Sequence[Shard]) -> Partials:
    """Sum the shards in this process, one after another."""
    return lambda scorer, rows: [shard.partial(scorer, rows) for shard in shards]
