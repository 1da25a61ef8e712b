"""Gradient descent as a loop over steps, and the rule that ends it early.

The loop does not know where the data is or what a batch is. The same function runs in the driving
process over the actors of all workers, and inside a task of one worker.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.updates import Optimiser
from pipeline.inputs.batches import Batches
from pipeline.objective import Objective
from pipeline.slices.line import line_search

DIVERGED_FACTOR = 100.0
"""A run has diverged when its loss is not finite, or above this many times the first step's loss
(or above this, if the first loss was below 1)."""


class Status(StrEnum):
    """How far a run is."""

    RUNNING = "running"
    DONE = "done"
    CONVERGED = "converged"
    """The loss no longer changed, so the run stopped before its last step."""
    DIVERGED = "diverged"


@dataclass(frozen=True, eq=False)
class DescentState:
    """Everything that a run needs to continue."""

    step: int
    """Steps taken."""
    W: NDArray[np.float64]
    """The weights after them (C, D + 1)."""
    memory: Any
    """The optimiser's own state."""
    losses: NDArray[np.float64]
    """The loss of each step's batch at the weights before it, the regulariser included."""
    status: Status = Status.RUNNING


@dataclass(frozen=True)
class StopRule:
    """When to stop early, judged by the losses so far."""

    window: int
    """How many losses are averaged, so that the chance of a single batch does not count."""
    tolerance: float = 0.0
    """The run has converged when the means of two consecutive windows differ by at most this part
    of the loss; for 0, when all losses in both windows are equal."""

    def __call__(self, losses: Sequence[float]) -> Status:
        """Judge the run after its newest loss.

        >>> rule = StopRule(window=2)
        >>> rule([9.0, 8.0, 7.0, 6.0]).value, rule([6.0, 6.0, 6.0, 6.0]).value
        ('running', 'converged')
        """
        loss = losses[-1]
        if not (math.isfinite(loss) and loss <= DIVERGED_FACTOR * max(losses[0], 1.0)):
            return Status.DIVERGED
        if len(losses) < 2 * self.window or len(losses) % self.window:
            return Status.RUNNING
        if not self.tolerance:  # a loss that oscillates may have windows of equal means
            unchanged = len(set(losses[-2 * self.window :])) == 1
            return Status.CONVERGED if unchanged else Status.RUNNING
        now = math.fsum(losses[-self.window :])
        before = math.fsum(losses[-2 * self.window : -self.window])
        converged = abs(now - before) <= self.tolerance * abs(before)
        return Status.CONVERGED if converged else Status.RUNNING


@dataclass(frozen=True)
class Recipe:
    """How a run takes its steps: over which rows, by which update rule, and when it stops early."""

    batches: Batches
    optimiser: Optimiser
    stop_rule: StopRule


ReportProgress = Callable[[int, float], None]
"""Called with the number of steps taken and the newest loss."""


def descend(
    objective: Objective,
    recipe: Recipe,
    state: DescentState,
    until: int,
    report: ReportProgress = lambda _step, _loss: None,
) -> DescentState:
    """Take steps from `state` until the run has `until` steps, or the stop rule ends it.

    A step that ends the run early is evaluated but not taken.
    """
    W, memory, status = state.W, state.memory, state.status
    losses = state.losses.tolist()
    step = state.step
    while step < until and status is Status.RUNNING:
        value = objective(W, recipe.batches(step))
        losses.append(value.loss)
        status = recipe.stop_rule(losses)
        if status is Status.RUNNING:
            W, memory = recipe.optimiser.update(value.gradient, memory, W, line_search(objective))
            step += 1
            report(step, value.loss)
    return DescentState(step, W, memory, np.array(losses), status)
