"""Gradient descent: exact, pure, and it descends."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernels.updates import gradient_descent

finite = st.floats(-1e100, 1e100)


@given(weight=finite, slope=finite, step_size=st.floats(1e-12, 1e12))
def test_a_step_rounds_twice(weight: float, slope: float, step_size: float) -> None:
    # In exact arithmetic first, and rounded where float64 would: no other order of operations.
    product = float(Fraction(step_size) * Fraction(slope))
    expected = float(Fraction(weight) - Fraction(product))
    optimiser = gradient_descent(step_size)
    W = np.array([[weight]])
    stepped, _ = optimiser.update(np.array([[slope]]), optimiser.init(W), W)
    assert stepped.item() == expected


def test_arguments_and_state_are_left_as_they_are() -> None:
    W, gradient = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.5, -0.5], [0.0, 1.0]])
    W.flags.writeable = gradient.flags.writeable = False
    optimiser = gradient_descent(2.0)
    state = optimiser.init(W)
    stepped, next_state = optimiser.update(gradient, state, W)
    # W - 2 g
    np.testing.assert_array_equal(stepped, [[0.0, 3.0], [3.0, 2.0]])
    np.testing.assert_array_equal(W, [[1.0, 2.0], [3.0, 4.0]])
    assert next_state == state
    assert not np.shares_memory(stepped, W)
    assert stepped.dtype == np.float64


def test_steps_on_a_parabola_are_a_geometric_series() -> None:
    # f = W^2 / 2 has gradient W: a step of 1/4 leaves 3/4 of the weights.
    optimiser = gradient_descent(0.25)
    W = np.array([[256.0]])
    state = optimiser.init(W)
    for _ in range(4):
        W, state = optimiser.update(W, state, W)
    assert W.item() == 81.0
