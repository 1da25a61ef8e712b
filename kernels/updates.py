"""Update rules of training.

An optimiser consists of two pure functions: `init` makes a state, and `update` takes a step. The
weights and the state therefore describe a run completely, and it can be stopped, stored and resumed
after any step. States are named tuples of arrays and numbers, or tuples of such named tuples.

An optimiser is a chain of transforms. The first transform changes the gradient, each of the others
changes the output of the one before it, and the last output is the step:
`descent(momentum(0.9), scaled(cosine(1e-7, 200)))`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]

LineSearch = Callable[[Weights, Weights], float]
"""`line(W, direction) -> a`: the `a >= 0` that minimises the loss at `W - a direction`."""


def no_line_search(_W: Weights, _direction: Weights) -> float:
    """Raise ValueError: the line search of an objective that has none."""
    raise ValueError("this objective has no line search; give a step size")


class Transform(NamedTuple):
    """One part of an optimiser."""

    init: Callable[[Weights], Any]
    """`init(W) -> state` before the first step."""
    update: Callable[[Weights, Any, Weights, LineSearch], tuple[Weights, Any]]
    """`update(step, state, W, line) -> (step, state)`. The arguments are not modified."""


class Optimiser(NamedTuple):
    """The two functions of an update rule."""

    init: Callable[[Weights], Any]
    """`init(W) -> state` before the first step."""
    update: Callable[..., tuple[Weights, Any]]
    """`update(gradient, state, W, line=no_line_search) -> (W, state)`. The arguments are not
    modified."""


def descent(*transforms: Transform) -> Optimiser:
    """Return the rule `W <- W - step`, where the step is the gradient after all transforms.

    Examples:
        >>> optimiser = descent(momentum(0.5), scaled(constant(0.1)))
        >>> W = np.array([[1.0, 2.0]])
        >>> state = optimiser.init(W)
        >>> for _ in range(2):
        ...     W, state = optimiser.update(np.array([[2.0, 0.0]]), state, W)
        >>> W  # 1 - 0.1 * 2 - 0.1 * (0.5 * 2 + 2)
        array([[0.5, 2. ]])
    """

    def init(W: Weights) -> tuple[Any, ...]:
        return tuple(transform.init(W) for transform in transforms)

    def update(
        gradient: Weights, state: tuple[Any, ...], W: Weights, line: LineSearch = no_line_search
    ) -> tuple[Weights, tuple[Any, ...]]:
        step, states = gradient, []
        for transform, its_state in zip(transforms, state, strict=True):
            step, new = transform.update(step, its_state, W, line)
            states.append(new)
        return W - step, tuple(states)

    return Optimiser(init, update)


def gradient_descent(step_size: float) -> Optimiser:
    """Return the rule `W <- W - step_size * gradient`.

    Examples:
        >>> optimiser = gradient_descent(0.5)
        >>> W = np.array([[1.0, 2.0]])
        >>> optimiser.update(np.array([[2.0, 0.0]]), optimiser.init(W), W)[0]
        array([[0., 2.]])
    """
    return descent(scaled(constant(step_size)))


class MomentumState(NamedTuple):
    """The state of `momentum`."""

    velocity: Weights
    """`v` (C, D + 1)."""


def momentum(decay: float, *, nesterov: bool = False) -> Transform:
    """Return the transform that replaces the gradient g by the velocity `v <- decay v + g`.

    With `nesterov` it replaces g by `g + decay v`.

    B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964;
    I. Sutskever, J. Martens, G. Dahl and G. Hinton, "On the importance of initialization and
    momentum in deep learning", ICML 2013.
    """

    def init(W: Weights) -> MomentumState:
        return MomentumState(np.zeros_like(W))

    def update(
        step: Weights, state: MomentumState, _W: Weights, _line: LineSearch
    ) -> tuple[Weights, MomentumState]:
        velocity = decay * state.velocity + step
        return (step + decay * velocity if nesterov else velocity), MomentumState(velocity)

    return Transform(init, update)


class ScaledState(NamedTuple):
    """The state of `scaled`: the number of steps taken."""

    steps: int


Schedule = Callable[[int], float]
"""`schedule(t)` is the step size of step t, counted from 0."""


def scaled(schedule: Schedule) -> Transform:
    """Return the transform that multiplies its input by the step size of the schedule."""

    def init(_W: Weights) -> ScaledState:
        return ScaledState(0)

    def update(
        step: Weights, state: ScaledState, _W: Weights, _line: LineSearch
    ) -> tuple[Weights, ScaledState]:
        steps = int(state.steps)
        return schedule(steps) * step, ScaledState(steps + 1)

    return Transform(init, update)


class LineState(NamedTuple):
    """The state of `line_search`: the last step size."""

    step_size: float


def line_search() -> Transform:
    """Return the transform that scales a step by the step size with the lowest loss along it."""

    def init(_W: Weights) -> LineState:
        return LineState(0.0)

    def update(
        step: Weights, _state: LineState, W: Weights, line: LineSearch
    ) -> tuple[Weights, LineState]:
        step_size = line(W, step)
        return step_size * step, LineState(step_size)

    return Transform(init, update)


def constant(step_size: float) -> Schedule:
    """Return the schedule that always gives `step_size`."""
    return lambda _step: step_size


def cosine(step_size: float, steps: int) -> Schedule:
    """Return the schedule that falls from `step_size` to 0 in `steps` steps along a cosine.

    I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017.

    Examples:
        >>> [round(cosine(2.0, 4)(t), 6) for t in range(5)]
        [2.0, 1.707107, 1.0, 0.292893, 0.0]
    """
    return lambda step: step_size * (1 + math.cos(math.pi * min(step / steps, 1))) / 2


def inverse(step_size: float, half: int) -> Schedule:
    """Return the schedule `step_size / (1 + t / half)`: half of `step_size` after `half` steps.

    Examples:
        >>> [inverse(6.0, 2)(t) for t in (0, 2, 4)]
        [6.0, 3.0, 2.0]
    """
    return lambda step: step_size / (1 + step / half)


def staircase(step_size: float, factor: float, every: int) -> Schedule:
    """Return the schedule that is multiplied by `factor` after every `every` steps.

    Examples:
        >>> [staircase(8.0, 0.5, 2)(t) for t in range(5)]
        [8.0, 8.0, 4.0, 4.0, 2.0]
    """
    return lambda step: step_size * factor ** (step // every)
