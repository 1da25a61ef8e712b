"""The loss as a black box: the whole loss is evaluated again at every moved weight.

The coordinates are cut into blocks. A block of moved weights is one wide product with every shard's
rows, in float64, in tasks on the cluster. `estimate_cost` says beforehand what that costs. The
loss's structure is not used, so these differences are a check of the structured ones.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from kernels.compiled import gradient as loops
from kernels.exact_sum import LOSS_UNIT_BITS, LossSum, Sums
from kernels.finite_difference import Scheme
from kernels.gradient_verdict import ROUNDOFF_UNIT
from kernels.many_weights import losses_at_many_weights
from kernels.partial import squared_norm
from pipeline.check.parameters import NO_FINITE_LOSS
from pipeline.cluster.map_shards import shown_as
from pipeline.cluster.placement import PlacedShard
from pipeline.cluster.shards import Block, Shard, sum_over_blocks
from pipeline.cluster.tasks import sum_blocks_in_tasks
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Rows

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCK = 16
"""Coordinates in a block. Their moved weights take 8 MB in centred differences."""

_SAMPLE_ROWS = 256
"""Rows whose losses are timed for an estimate."""


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """What a check by the black box evaluates, and what that costs."""

    evaluations: int
    """Of the loss over all examples: two per coordinate in centred differences; in forward ones,
    one per coordinate and one at the weights themselves."""
    tasks: int
    """One per block, which moves the weights, and one per block and shard, which sums losses."""
    bytes_a_task: int
    """What a task needs beside its rows, however many those are: the moved weights, two copies of
    them on the way into the kernel, and scores."""
    seconds: float
    """An estimate from the speed of this process in a small product."""
    shards: int
    threads: int


class BlackBoxInputs(NamedTuple):
    """What all blocks share."""

    W: Floats
    """(C, D + 1)."""
    mean: Floats
    """The mean training image (D,)."""
    step: float
    scheme: Scheme
    rows: Rows | None = None
    """Row numbers in the split; None for all rows."""
    reg: float = 0.0
    """The loss includes `reg ||W||^2`."""
    reg_bias: bool = False
    """Whether `||W||^2` includes the bias."""


class MovedWeights(NamedTuple):
    """The weights of one block, each with one element moved, and the rows to evaluate over."""

    W: Floats
    """(B, C, D + 1), float64: each coordinate moved up, then down; only up if forward."""
    mean: Floats
    rows: Rows | None


@shown_as("hinge-move-weights")
def move_weights(inputs: BlackBoxInputs, coordinates: Integers) -> MovedWeights:
    """Move each of some coordinates, given as indices into the flattened (C, D + 1): a task.

    For no coordinates, return the weights as they are: forward differences start from them.
    """
    signs = (1.0, -1.0) if inputs.scheme is Scheme.CENTRED else (1.0,)
    moves = [(index, sign * inputs.step) for index in coordinates.tolist() for sign in signs]
    W = np.repeat(inputs.W[None], max(1, len(moves)), axis=0)
    for number, (index, move) in enumerate(moves):
        W[number].flat[index] += move
    return MovedWeights(W, inputs.mean, inputs.rows)


@shown_as("hinge-black-box")
def sum_moved_losses(shard: Shard, moved: MovedWeights) -> Sums[LossSum]:
    """Sum a shard's losses at each of the moved weights: a task."""

    def sum_block(block: Block) -> Sums[LossSum]:
        return losses_at_many_weights(
            moved.W, block.images, block.labels, mean=moved.mean, rows=block.rows
        )

    return sum_over_blocks(shard, moved.rows, sum_block)


def plan_blocks(coordinates: Integers) -> list[Integers]:
    """Cut the coordinates into blocks.

    >>> [len(block) for block in plan_blocks(np.arange(40))]
    [16, 16, 8]
    """
    return [coordinates[start : start + BLOCK] for start in range(0, len(coordinates), BLOCK)]


