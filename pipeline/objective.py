"""The objective: the loss and its gradient over the training rows. Start reading here.

The path of the data:

1. `fold` joins the weights and the mean image into a `Scorer`.
2. `sum_hinge` runs on every shard. It sums the losses and the integer gradients of the shard's
   rows into a `Partial`.
3. `sum_over_shards` combines the partials. They are integers, so the order does not matter.
4. `finalize` turns the total into the mean loss and its gradient.

Only a `MapShards` knows where the shards are (`pipeline.cluster.map_shards`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.hinge import Scorer, fold, sum_rows
from kernels.partial import Evaluation, Partial, finalize
from pipeline.cluster.map_shards import MapShards, shown_as, sum_over_shards
from pipeline.cluster.shards import Block, Shard, sum_over_blocks
from pipeline.inputs.examples import Rows


class HingeRequest(NamedTuple):
    """The inputs of `sum_hinge`."""

    scorer: Scorer
    rows: Rows | None = None
    """Row numbers in the split; None for all rows."""


@shown_as("hinge-evaluation")
def sum_hinge(shard: Shard, request: HingeRequest) -> Partial:
    """Sum the loss and its gradient over the requested rows of the shard."""

    def sum_block(block: Block) -> Partial:
        return sum_rows(request.scorer, block.images, block.labels, rows=block.rows)

    return sum_over_blocks(shard, request.rows, sum_block)


@dataclass(frozen=True, eq=False)
class Objective:
    """The regularised mean hinge loss as a function of the weights."""

    map_shards: MapShards
    mean: NDArray[np.float64]
    """The mean training image (D,)."""
    reg: float = 0.0
    """The loss includes `reg * ||W without bias||^2`."""
    dtype: str = "float32"
    """The type of the scores. Sums are always exact, and weights always float64."""
    reg_bias: bool = False
    """Whether the regulariser includes the bias."""

    def __call__(self, W: NDArray[np.float64], rows: Rows | None = None) -> Evaluation:
        """Evaluate at `W` (C, D + 1) over `rows`, or over all rows."""
        request = HingeRequest(fold(W, self.mean, self.dtype), rows)
        total = sum_over_shards(self.map_shards, sum_hinge, request)
        return finalize(total, W, self.mean, reg=self.reg, reg_bias=self.reg_bias)
