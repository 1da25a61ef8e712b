"""The loss over a plane in the space of weights, over all shards.

A point of the plane is a step a along one direction and a step b along another. Three passes over
the images give every margin as a linear function of a and b (`kernels.plane`). The shards keep
these functions. After that, the loss at any point needs no further pass over the images.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.hinge import Scorer, fold
from kernels.line import Line
from kernels.plane import Plane, PlaneSum, losses, margins_over_plane
from pipeline.cluster.map_shards import shown_as, sum_over_shards
from pipeline.cluster.shards import Shard, concatenate_blocks
from pipeline.inputs.examples import Rows
from pipeline.objective import Objective

Floats = NDArray[np.float64]


class PlaneRequest(NamedTuple):
    """The inputs of `plane_losses`."""

    scorers: tuple[Scorer, Scorer, Scorer]
    """The scorers of the weights and of the two directions."""
    rows: Rows | None
    """Row numbers in the split; None for all rows."""
    a: Floats
    """Steps along the first direction (K,)."""
    b: Floats
    """Steps along the second direction (M,)."""


@shown_as("hinge-plane-losses")
def plane_losses(shard: Shard, request: PlaneRequest) -> PlaneSum:
    """Sum the losses of a shard at each point."""
    return losses(_plane(shard, request), request.a, request.b)


def _plane(shard: Shard, request: PlaneRequest) -> Plane:
    """Return the margins of a shard over the plane. The shard keeps them for the next request."""

    def compute() -> Plane:
        parts = [
            margins_over_plane(*request.scorers, *block.chosen)
            for block in shard.blocks(request.rows)
        ]
        line = Line(
            concatenate_blocks([part.line.margins for part in parts], axis=1),
            concatenate_blocks([part.line.slopes for part in parts], axis=1),
        )
        return Plane(line, concatenate_blocks([part.second for part in parts], axis=1))

    arrays = [array for scorer in request.scorers for array in scorer]
    return shard.memory.recall("plane", [*arrays, request.rows], compute)


@dataclass(frozen=True, eq=False)
class LossOverPlane:
    """The objective at `W + a U + b V`, as a function of a and b."""

    objective: Objective
    W: Floats
    """(C, D + 1)."""
    U: Floats
    """The first direction (C, D + 1)."""
    V: Floats
    """The second direction (C, D + 1)."""
    rows: Rows | None = None
    """The rows over which the loss is averaged; None for all rows."""

    @cached_property
    def _scorers(self) -> tuple[Scorer, Scorer, Scorer]:
        """The scorers of W, U and V, in float64 because rounding would change the directions."""
        mean = self.objective.mean
        W, U, V = (fold(weights, mean, np.float64) for weights in (self.W, self.U, self.V))
        return W, U, V

    @cached_property
    def _coordinates(self) -> Floats:
        """U, V and W as columns (3, 3), in an orthonormal basis of the space that they span.

        The regulariser depends only on these numbers.
        """
        columns = self.W.shape[1] if self.objective.reg_bias else self.W.shape[1] - 1
        vectors = np.stack([each[:, :columns].ravel() for each in (self.U, self.V, self.W)])
        with np.errstate(all="ignore"):  # non-finite values raise below
            coordinates = np.linalg.qr(vectors.T).R
        if not np.isfinite(coordinates).all():
            raise ValueError("the regulariser over the plane is out of range")
        return coordinates

    def __call__(self, a: Floats, b: Floats) -> Floats:
        """Return the loss (M, K) at each of `a` (K,) and `b` (M,), including the regulariser.

        Raises ValueError if the regulariser is out of range.
        """
        sums = sum_over_shards(
            self.objective.map_shards, plane_losses, PlaneRequest(self._scorers, self.rows, a, b)
        )
        if not self.objective.reg:
            return sums.means
        points = np.stack(np.broadcast_arrays(a[None, :], b[:, None], 1.0))
        with np.errstate(over="ignore", invalid="ignore"):  # the loss is then inf
            norms = (np.tensordot(self._coordinates, points, 1) ** 2).sum(axis=0)
            total: Floats = sums.means + self.objective.reg * norms
        total[np.isnan(total)] = np.inf  # as in `kernels.partial.regularised`
        return total
