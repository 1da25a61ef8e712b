"""Random search: the losses of many random weights, each over all rows, a block at a time.

A block of trials is one wide product with every shard's images, in tasks on the cluster.
The products are exact, so that a trial's loss does not depend on its block, on the shards
or on the workers: it is the very loss of a float64 evaluation of its weights alone.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.partial import LossSum, Sums
from kernels.trials import Trials, pack, trial_losses
from pipeline.errors import PipelineError
from pipeline.evaluation import blocks_in_tasks
from pipeline.placement import Placements
from pipeline.shards import Shard
from pipeline.streams import Purpose, check_seed
from pipeline.weights import drawn

MAX_BLOCK = 512
"""Trials in a block: the weights of so many take some 600 MB while they are drawn."""

_SCALES = 1e-30, 1e15
"""Within them no weight's unit is lost, and no row's loss reaches 2^80, where sums end."""


@dataclass(frozen=True)
class RandomSearch:
    """Everything that decides the result of a random search."""

    trials: int
    scale: float = 1e-4
    """Standard deviation of the weights."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_trials(self.trials, self.seed)
        check_scale("scale", self.scale)

    def weights(self, trial: int, classes: int) -> NDArray[np.float64]:
        """Return the weights (classes, D + 1) of a trial."""
        W: NDArray[np.float64]
        [W] = drawn(self.seed, Purpose.TRIAL, [trial], self.scale, classes).weights
        return W

    def best_weights(self, losses: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
        """Return the weights of the trial with the lowest of the losses, the first of equals."""
        return self.weights(int(np.argmin(losses)), classes)


class Block(NamedTuple):
    """Trials that are taken together."""

    trials: tuple[int, ...]
    """Their numbers, from 0."""
    losses: NDArray[np.float64]
    """The mean loss of each over all training rows."""


def plan_blocks(trials: int, size: int, done: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """Cut the trials that are not done into blocks of `size`.

    >>> plan_blocks(7, 3, done=[0, 1, 4])
    [(2, 3, 5), (6,)]
    """
    left = sorted(set(range(trials)).difference(done))
    return [tuple(left[start : start + size]) for start in range(0, len(left), size)]


def search(
    placements: Placements, parameters: RandomSearch, blocks: Sequence[tuple[int, ...]]
) -> Iterator[Block]:
    """Yield the blocks' losses as they are there, in order.

    When a worker dies, Dask takes what it had anew on another.
    """
    dataset = placements.dataset
    common = Drawn(parameters, dataset.mean, len(dataset.classes))
    placed = placements.shards("train")
    sums = blocks_in_tasks(placements.client, placed, weights, common, trials, blocks)
    for block, losses in zip(blocks, sums, strict=True):
        yield Block(block, np.array([each.mean for each in losses]))


class Drawn(NamedTuple):
    """What the weights of every block are drawn by."""

    parameters: RandomSearch
    mean: NDArray[np.float64]
    """The mean training image (D,)."""
    classes: int


def weights(common: Drawn, block: Sequence[int]) -> Trials:
    """Draw a block's weights: a task."""
    parameters, mean, classes = common
    return pack(drawn(parameters.seed, Purpose.TRIAL, block, parameters.scale, classes), mean)


def trials(shard: Shard, packed: Trials) -> Sums[LossSum]:
    """Sum the losses of a block's trials over one shard: a task."""
    return reduce(
        Sums.combine,
        (trial_losses(packed, block.images, block.labels) for block in shard.blocks()),
    )


def improvements(losses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say of each trial whether its loss is below that of all before it.

    >>> improvements(np.array([9.5, 9.5, 9.25, 9.75, 9.0])).tolist()
    [True, False, True, False, True]
    """
    before = np.minimum.accumulate(np.append(np.inf, losses))[:-1]
    return losses < before


def check_block(block: int) -> None:
    """Raise PipelineError unless a block can have so many trials."""
    if not 1 <= block <= MAX_BLOCK:
        raise PipelineError(f"a block has from 1 to {MAX_BLOCK} trials, not {block}")


def check_trials(trials: int, seed: int) -> None:
    """Raise PipelineError unless a search can have so many trials and this seed."""
    if trials < 1:
        raise PipelineError(f"a search needs at least 1 trial, not {trials}")
    check_seed(seed)


def check_scale(name: str, scale: float) -> None:
    """Raise PipelineError unless weights can be drawn with this standard deviation."""
    if not 0 < scale < math.inf:
        raise PipelineError(f"the {name} must be a positive number, not {scale}")
    lowest, highest = _SCALES
    if not lowest <= scale <= highest:
        raise PipelineError(f"the {name} must be from {lowest:g} to {highest:g}, not {scale}")
