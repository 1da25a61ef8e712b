"""The smoothed objective: the smoothed hinge and its bounds over the training rows.

The same path as the plain objective's (`pipeline.objective`), with another sum.
"""

from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels import smoothed as kernel
from kernels.hinge import Scorer, fold
from kernels.smoothed import SmoothedEvaluation, SmoothedPartial
from pipeline.objective import OverShards, total
from pipeline.shards import Shard

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SmoothedObjective:
    """The smoothed hinge plus `reg ||W||^2`, and its bounds, as a function of the weights."""

    over: OverShards
    mean: Floats
    """The mean training image (D,)."""
    reg: float
    dtype: str = "float32"
    """The type scores are taken in."""

    def __call__(self, W: Floats, mu: float) -> SmoothedEvaluation:
        """Evaluate at `W` (C, D + 1) over all rows, with the hinge smoothed at width mu."""
        inputs = SmoothedPass(fold(W, self.mean, self.dtype), mu)
        sums = total(self.over, smoothed_partial, inputs)
        return kernel.finalize(sums, W, self.mean, mu=mu, reg=self.reg)


class SmoothedPass(NamedTuple):
    """What `smoothed_partial` takes."""

    scorer: Scorer
    mu: float


def smoothed_partial(shard: Shard, inputs: SmoothedPass) -> SmoothedPartial:
    """Sum the smoothed loss and its gradient over a shard's rows."""
    return reduce(
        SmoothedPartial.combine,
        (
            kernel.smoothed_partial(inputs.scorer, block.images, block.labels, mu=inputs.mu)
            for block in shard.blocks()
        ),
    )
