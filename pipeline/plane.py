"""The loss over a plane in the space of weights, over all shards.

Three passes over the images give every margin as a linear function of a and b
(`kernels.plane`). The shards keep them: after that, no point costs a pass over the images.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.hinge import Scorer, fold
from kernels.line import Line
from kernels.plane import Plane, PlaneSum, losses, over
from pipeline.objective import Objective, total
from pipeline.shards import Rows, Shard, joined

Floats = NDArray[np.float64]


class Asked(NamedTuple):
    """What `plane_losses` takes."""

    scorers: tuple[Scorer, Scorer, Scorer]
    """Of the weights and of the two directions."""
    rows: Rows | None
    """Which rows the loss is over; None for all."""
    a: Floats
    b: Floats


def plane_losses(shard: Shard, asked: Asked) -> PlaneSum:
    """Sum a shard's losses at each point."""
    return losses(_plane(shard, asked), asked.a, asked.b)


def _plane(shard: Shard, asked: Asked) -> Plane:
    """Return the shard's margins over the plane, which it remembers."""

    def find() -> Plane:
        parts = [over(*asked.scorers, *block.chosen) for block in shard.blocks(asked.rows)]
        line = Line(
            joined([part.line.margins for part in parts], axis=1),
            joined([part.line.slopes for part in parts], axis=1),
        )
        return Plane(line, joined([part.second for part in parts], axis=1))

    arrays = [array for scorer in asked.scorers for array in scorer]
    return shard.memory.recalled("plane", [*arrays, asked.rows], find)


@dataclass(frozen=True, eq=False)
class LossOverPlane:
    """The objective at `W + a U + b V`, as a function of a and b."""

    objective: Objective
    W: Floats
    """(C, D + 1)."""
    U: Floats
    """The first direction (C, D + 1)."""
    V: Floats
    """The second."""
    rows: Rows | None = None
    """Which rows the loss is over; None for all."""

    @cached_property
    def _scorers(self) -> tuple[Scorer, Scorer, Scorer]:
        """All in float64: a rounded direction would be another."""
        mean = self.objective.mean
        W, U, V = (fold(weights, mean, np.float64) for weights in (self.W, self.U, self.V))
        return W, U, V

    @cached_property
    def _coordinates(self) -> Floats:
        """U, V and W as columns (3, 3) in an orthonormal basis of what they span.

        The regulariser is of these sums of three terms, as near as it is of whole weights.
        """
        columns = self.W.shape[1] if self.objective.reg_bias else self.W.shape[1] - 1
        vectors = np.stack([each[:, :columns].ravel() for each in (self.U, self.V, self.W)])
        with np.errstate(all="ignore"):  # what is out of range is refused
            coordinates = np.linalg.qr(vectors.T).R
        if not np.isfinite(coordinates).all():
            raise ValueError("the regulariser over the plane is out of range")
        return coordinates

    def __call__(self, a: Floats, b: Floats) -> Floats:
        """Return the loss (M, K) at each of `a` (K,) and `b` (M,), the regulariser included.

        Raises ValueError where the regulariser is out of all range.
        """
        sums = total(self.objective.over, plane_losses, Asked(self._scorers, self.rows, a, b))
        if not self.objective.reg:
            return sums.means
        points = np.stack(np.broadcast_arrays(a[None, :], b[:, None], 1.0))
        with np.errstate(over="ignore", invalid="ignore"):  # the loss says so
            norms = (np.tensordot(self._coordinates, points, 1) ** 2).sum(axis=0)
            found: Floats = sums.means + self.objective.reg * norms
        found[np.isnan(found)] = np.inf  # as `kernels.partial.regularised`
        return found
