"""The smoothed objective: the smoothed hinge and its bounds over the training rows.

The data takes the same path as for the hinge loss itself (`pipeline.objective`), with another sum.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels import smoothed as kernel
from kernels.hinge import Scorer, fold
from kernels.smoothed import SmoothedEvaluation, SmoothedPartial
from pipeline.cluster.map_shards import MapShards, shown_as, sum_over_shards
from pipeline.cluster.shards import Block, Shard, sum_over_blocks

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SmoothedObjective:
    """The smoothed hinge plus `reg ||W||^2`, and its bounds, as a function of the weights."""

    map_shards: MapShards
    mean: Floats
    """The mean training image (D,)."""
    reg: float
    dtype: str = "float32"
    """The type of the scores."""

    def __call__(self, W: Floats, mu: float) -> SmoothedEvaluation:
        """Evaluate at `W` (C, D + 1) over all rows, with the smoothing width `mu`."""
        inputs = SmoothedRequest(fold(W, self.mean, self.dtype), mu)
        sums = sum_over_shards(self.map_shards, sum_smoothed_hinge, inputs)
        return kernel.finalize(sums, W, self.mean, mu=mu, reg=self.reg)


class SmoothedRequest(NamedTuple):
    """The inputs of `sum_smoothed_hinge`."""

    scorer: Scorer
    mu: float


@shown_as("hinge-smoothed")
def sum_smoothed_hinge(shard: Shard, inputs: SmoothedRequest) -> SmoothedPartial:
    """Sum the smoothed loss and its gradient over a shard's rows."""

    def sum_block(block: Block) -> SmoothedPartial:
        return kernel.sum_smoothed_rows(inputs.scorer, block.images, block.labels, mu=inputs.mu)

    return sum_over_blocks(shard, None, sum_block)
