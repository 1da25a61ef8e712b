"""Random local search: each trial is a random step from the weights accepted last.

The search is sequential, and its result is bit-identical to that of the plain loop, which scores
all images once per trial. However, the scores of a step do not depend on the weights that it starts
from. The steps of a group of trials are therefore scored together in advance, as one wide product.
The loss of a trial then takes one addition per score: the score of the accepted weights plus the
score of the step. The first trial that lowers the loss is accepted, and the losses of the trials
after it are computed again from the new weights.

Weights are whole multiples of one unit, so scores are integers in that unit. Adding the scores of
accepted steps gives exactly the scores of the accepted weights, for any number of steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.exact_sum import LossSum, Sums
from kernels.fixed_point import FixedPoint, rounded, unit_of
from kernels.hinge import Scorer, fold
from kernels.hinge import scores as weight_scores
from kernels.trials import LANES, Scores, Trials, losses_of_scores, pack
from kernels.trials import scores as step_scores
from pipeline.cluster.map_shards import MapShards, shown_as, sum_over_shards
from pipeline.cluster.shards import Shard, concatenate_blocks
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.random_streams import Purpose
from pipeline.inputs.rules import DRAWN_SCALE, DrawnScale, Parameters, Seed, TrialCount, Wanted
from pipeline.inputs.weights import InitialWeights, draw_weights
from pipeline.inputs.words import short, with_seed
from pipeline.search.random_search import improvements

GROUP_SIZE = LANES
"""Trials per group. The steps of a group are scored together in advance."""

_LARGEST_RATIO = 1e5
"""The largest ratio of `init_scale` to `step_scale`. It keeps scores below 2^53 units."""


@dataclass(frozen=True)
class LocalSearch(Parameters):
    """The parameters that determine the result of a local search."""

    trials: TrialCount = 1000
    init_scale: Annotated[DrawnScale, Wanted("scale of the initial weights", DRAWN_SCALE)] = 1e-3
    """Standard deviation of the initial weights."""
    step_scale: Annotated[DrawnScale, Wanted("scale of a step", DRAWN_SCALE)] = 1e-4
    """Standard deviation of a step."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_scale > _LARGEST_RATIO * self.step_scale:
            raise PipelineError(
                f"steps of scale {self.step_scale} are too small for weights of scale "
                f"{self.init_scale}; use a step scale of at least "
                f"{self.init_scale / _LARGEST_RATIO:g}"
            )

    def in_words(self) -> str:
        """Return what is done, such as `local-search 1000 x 1e-4 from 1e-3 seed 0`."""
        words = f"local-search {self.trials} x {short(self.step_scale)}"
        return with_seed(f"{words} from {short(self.init_scale)}", self.seed)

    def start(self, classes: int) -> NDArray[np.float64]:
        """Return the initial weights (classes, D + 1): normal, rounded to the unit of a step."""
        W = InitialWeights("normal", self.init_scale).weights(classes, self.seed)
        return rounded(W, unit_of(self.step_scale))

    def steps(self, group: int, classes: int) -> FixedPoint:
        """Return the steps (B, classes, D + 1) of the trials in a group."""
        trials = range(group * GROUP_SIZE, min((group + 1) * GROUP_SIZE, self.trials))
        return draw_weights(self.seed, Purpose.PERTURBATION, trials, self.step_scale, classes)

    def best_weights(self, losses: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
        """Return the weights accepted last, given the losses of all trials."""
        return SearchState.after_losses(self, classes, losses).W

    @property
    def groups(self) -> int:
        """The number of groups of trials."""
        return -(-self.trials // GROUP_SIZE)


@dataclass(frozen=True, eq=False)
class SearchState:
    """The state of a search after a number of trials."""

    W: NDArray[np.float64]
    """The weights accepted last."""
    losses: NDArray[np.float64]
    """The mean loss of each trial so far."""
    accepted: NDArray[np.int64]
    """The numbers of the accepted trials."""

    @classmethod
    def start(cls, parameters: LocalSearch, classes: int) -> "SearchState":
        """Return the state before the first trial."""
        return cls(parameters.start(classes), np.empty(0), np.empty(0, np.int64))

    @classmethod
    def after_losses(
        cls, parameters: LocalSearch, classes: int, losses: NDArray[np.float64]
    ) -> "SearchState":
        """Return the state after trials with these losses, without reading any image.

        The losses determine which trials were accepted. The weights are the initial weights plus
        the accepted steps.
        """
        accepted = np.flatnonzero(improvements(losses))
        W = parameters.start(classes)
        for trial in accepted.tolist():
            [step] = draw_weights(
                parameters.seed, Purpose.PERTURBATION, [trial], parameters.step_scale, classes
            ).weights
            W += step
        return cls(W, losses, accepted)

    @property
    def best_loss(self) -> float:
        """The loss of `W`; inf before the first trial, which is always accepted."""
        return float(self.losses[self.accepted[-1]]) if len(self.accepted) else np.inf

    def accepted_in(self, group: int) -> tuple[int, ...]:
        """Return the accepted trials of a group, numbered from the first trial of the group."""
        positions = self.accepted - group * GROUP_SIZE
        return tuple(positions[(positions >= 0) & (positions < GROUP_SIZE)].tolist())

    def extended(
        self, W: NDArray[np.float64], losses: list[float], accepted: list[int]
    ) -> "SearchState":
        """Return the state after more trials.

        The values of `accepted` are positions among the new trials, counted from 0.
        """
        trials = np.array(accepted, np.int64) + len(self.losses)
        return SearchState(W, np.append(self.losses, losses), np.append(self.accepted, trials))


def local_search(
    map_shards: MapShards, mean: NDArray[np.float64], parameters: LocalSearch, state: SearchState
) -> Iterator[SearchState]:
    """Yield the state after each group of trials, starting from `state`."""
    for group in range(len(state.losses) // GROUP_SIZE, parameters.groups):
        state = _search_group(map_shards, mean, parameters, state, group)
        yield state


def _search_group(
    map_shards: MapShards,
    mean: NDArray[np.float64],
    parameters: LocalSearch,
    state: SearchState,
    group: int,
) -> SearchState:
    """Run the trials of a group.

    This takes one pass over the scores per accepted trial, and at most one more pass.
    """
    W, best = state.W, state.best_loss
    steps = parameters.steps(group, len(W)).weights
    accepted_before = state.accepted_in(group - 1)
    losses: list[float] = []
    accepted: list[int] = []
    while len(losses) < len(steps):
        first = len(losses)
        candidates = W + steps[first:]
        offsets = fold(candidates.reshape(-1, W.shape[1]), mean, np.float64).offset
        request = GroupRequest(
            parameters, group, state.W, accepted_before, tuple(accepted), first, offsets
        )
        sums = sum_over_shards(map_shards, sum_group_losses, request)[first:]
        for candidate, loss_sum in zip(candidates, sums, strict=True):
            losses.append(loss_sum.mean)
            if losses[-1] < best:
                W, best = candidate, losses[-1]
                accepted.append(len(losses) - 1)
                break
    return state.extended(W, losses, accepted)


class GroupRequest(NamedTuple):
    """The arguments of `sum_group_losses`.

    They suffice for a worker that remembers no earlier request. Trials are numbered from the first
    trial of their group.
    """

    parameters: LocalSearch
    group: int
    W: NDArray[np.float64]
    """The accepted weights before the group."""
    accepted_before: tuple[int, ...]
    """The accepted trials of the previous group."""
    accepted: tuple[int, ...]
    """The accepted trials of this group so far."""
    first: int
    """The first trial whose loss is needed."""
    offsets: NDArray[np.floating]
    """((B - first) C,): the offsets of the accepted weights plus each step, from `first` on."""


class _GroupScores(NamedTuple):
    """The scores that a shard keeps from one request to the next."""

    parameters: LocalSearch
    group: int
    accepted: tuple[int, ...]
    base: NDArray[np.float64]
    """(n, C): scores of the accepted weights, in units."""
    scores: Scores
    """Scores of the steps of the group."""
    trials: Trials
    labels: NDArray[np.uint8]

    def can_reach(self, parameters: LocalSearch, group: int, accepted: tuple[int, ...]) -> bool:
        """Return whether `base` plus the scores of some steps gives the scores after `accepted`.

        The parameters determine the whole search. The parameters, the group and the accepted
        trials therefore identify the weights. A resumed search may start before some of the
        trials in `self.accepted`. Then `base` cannot be used, because steps are never subtracted.
        """
        same = (self.parameters, self.group) == (parameters, group)
        return same and accepted[: len(self.accepted)] == self.accepted


_MEMORY_KEY = "local search"
"""The key of a shard's `_GroupScores` in its memory."""


@shown_as("hinge-local-search")
def sum_group_losses(shard: Shard, request: GroupRequest) -> Sums[LossSum]:
    """Sum the losses of a group's trials over one shard.

    All trials start from the accepted weights.
    """
    group_scores = _add_accepted(_group_scores(shard, request), request.accepted)
    shard.memory[_MEMORY_KEY] = group_scores
    classes = group_scores.base.shape[1]
    offsets = np.zeros((1, classes, LANES))
    wanted = slice(request.first, group_scores.trials.size)
    offsets[0, :, wanted] = request.offsets.reshape(-1, classes).T
    trials = group_scores.trials._replace(offsets=offsets)
    return losses_of_scores(group_scores.scores, group_scores.base, group_scores.labels, trials)


def _group_scores(shard: Shard, request: GroupRequest) -> _GroupScores:
    """Return the scores of the group: those kept from the last request, or new ones."""
    remembered: _GroupScores | None = shard.memory.get(_MEMORY_KEY)
    if remembered and remembered.can_reach(request.parameters, request.group, request.accepted):
        return remembered
    steps = request.parameters.steps(request.group, len(request.W))
    trials = pack(steps)
    blocks = list(shard.blocks())
    before = (request.parameters, request.group - 1, request.accepted_before)
    if remembered and remembered.can_reach(*before):
        base = _add_accepted(remembered, request.accepted_before).base
    else:
        scorer = Scorer(request.W[:, :-1] / steps.unit, np.zeros(len(request.W)))
        base = concatenate_blocks([weight_scores(scorer, block.images) for block in blocks])
    scores = concatenate_blocks([step_scores(trials, block.images) for block in blocks])
    labels = concatenate_blocks([block.labels for block in blocks])
    base = base.astype(np.float64, copy=False)
    return _GroupScores(request.parameters, request.group, (), base, scores, trials, labels)


def _add_accepted(group_scores: _GroupScores, accepted: tuple[int, ...]) -> _GroupScores:
    """Add the scores of the newly accepted steps to the base."""
    base = group_scores.base
    for trial in accepted[len(group_scores.accepted) :]:
        base = base + group_scores.scores[:, :, trial]
    return group_scores._replace(accepted=accepted, base=base)
