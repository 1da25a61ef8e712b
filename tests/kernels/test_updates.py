"""Update rules are exact, pure and composable, and they reduce the loss."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.updates import (
    ScaledState,
    constant,
    cosine,
    descent,
    gradient_descent,
    line_search,
    momentum,
    scaled,
    staircase,
)

finite = st.floats(-1e100, 1e100)


@given(weight=finite, slope=finite, step_size=st.floats(1e-12, 1e12))
def test_gradient_descent_step_is_rounded_twice(
    weight: float, slope: float, step_size: float
) -> None:
    # Exact arithmetic, rounded after the product and after the difference.
    product = float(Fraction(step_size) * Fraction(slope))
    expected = float(Fraction(weight) - Fraction(product))
    optimiser = gradient_descent(step_size)
    W = np.array([[weight]])
    stepped, _ = optimiser.update(np.array([[slope]]), optimiser.init(W), W)
    assert stepped.item() == expected


def test_update_does_not_modify_its_arguments() -> None:
    W, gradient = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.5, -0.5], [0.0, 1.0]])
    W.flags.writeable = gradient.flags.writeable = False
    optimiser = gradient_descent(2.0)
    state = optimiser.init(W)
    stepped, next_state = optimiser.update(gradient, state, W)
    # W - 2 g
    np.testing.assert_array_equal(stepped, [[0.0, 3.0], [3.0, 2.0]])
    np.testing.assert_array_equal(W, [[1.0, 2.0], [3.0, 4.0]])
    assert state == optimiser.init(W) == (ScaledState(0),)
    assert next_state == (ScaledState(1),)
    assert not np.shares_memory(stepped, W)
    assert stepped.dtype == np.float64


def test_gradient_descent_on_a_parabola_is_a_geometric_series() -> None:
    # f = W^2 / 2 has gradient W: a step of 1/4 leaves 3/4 of the weights.
    optimiser = gradient_descent(0.25)
    W = np.array([[256.0]])
    state = optimiser.init(W)
    for _ in range(4):
        W, state = optimiser.update(W, state, W)
    assert W.item() == 81.0


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_matches_the_recurrence_of_its_papers(nesterov: bool) -> None:
    gradients = np.random.default_rng(0).normal(size=(6, 2, 3))
    optimiser = descent(momentum(0.9, nesterov=nesterov), scaled(staircase(0.5, 0.1, 2)))
    W, state = np.ones((2, 3)), optimiser.init(np.ones((2, 3)))
    expected, velocity = np.ones((2, 3)), np.zeros((2, 3))
    for gradient, step_size in zip(gradients, [0.5, 0.5, 0.05, 0.05, 0.005, 0.005], strict=True):
        W, state = optimiser.update(gradient, state, W)
        velocity = 0.9 * velocity + gradient
        expected = expected - step_size * (gradient + 0.9 * velocity if nesterov else velocity)
    np.testing.assert_allclose(W, expected, rtol=1e-13)


def test_momentum_converges_faster_in_a_narrow_valley() -> None:
    # f = (x^2 + 50 y^2) / 2, with the same step size for both
    slopes = np.array([[1.0, 50.0]])
    ends = []
    for transforms in ([], [momentum(0.8)]):
        optimiser = descent(*transforms, scaled(constant(0.02)))
        W = np.array([[1.0, 1.0]])
        state = optimiser.init(W)
        for _ in range(60):
            W, state = optimiser.update(slopes * W, state, W)
        ends.append(float(np.sum(slopes * W**2)))
    assert ends[1] < ends[0] / 100


def test_line_search_gets_the_current_weights_and_the_gradient() -> None:
    calls = []

    def line(W: object, step: object) -> float:
        calls.append((W, step))
        return 0.25

    optimiser = descent(line_search())
    W, gradient = np.array([[1.0]]), np.array([[8.0]])
    stepped, [state] = optimiser.update(gradient, optimiser.init(W), W, line)
    assert (stepped.item(), state.step_size) == (-1.0, 0.25)
    assert calls == [(W, gradient)]
    with pytest.raises(ValueError, match="no line search"):
        optimiser.update(gradient, optimiser.init(W), W)


def test_schedule_resumes_from_a_stored_state() -> None:
    optimiser = descent(scaled(cosine(1.0, 10)))
    W = np.zeros((1, 1))
    states = [optimiser.init(W)]
    steps = []
    for _ in range(10):
        step, state = optimiser.update(-np.ones((1, 1)), states[-1], W)
        steps.append(step.item())
        states.append(state)
    assert steps[0] == 1.0
    assert all(b < a for a, b in pairwise(steps))
    again, _ = optimiser.update(-np.ones((1, 1)), states[7], W)
    assert again.item() == steps[7]
