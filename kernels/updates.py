"""Update rules: an optimiser is `init`, which makes a state, and `update`, which takes a step.

Both are pure, so a run is its weights and its state: it can be stopped, stored and gone on
with anywhere. States hold arrays and numbers only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]


class Optimiser(NamedTuple):
    """The two functions of an update rule."""

    init: Callable[[Weights], Any]
    """`init(W) -> state` before the first step."""
    update: Callable[[Weights, Any, Weights], tuple[Weights, Any]]
    """`update(gradient, state, W) -> (W, state)`; its arguments are left as they are."""


class GradientDescentState(NamedTuple):
    """Gradient descent remembers nothing."""


def gradient_descent(step_size: float) -> Optimiser:
    """Return the rule `W <- W - step_size * gradient`.

    >>> optimiser = gradient_descent(0.5)
    >>> W = np.array([[1.0, 2.0]])
    >>> optimiser.update(np.array([[2.0, 0.0]]), optimiser.init(W), W)
    (array([[0., 2.]]), GradientDescentState())
    """

    def init(_W: Weights) -> GradientDescentState:
        return GradientDescentState()

    def update(
        gradient: Weights, state: GradientDescentState, W: Weights
    ) -> tuple[Weights, GradientDescentState]:
        return W - step_size * gradient, state

    return Optimiser(init, update)