def estimate_cost(
    inputs: BlackBoxInputs, coordinates: int, examples: int, shards: int, threads: int
) -> CostEstimate:
    """Estimate what the differences of so many coordinates cost, over so many examples.

    The examples are in `shards` shards, which `threads` threads share.
    """
    forward = inputs.scheme is Scheme.FORWARD
    blocks = -(-coordinates // BLOCK) + forward
    moved = min(BLOCK, coordinates) * inputs.scheme.width
    evaluations = coordinates * inputs.scheme.width + forward
    return CostEstimate(
        evaluations=evaluations,
        tasks=blocks * (shards + 1),
        bytes_a_task=moved * (3 * inputs.W.nbytes + loops.BLOCK_ROWS * len(inputs.W) * 8),
        seconds=evaluations * examples * _seconds_per_row(inputs) / threads,
        shards=shards,
        threads=threads,
    )


def _seconds_per_row(inputs: BlackBoxInputs) -> float:
    """Return how long this process takes for one row's loss, as part of a block."""
    moved = move_weights(inputs, np.arange(BLOCK))
    images = np.zeros((_SAMPLE_ROWS, len(inputs.mean)), np.uint8)
    labels = np.zeros(_SAMPLE_ROWS, np.uint8)
    seconds = math.inf
    for _ in range(3):  # the first may compile
        start = time.perf_counter()
        losses_at_many_weights(moved.W, images, labels, mean=inputs.mean)
        seconds = min(seconds, time.perf_counter() - start)
    return seconds / (_SAMPLE_ROWS * len(moved.W))


def difference_quotients(
    client: Client,
    placed: Sequence[PlacedShard],
    inputs: BlackBoxInputs,
    blocks: Sequence[Integers],
) -> Iterator[Floats]:
    """Yield the difference quotients (B,) of each block, in order, as soon as they are known.

    When a worker dies, Dask repeats its tasks on another.

    Raises PipelineError if a loss is not finite.
    """
    no_coordinates = np.empty(0, np.int64)
    start = [no_coordinates] if inputs.scheme is Scheme.FORWARD and blocks else []
    sums = sum_blocks_in_tasks(
        client, placed, move_weights, inputs, sum_moved_losses, [*start, *blocks]
    )
    loss_at_W = next(sums)[0] if start else None
    for coordinates, losses in zip(blocks, sums, strict=True):
        if any(each.overflows for each in losses):
            raise PipelineError(NO_FINITE_LOSS)
        yield _quotients(inputs, coordinates, losses, loss_at_W)


def _quotients(
    inputs: BlackBoxInputs, coordinates: Integers, losses: Sums[LossSum], loss_at_W: LossSum | None
) -> Floats:
    """Return the quotients of one block, given the losses at its moved weights.

    The regulariser is quadratic, so its forward difference is off by `reg * step`. That is
    subtracted, as it is from the structured difference (`kernels.regulariser_difference`).
    """
    moved = move_weights(inputs, coordinates).W
    quotients = np.empty(len(coordinates))
    for i, index in enumerate(coordinates.tolist()):
        if loss_at_W is None:
            ahead, behind, up, down = *losses[2 * i : 2 * i + 2], moved[2 * i], moved[2 * i + 1]
        else:
            ahead, behind, up, down = losses[i], loss_at_W, moved[i], inputs.W
        # the sums are exact, and so is their difference, which is rounded once
        hinges = (ahead.loss - behind.loss) / (ahead.rows << LOSS_UNIT_BITS)
        distance = up.flat[index] - down.flat[index]
        quotients[i] = (hinges + (_penalty(inputs, up) - _penalty(inputs, down))) / distance
        is_regularised = inputs.reg_bias or (index + 1) % inputs.W.shape[1] != 0
        if loss_at_W is not None and is_regularised:
            quotients[i] -= inputs.reg * distance
    return quotients


def _penalty(inputs: BlackBoxInputs, W: Floats) -> float:
    return inputs.reg * squared_norm(W, bias=inputs.reg_bias) if inputs.reg else 0.0


def roundoff(inputs: BlackBoxInputs, quotients: Floats, loss: float, active: Floats) -> Floats:
    """Return a bound on the rounding error of quotients (C, D + 1).

    A score is summed in D / 8 steps and a tree of three; folding in the mean image and taking the
    margin round some more. `loss` is the loss at the weights. `active` (C, 1) says for each class
    how many margins of a row a score of the class moves, on average.

    N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, chapter 3.
    """
    steps = len(inputs.mean) // 8 + 16
    gamma = steps * ROUNDOFF_UNIT / (1 - steps * ROUNDOFF_UNIT)
    sizes = np.abs(inputs.W) + inputs.step
    scores = 2 * 255 * sizes[:, :-1].sum(axis=1, keepdims=True) + sizes[:, -1:]
    losses = gamma * active * scores + 2 * len(inputs.W) * ROUNDOFF_UNIT * loss
    squares = inputs.W.size * ROUNDOFF_UNIT * inputs.reg * float((sizes**2).sum())
    of_losses = 2 * (losses + squares) / (inputs.step * inputs.scheme.width)
    of_step = ROUNDOFF_UNIT * sizes / inputs.step
    bound: Floats = of_losses + (4 * ROUNDOFF_UNIT + of_step) * np.abs(quotients)
    return bound
