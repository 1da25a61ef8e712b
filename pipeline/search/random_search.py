"""Random search: the losses of many random weights, each over all rows, block by block.

The weights of a block of trials are multiplied with the images of every shard in one wide product,
in tasks on the cluster. The products are exact. The loss of a trial therefore does not depend on
its block, on the shards or on the workers: it is bit-identical to a float64 evaluation of the
trial's weights alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.exact_sum import LossSum, Sums
from kernels.trials import Trials, pack, trial_losses
from pipeline.cluster.map_shards import shown_as
from pipeline.cluster.placement import PlacedDataset
from pipeline.cluster.shards import Shard, sum_over_pieces
from pipeline.cluster.tasks import sum_blocks_in_tasks
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.random_streams import Purpose
from pipeline.inputs.rules import Parameters, Scale, Seed, TrialCount
from pipeline.inputs.weights import draw_weights
from pipeline.inputs.words import short, with_seed

MAX_BLOCK = 512
"""The maximum number of trials per block. Drawing their weights takes about 600 MB."""


@dataclass(frozen=True)
class RandomSearch(Parameters):
    """The parameters that determine the result of a random search."""

    trials: TrialCount = 1000
    scale: Scale = 1e-4
    seed: Seed = 0

    def in_words(self) -> str:
        """Return what is done, such as `random-search 1000 x 1e-4 seed 0`."""
        return with_seed(f"random-search {self.trials} x {short(self.scale)}", self.seed)

    def weights(self, trial: int, classes: int) -> NDArray[np.float64]:
        """Return the weights (classes, D + 1) of a trial."""
        W: NDArray[np.float64]
        [W] = draw_weights(self.seed, Purpose.TRIAL, [trial], self.scale, classes).weights
        return W

    def best_weights(self, losses: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
        """Return the weights of the first trial that has the lowest loss."""
        return self.weights(int(np.argmin(losses)), classes)


class TrialLosses(NamedTuple):
    """The losses of a block of trials."""

    trials: tuple[int, ...]
    """The numbers of the trials, from 0."""
    losses: NDArray[np.float64]
    """The mean loss of each trial over all training rows."""


def plan_blocks(trials: int, size: int, done: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """Split the trials that are not in `done` into blocks of `size`.

    Examples:
        >>> plan_blocks(7, 3, done=[0, 1, 4])
        [(2, 3, 5), (6,)]
    """
    remaining = sorted(set(range(trials)).difference(done))
    return [tuple(remaining[start : start + size]) for start in range(0, len(remaining), size)]


def random_search(
    placed_dataset: PlacedDataset, parameters: RandomSearch, blocks: Sequence[tuple[int, ...]]
) -> Iterator[TrialLosses]:
    """Yield the losses of each block, in the order of `blocks`.

    If a worker dies, Dask runs its tasks again on another worker.
    """
    dataset = placed_dataset.dataset
    request = DrawRequest(parameters, dataset.mean, len(dataset.classes))
    placed = placed_dataset.shards("train")
    sums = sum_blocks_in_tasks(
        placed_dataset.client, placed, draw_block, request, sum_trials, blocks
    )
    for block, losses in zip(blocks, sums, strict=True):
        yield TrialLosses(block, np.array([loss_sum.mean for loss_sum in losses]))


class DrawRequest(NamedTuple):
    """The inputs of `draw_block` that are the same for every block."""

    parameters: RandomSearch
    mean: NDArray[np.float64]
    """The mean training image (D,)."""
    classes: int


@shown_as("hinge-draw-weights")
def draw_block(request: DrawRequest, block: Sequence[int]) -> Trials:
    """Draw the weights of a block. Runs as one task."""
    parameters, mean, classes = request
    return pack(
        draw_weights(parameters.seed, Purpose.TRIAL, block, parameters.scale, classes), mean
    )


@shown_as("hinge-random-search")
def sum_trials(shard: Shard, trials: Trials) -> Sums[LossSum]:
    """Sum the losses of a block's trials over one shard. Runs as one task."""
    return sum_over_pieces(
        shard, None, lambda block: trial_losses(trials, block.images, block.labels)
    )


def improvements(losses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return, for each trial, whether its loss is below the losses of all trials before it.

    Examples:
        >>> improvements(np.array([9.5, 9.5, 9.25, 9.75, 9.0])).tolist()
        [True, False, True, False, True]
    """
    before = np.minimum.accumulate(np.append(np.inf, losses))[:-1]
    return losses < before


def check_block(block: int) -> None:
    """Raise PipelineError if a block cannot have this many trials."""
    if not 1 <= block <= MAX_BLOCK:
        raise PipelineError(f"a block must have from 1 to {MAX_BLOCK} trials, not {block}")
