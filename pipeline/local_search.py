"""Random local search: each try steps at random from the last weights that were accepted.

It is sequential by nature, and its result is that of the plain loop to the last bit; but
the scores of the steps do not depend on where they start from. A group of steps is taken
as one wide product ahead; a look at the group then takes the loss of every try from the
scores of the accepted weights, at the cost of one addition a score. The first try that is
better is accepted, and the tries after it are looked at again from there.

Weights are whole multiples of one unit, and their scores integers, so that scores that were
added up are those of the added weights, however many steps were accepted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.fixed_point import FixedPoint, rounded, unit_of
from kernels.hinge import Scorer, fold
from kernels.hinge import scores as weight_scores
from kernels.partial import LossSum, Sums
from kernels.trials import LANES, Scores, Trials, losses_of_scores, pack
from kernels.trials import scores as step_scores
from pipeline.errors import PipelineError
from pipeline.objective import OverShards, total
from pipeline.random_search import check_scale, check_trials, improvements
from pipeline.shards import Shard, joined
from pipeline.streams import Purpose
from pipeline.weights import Init, drawn

GROUP = LANES
"""Tries whose steps are taken ahead together."""

_LARGEST_RATIO = 1e5
"""Of the first weights to a step, so that scores stay below 2^53 units."""


@dataclass(frozen=True)
class LocalSearch:
    """Everything that decides the result of a local search."""

    trials: int
    init_scale: float = 1e-3
    """Standard deviation of the weights it starts from."""
    step_scale: float = 1e-4
    """Standard deviation of a step."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_trials(self.trials, self.seed)
        check_scale("scale of the first weights", self.init_scale)
        check_scale("scale of a step", self.step_scale)
        if self.init_scale > _LARGEST_RATIO * self.step_scale:
            raise PipelineError(
                f"steps of scale {self.step_scale} are lost beside weights of scale "
                f"{self.init_scale}; take steps of at least their {_LARGEST_RATIO:g}th part"
            )

    def start(self, classes: int) -> NDArray[np.float64]:
        """Return the first weights (classes, D + 1): normals, rounded to the unit of a step."""
        W = Init("normal", self.init_scale).weights(classes, self.seed)
        return rounded(W, unit_of(self.step_scale))

    def steps(self, group: int, classes: int) -> FixedPoint:
        """Return the steps (B, classes, D + 1) of the tries of a group."""
        tries = range(group * GROUP, min((group + 1) * GROUP, self.trials))
        return drawn(self.seed, Purpose.PERTURBATION, tries, self.step_scale, classes)

    def best_weights(self, losses: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
        """Return the weights that were accepted last."""
        return SearchState.after_losses(self, classes, losses).W

    @property
    def groups(self) -> int:
        """How many groups the tries make."""
        return -(-self.trials // GROUP)


@dataclass(frozen=True, eq=False)
class SearchState:
    """How far a search is."""

    W: NDArray[np.float64]
    """The last weights that were accepted."""
    losses: NDArray[np.float64]
    """The mean loss of each try so far."""
    accepted: NDArray[np.int64]
    """The tries that were accepted."""

    @classmethod
    def start(cls, parameters: LocalSearch, classes: int) -> "SearchState":
        """Return the state before the first try."""
        return cls(parameters.start(classes), np.empty(0), np.empty(0, np.int64))

    @classmethod
    def after_losses(
        cls, parameters: LocalSearch, classes: int, losses: NDArray[np.float64]
    ) -> "SearchState":
        """Return the state after tries of these losses, without looking at an image.

        The losses say which tries were accepted; the weights are those steps, added up again.
        """
        accepted = np.flatnonzero(improvements(losses))
        W = parameters.start(classes)
        for number in accepted.tolist():
            [step] = drawn(
                parameters.seed, Purpose.PERTURBATION, [number], parameters.step_scale, classes
            ).weights
            W += step
        return cls(W, losses, accepted)

    @property
    def best_loss(self) -> float:
        """The loss of the weights; inf before the first try, which is accepted as the notes do."""
        return float(self.losses[self.accepted[-1]]) if len(self.accepted) else np.inf

    def accepted_in(self, group: int) -> tuple[int, ...]:
        """Return the tries of a group that were accepted, numbered in it."""
        lanes = self.accepted - group * GROUP
        return tuple(lanes[(lanes >= 0) & (lanes < GROUP)].tolist())

    def after(
        self, W: NDArray[np.float64], losses: list[float], accepted: list[int]
    ) -> "SearchState":
        """Return the state after more tries, the accepted of which are numbered from 0."""
        tries = np.array(accepted, np.int64) + len(self.losses)
        return SearchState(W, np.append(self.losses, losses), np.append(self.accepted, tries))


def local_search(
    over: OverShards, mean: NDArray[np.float64], parameters: LocalSearch, state: SearchState
) -> Iterator[SearchState]:
    """Yield the state after each group of tries, going on from `state`."""
    for group in range(len(state.losses) // GROUP, parameters.groups):
        state = _search_group(over, mean, parameters, state, group)
        yield state


def _search_group(
    over: OverShards,
    mean: NDArray[np.float64],
    parameters: LocalSearch,
    state: SearchState,
    group: int,
) -> SearchState:
    """Take the tries of a group; a look at it for each that is accepted, and one more."""
    W, best = state.W, state.best_loss
    steps = parameters.steps(group, len(W)).weights
    previous = state.accepted_in(group - 1)
    losses: list[float] = []
    accepted: list[int] = []
    while len(losses) < len(steps):
        tried = W + steps[len(losses) :]
        offsets = fold(tried.reshape(-1, W.shape[1]), mean, np.float64).offset
        look = Look(parameters, group, state.W, previous, tuple(accepted), len(losses), offsets)
        for V, summed in zip(tried, total(over, losses_near, look)[len(losses) :], strict=True):
            losses.append(summed.mean)
            if losses[-1] < best:
                W, best = V, losses[-1]
                accepted.append(len(losses) - 1)
                break
    return state.after(W, losses, accepted)


class Look(NamedTuple):
    """What `losses_near` takes: all it needs to begin from nothing on a new worker."""

    parameters: LocalSearch
    group: int
    W: NDArray[np.float64]
    """The weights before the group."""
    previous: tuple[int, ...]
    """The lanes of the group before that were accepted."""
    accepted: tuple[int, ...]
    """Those of this group that were accepted so far."""
    first: int
    """The first lane whose loss is wanted; those before it were tried."""
    offsets: NDArray[np.floating]
    """(B C,): from that lane on, those of the accepted weights and each step together."""


class _Seen(NamedTuple):
    """What a shard remembers between looks."""

    parameters: LocalSearch
    group: int
    accepted: tuple[int, ...]
    base: NDArray[np.float64]
    """Scores of the accepted weights, in units (n, C)."""
    scores: Scores
    """Scores of the group's steps."""
    trials: Trials
    labels: NDArray[np.uint8]

    def leads_to(self, parameters: LocalSearch, group: int, accepted: tuple[int, ...]) -> bool:
        """Whether adding steps leads from here to a group's accepted lanes.

        A search goes one way only, so that its parameters, the group and the accepted lanes
        say which weights they are; but it may be taken again from a place further back.
        """
        same = (self.parameters, self.group) == (parameters, group)
        return same and accepted[: len(self.accepted)] == self.accepted


def losses_near(shard: Shard, look: Look) -> Sums[LossSum]:
    """Sum the losses of a group's tries over one shard, all from the same accepted weights."""
    seen = _moved(_group(shard, look), look.accepted)
    shard.memory["losses_near"] = seen
    classes = seen.base.shape[1]
    offsets = np.zeros((1, classes, LANES))
    offsets[0, :, look.first : seen.trials.size] = look.offsets.reshape(-1, classes).T
    trials = seen.trials._replace(offsets=offsets)
    return losses_of_scores(seen.scores, seen.base, seen.labels, trials)


def _group(shard: Shard, look: Look) -> _Seen:
    """Return the scores of the group's steps: the last look's, or new ones."""
    seen: _Seen | None = shard.memory.get("losses_near")
    if seen and seen.leads_to(look.parameters, look.group, look.accepted):
        return seen
    steps = look.parameters.steps(look.group, len(look.W))
    trials = pack(steps)
    blocks = list(shard.blocks())
    if seen and seen.leads_to(look.parameters, look.group - 1, look.previous):
        base = _moved(seen, look.previous).base
    else:
        whole = Scorer(look.W[:, :-1] / steps.unit, np.zeros(len(look.W)))
        base = joined([weight_scores(whole, block.images) for block in blocks])
    scores = joined([step_scores(trials, block.images) for block in blocks])
    labels = joined([block.labels for block in blocks])
    base = base.astype(np.float64, copy=False)
    return _Seen(look.parameters, look.group, (), base, scores, trials, labels)


def _moved(seen: _Seen, accepted: tuple[int, ...]) -> _Seen:
    """Add the scores of the steps that were accepted since."""
    base = seen.base
    for lane in accepted[len(seen.accepted) :]:
        base = base + seen.scores[:, :, lane]
    return seen._replace(accepted=accepted, base=base)
