"""Gradient descent as a loop over steps, and the rule that stops it early.

The loop does not know where the data is or what a batch is. The same function runs in the driving
process, over the actors of all workers, and in a task on one worker.
"""

import math
import time
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
"""A run has diverged if its loss is not finite, or exceeds this factor times `max(first loss, 1)`.

The first loss is that of the first step."""


class Status(StrEnum):
    """The status of a run."""

    RUNNING = "running"
    DONE = "done"
    CONVERGED = "converged"
    """The loss no longer changed, so the run stopped before its last step."""
    DIVERGED = "diverged"


@dataclass(frozen=True, eq=False)
class DescentState:
    """Everything that a run needs to resume."""

    step: int
    """How many steps were taken."""
    W: NDArray[np.float64]
    """The weights after these steps (C, D + 1)."""
    memory: Any
    """The optimiser's state."""
    losses: NDArray[np.float64]
    """The loss of each step's batch at the weights before the step, including the regulariser."""
    status: Status = Status.RUNNING


@dataclass(frozen=True)
class StopRule:
    """The rule that stops a run early, based on the losses so far."""

    window: int
    """How many losses are averaged, so that a single unusual batch does not stop the run."""
    tolerance: float = 0.0
    """The run has converged if the means of two consecutive windows differ by at most this fraction
    of the loss. If it is 0, all losses in both windows must be equal."""

    def __call__(self, losses: Sequence[float]) -> Status:
        """Return the status of a run after its newest loss.

        Examples:
            >>> rule = StopRule(window=2)
            >>> rule([9.0, 8.0, 7.0, 6.0]).value, rule([6.0, 6.0, 6.0, 6.0]).value
            ('running', 'converged')
        """
        loss = losses[-1]
        if not (math.isfinite(loss) and loss <= DIVERGED_FACTOR * max(losses[0], 1.0)):
            return Status.DIVERGED
        if len(losses) < 2 * self.window or len(losses) % self.window:
            return Status.RUNNING
        if not self.tolerance:  # windows of an oscillating loss may have equal means
            unchanged = len(set(losses[-2 * self.window :])) == 1
            return Status.CONVERGED if unchanged else Status.RUNNING
        now = math.fsum(losses[-self.window :])
        before = math.fsum(losses[-2 * self.window : -self.window])
        converged = abs(now - before) <= self.tolerance * abs(before)
        return Status.CONVERGED if converged else Status.RUNNING


@dataclass(frozen=True)
class Recipe:
    """The way a run takes its steps: its batches, its update rule and its stop rule."""

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
    seconds: float = math.inf,
) -> DescentState:
    """Take steps from `state` until the run has taken `until` steps, or the stop rule stops it.

    Return earlier, after a step, once `seconds` have passed. If the stop rule stops the run at a
    step, that step is evaluated but not taken.
    """
    W, memory, status = state.W, state.memory, state.status
    losses = state.losses.tolist()
    step = state.step
    deadline = time.monotonic() + seconds
    while step < until and status is Status.RUNNING:
        value = objective(W, recipe.batches(step))
        losses.append(value.loss)
        status = recipe.stop_rule(losses)
        if status is Status.RUNNING:
            W, memory = recipe.optimiser.update(value.gradient, memory, W, line_search(objective))
            step += 1
            report(step, value.loss)
        if time.monotonic() >= deadline:
            break
    return DescentState(step, W, memory, np.array(losses), status)
