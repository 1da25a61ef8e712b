"""Black-box check: finite differences of the whole loss, evaluated with each weight moved in turn.

The coordinates are split into blocks. The moved weights of a block are multiplied with every
shard's rows in one wide float64 product, in tasks on the cluster. `estimate_cost` estimates the
cost beforehand. These differences do not use the structure of the loss, so they also check the
structured differences.
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
from pipeline.cluster.shards import Block, Shard, sum_over_pieces
from pipeline.cluster.tasks import sum_blocks_in_tasks
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Rows

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCK = 16
"""Coordinates per block. Their moved weights take 8 MB in centred differences."""

_SAMPLE_ROWS = 256
"""Number of rows in the product that `estimate_cost` times."""


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """The evaluations of a black-box check, and their cost."""

    evaluations: int
    """Number of evaluations of the loss over all examples.

    Centred differences take two per coordinate. Forward differences take one per coordinate, and
    one at the weights themselves."""
    tasks: int
    """Number of tasks.

    Each block has one task that moves the weights, and one task per shard that sums losses."""
    bytes_a_task: int
    """Memory that a task needs in addition to its rows, in bytes.

    It contains the moved weights, two copies of them made for the kernel, and scores. It does not
    depend on the number of rows."""
    seconds: float
    """Estimated from the speed of a small product in this process."""
    shards: int
    threads: int


class BlackBoxInputs(NamedTuple):
    """The inputs that all blocks share."""

    W: Floats
    """(C, D + 1)."""
    mean: Floats
    """The mean training image (D,)."""
    step: float
    """The difference step h."""
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
    """(B, C, D + 1), float64.

    Each coordinate is moved up, then down; in forward differences, only up."""
    mean: Floats
    rows: Rows | None


@shown_as("hinge-move-weights")
def move_weights(inputs: BlackBoxInputs, coordinates: Integers) -> MovedWeights:
    """Return the weights with each of `coordinates` moved in turn. Runs as a task.

    `coordinates` are indices into the flattened (C, D + 1). If `coordinates` is empty, return the
    unmoved weights, which forward differences start from.
    """
    signs = (1.0, -1.0) if inputs.scheme is Scheme.CENTRED else (1.0,)
    moves = [(index, sign * inputs.step) for index in coordinates.tolist() for sign in signs]
    W = np.repeat(inputs.W[None], max(1, len(moves)), axis=0)
    for number, (index, move) in enumerate(moves):
        W[number].flat[index] += move
    return MovedWeights(W, inputs.mean, inputs.rows)


@shown_as("hinge-black-box")
def sum_moved_losses(shard: Shard, moved: MovedWeights) -> Sums[LossSum]:
    """Sum a shard's losses at each of the moved weights. Runs as a task."""

    def sum_block(block: Block) -> Sums[LossSum]:
        return losses_at_many_weights(
            moved.W, block.images, block.labels, mean=moved.mean, rows=block.rows
        )

    return sum_over_pieces(shard, moved.rows, sum_block)


def plan_blocks(coordinates: Integers) -> list[Integers]:
    """Split the coordinates into blocks of `BLOCK`.

    Examples:
        >>> [len(block) for block in plan_blocks(np.arange(40))]
        [16, 16, 8]
    """
    return [coordinates[start : start + BLOCK] for start in range(0, len(coordinates), BLOCK)]


def estimate_cost(
    inputs: BlackBoxInputs, coordinates: int, examples: int, shards: int, threads: int
) -> CostEstimate:
    """Estimate the cost of the differences in `coordinates` coordinates over `examples` examples.

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
    """Return the seconds that this process takes for the loss of one row, measured on a block."""
    moved = move_weights(inputs, np.arange(BLOCK))
    images = np.zeros((_SAMPLE_ROWS, len(inputs.mean)), np.uint8)
    labels = np.zeros(_SAMPLE_ROWS, np.uint8)
    seconds = math.inf
    for _ in range(3):  # the first call may compile
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

    If a worker dies, Dask repeats its tasks on another worker.

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

    The regulariser is quadratic, so its forward difference exceeds its derivative by
    `reg * step`. The excess is subtracted here, as in `kernels.regulariser_difference`.
    """
    moved = move_weights(inputs, coordinates).W
    quotients = np.empty(len(coordinates))
    for i, index in enumerate(coordinates.tolist()):
        if loss_at_W is None:
            ahead, behind, up, down = *losses[2 * i : 2 * i + 2], moved[2 * i], moved[2 * i + 1]
        else:
            ahead, behind, up, down = losses[i], loss_at_W, moved[i], inputs.W
        # the sums are exact integers, so this difference is rounded only once
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

    A score is summed in D / 8 additions per lane and a tree of depth three. Folding in the mean
    image and computing the margin add a few more roundings. `loss` is the loss at the weights.
    `active` (C, 1) contains, for each class, the average number of margins per row that change
    with the score of the class.

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
