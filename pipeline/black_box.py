"""The loss as a black box: evaluated anew, whole, at every weight that is moved.

The grid of blocks of coordinates and shards is planned first, and can be looked at; then a block
of moved weights is one wide product with every shard's rows, in float64, in tasks on the cluster.
Nothing of the loss's structure is used: it is what the structured differences are held against.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from kernels import loops
from kernels.finite_difference import Scheme
from kernels.gradient_verdict import ROUNDOFF_UNIT
from kernels.partial import LOSS_UNIT_BITS, LossSum, Sums, squared_norm
from kernels.wide_losses import wide_losses
from pipeline.check_parameters import NO_FINITE_LOSS
from pipeline.errors import PipelineError
from pipeline.evaluation import blocks_in_tasks
from pipeline.placement import Placed
from pipeline.shards import Rows, Shard

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCK = 16
"""Coordinates in a block: their moved weights take 8 MB where centred."""

_SAMPLE_ROWS = 256


@dataclass(frozen=True)
class BlackBoxPlan:
    """What is to be evaluated, and what that takes."""

    evaluations: int
    """Of the loss over all examples: two a coordinate where centred, else one and one more."""
    tasks: int
    """One a block that moves its weights, and one a block and shard that takes their losses."""
    bytes_a_task: int
    """What a task needs beside its rows, whatever their number: the moved weights, two copies of
    them on the way into the kernel, and scores."""
    seconds: float
    """An estimate, from the rate at which this process takes a small product."""


class Common(NamedTuple):
    """What every block needs."""

    W: Floats
    mean: Floats
    step: float
    scheme: Scheme
    rows: Rows | None = None
    reg: float = 0.0
    """The loss has `reg ||W||^2` added."""
    reg_bias: bool = False
    """Whether the bias counts in that."""


class Moved(NamedTuple):
    """A block's weights, each with one element moved, and over which rows (None for all)."""

    W: Floats
    """(B, C, D + 1), float64: up and down by turns, or up alone."""
    mean: Floats
    rows: Rows | None


def moved_weights(common: Common, coordinates: Integers) -> Moved:
    """Move the weights of some coordinates, flat in (C, D + 1): a task.

    No coordinate is the weights themselves, from which forward differences start.
    """
    signs = (1.0, -1.0) if common.scheme is Scheme.CENTRED else (1.0,)
    moves = [(place, sign * common.step) for place in coordinates.tolist() for sign in signs]
    W = np.repeat(common.W[None], max(1, len(moves)), axis=0)
    for number, (place, move) in enumerate(moves):
        W[number].flat[place] += move
    return Moved(W, common.mean, common.rows)


def black_box(shard: Shard, moved: Moved) -> Sums[LossSum]:
    """Sum a shard's losses at every one of the moved weights: a task."""
    return reduce(
        Sums.combine,
        (
            wide_losses(moved.W, images, labels, mean=moved.mean, rows=rows)
            for images, labels, rows in shard.blocks(moved.rows)
        ),
    )


def plan_blocks(coordinates: Integers) -> list[Integers]:
    """Cut the coordinates into blocks.

    >>> [len(block) for block in plan_blocks(np.arange(40))]
    [16, 16, 8]
    """
    return [coordinates[start : start + BLOCK] for start in range(0, len(coordinates), BLOCK)]


