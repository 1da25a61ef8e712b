"""Random search: the losses of many random weights, each over all rows, a block at a time.

A block of trials is one wide product with every shard's images, in tasks on the cluster.
The products are exact, so that a trial's loss does not depend on its block, on the shards
or on the workers: it is the very loss of a float64 evaluation of its weights alone.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from kernels.partial import LossSum, Sums
from kernels.trials import Trials, pack, trial_losses
from pipeline.cluster import task_group
from pipeline.errors import PipelineError
from pipeline.placement import Placed, Placements
from pipeline.shards import Shard
from pipeline.streams import Purpose
from pipeline.weights import drawn

BLOCKS_AHEAD = 3
"""Blocks that the cluster is given at a time, so that no worker waits for the driver."""


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
    placed = placements.shards("train")
    mean, classes = placements.dataset.mean, len(placements.dataset.classes)
    groups = task_group("hinge-weights"), task_group("hinge-trials")
    ahead: deque[tuple[tuple[int, ...], list[Any]]] = deque()
    submitted = (
        (
            block,
            _submit(placements.client, placed, (parameters, block, mean, classes), groups, number),
        )
        for number, block in enumerate(blocks)
    )
    ahead.extend(islice(submitted, BLOCKS_AHEAD))
    while ahead:
        block, futures = ahead.popleft()
        sums = reduce(Sums.combine, placements.client.gather(futures))
        ahead.extend(islice(submitted, 1))
        yield Block(block, np.array([losses.mean for losses in sums]))


def _submit(
    client: Client,
    placed: Sequence[Placed],
    drawing: tuple[RandomSearch, tuple[int, ...], NDArray[np.float64], int],
    groups: tuple[str, str],
    number: int,
) -> list[Any]:
    """Have one task draw the weights, and one a shard take the losses."""
    weights = client.submit(pack_task, *drawing, key=(groups[0], number))
    return [
        client.submit(trials_task, shard, weights, key=(groups[1], number, i))
        for i, (_, shard) in enumerate(placed)
    ]


def pack_task(
    parameters: RandomSearch, block: Sequence[int], mean: NDArray[np.float64], classes: int
) -> Trials:
    """Draw a block's weights: a task."""
    return pack(drawn(parameters.seed, Purpose.TRIAL, block, parameters.scale, classes), mean)


def trials_task(shard: Shard, trials: Trials) -> Sums[LossSum]:
    """Sum the losses of a block's trials over one shard: a task."""
    return reduce(
        Sums.combine,
        (trial_losses(trials, block.images, block.labels) for block in shard.blocks()),
    )


def check_trials(trials: int, seed: int) -> None:
    """Raise PipelineError unless a search can have so many trials and this seed."""
    if trials < 1:
        raise PipelineError(f"a search needs at least 1 trial, not {trials}")
    if not 0 <= seed < 2**64:
        raise PipelineError(f"the seed must be from 0 to 2^64 - 1, not {seed}")


def check_scale(name: str, scale: float) -> None:
    """Raise PipelineError unless weights can be drawn with this standard deviation."""
    if not 0 < scale < math.inf:
        raise PipelineError(f"the {name} must be a positive number, not {scale}")