def look_ahead(
    common: Common, coordinates: int, examples: int, shards: int, threads: int
) -> BlackBoxPlan:
    """Plan to evaluate at so many coordinates, over examples that lie in so many shards."""
    forward = common.scheme is Scheme.FORWARD
    blocks = -(-coordinates // BLOCK) + forward
    moved = min(BLOCK, coordinates) * common.scheme.width
    evaluations = coordinates * common.scheme.width + forward
    return BlackBoxPlan(
        evaluations,
        blocks * (shards + 1),
        moved * (3 * common.W.nbytes + loops.BLOCK_ROWS * len(common.W) * 8),
        evaluations * examples * _seconds_a_row(common) / threads,
    )


def _seconds_a_row(common: Common) -> float:
    """Return how long this process takes for one row's loss, in a block."""
    moved = moved_weights(common, np.arange(BLOCK))
    images = np.zeros((_SAMPLE_ROWS, len(common.mean)), np.uint8)
    labels = np.zeros(_SAMPLE_ROWS, np.uint8)
    seconds = math.inf
    for _ in range(3):  # the first may compile
        start = time.perf_counter()
        wide_losses(moved.W, images, labels, mean=common.mean)
        seconds = min(seconds, time.perf_counter() - start)
    return seconds / (_SAMPLE_ROWS * len(moved.W))


def differences(
    client: Client, placed: Sequence[Placed], common: Common, blocks: Sequence[Integers]
) -> Iterator[Floats]:
    """Yield each block's difference quotients (B,) of the loss, as they are there, in order.

    When a worker dies, Dask takes what it had anew on another.

    Raises PipelineError if a loss is no finite number.
    """
    whole = [np.empty(0, np.int64)] if common.scheme is Scheme.FORWARD and blocks else []
    sums = blocks_in_tasks(client, placed, moved_weights, common, black_box, [*whole, *blocks])
    at_W = next(sums)[0] if whole else None
    for coordinates, summed in zip(blocks, sums, strict=True):
        if any(each.overflows for each in summed):
            raise PipelineError(NO_FINITE_LOSS)
        yield _quotients(common, coordinates, summed, at_W)


def _quotients(
    common: Common, coordinates: Integers, summed: Sums[LossSum], at_W: LossSum | None
) -> Floats:
    """Return the quotients of one block, given the losses at its moved weights.

    A forward difference of the regulariser is off by what its square bends; that is taken away,
    as it is from the structured one's (`kernels.regulariser_difference`).
    """
    moved = moved_weights(common, coordinates).W
    quotients = np.empty(len(coordinates))
    for i, place in enumerate(coordinates.tolist()):
        if at_W is None:
            ahead, behind, up, down = *summed[2 * i : 2 * i + 2], moved[2 * i], moved[2 * i + 1]
        else:
            ahead, behind, up, down = summed[i], at_W, moved[i], common.W
        # the sums are exact, and so is their difference: it is rounded once
        hinges = (ahead.loss - behind.loss) / (ahead.rows << LOSS_UNIT_BITS)
        distance = up.flat[place] - down.flat[place]
        quotients[i] = (hinges + (_penalty(common, up) - _penalty(common, down))) / distance
        bends = common.reg_bias or (place + 1) % common.W.shape[1]
        quotients[i] -= common.reg * distance if at_W and bends else 0.0
    return quotients


def _penalty(common: Common, W: Floats) -> float:
    return common.reg * squared_norm(W, bias=common.reg_bias) if common.reg else 0.0


def roundoff(common: Common, quotients: Floats, loss: float, active: Floats) -> Floats:
    """Return what rounding can make of quotients (C, D + 1), at most.

    A score is summed in D / 8 steps and a tree of three; with the mean image folded in, and in the
    margin, it is rounded some more. `loss` is that of the weights and `active` (C, 1) says how
    many margins a row has, on average, that a score of each class moves.

    N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, chapter 3.
    """
    steps = len(common.mean) // 8 + 16
    gamma = steps * ROUNDOFF_UNIT / (1 - steps * ROUNDOFF_UNIT)
    sizes = np.abs(common.W) + common.step
    scores = 2 * 255 * sizes[:, :-1].sum(axis=1, keepdims=True) + sizes[:, -1:]
    losses = gamma * active * scores + 2 * len(common.W) * ROUNDOFF_UNIT * loss
    squares = common.W.size * ROUNDOFF_UNIT * common.reg * float((sizes**2).sum())
    off = 2 * (losses + squares) / (common.step * common.scheme.width)
    moved = ROUNDOFF_UNIT * sizes / common.step  # what the step itself is off by
    bound: Floats = off + (4 * ROUNDOFF_UNIT + moved) * np.abs(quotients)
    return bound
