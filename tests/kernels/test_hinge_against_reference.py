"""The compiled objective against the reference implementation and SciPy's differences."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from numpy.typing import NDArray
from scipy.optimize._numdiff import approx_derivative

from kernels import reference
from kernels.hinge import data_gradient, loss_and_gradient
from tests.kernels.cases import Case, assert_matches_reference, cases

STEP = 2.0**-13
"""A difference step with which no margin crosses its kink, unless it is 0 before the step.

It moves a margin by at most 255 times this, less than 1/16. So the loss is a parabola between the
two points, and the only error of a centred difference is rounding: 1e-16 of a loss below 1e6,
divided by the step."""


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(case=cases())
def test_loss_and_gradient_match_the_reference(dtype: type, case: Case) -> None:
    def compiled(case: Case) -> tuple[float, NDArray[np.float64]]:
        W, images, labels, mean, delta, reg = case
        return loss_and_gradient(W, images, labels, mean=mean, delta=delta, reg=reg, dtype=dtype)

    assert_matches_reference(compiled, case)


@settings(max_examples=40)
@given(case=cases(max_columns=65))
def test_gradient_matches_scipy_differences_away_from_kinks(case: Case) -> None:
    assume(not np.any(case.margins == 0))
    # With a large regulariser, rounding would hide the data's part of the gradient.
    case = case._replace(reg=min(case.reg, 1.0))
    W, images, labels, mean, delta, reg = case

    def loss(flat: NDArray[np.float64]) -> float:
        return loss_and_gradient(
            flat.reshape(W.shape), images, labels, mean=mean, delta=delta, reg=reg
        )[0]

    _, gradient = loss_and_gradient(W, images, labels, mean=mean, delta=delta, reg=reg)
    differences: Any = approx_derivative(loss, W.ravel(), method="3-point", abs_step=STEP)
    np.testing.assert_allclose(gradient.ravel(), differences, rtol=0, atol=2e-6)


@given(case=cases())
def test_data_gradient_matches_the_reference(case: Case) -> None:
    W, images, labels, mean, delta, _ = case
    expected = np.zeros(images.shape)
    for i, (x, y) in enumerate(zip(case.centred.tolist(), labels.tolist(), strict=True)):
        scores = [reference.score(W.tolist(), x, j) for j in range(len(W))]
        for j in range(len(W)):
            if j != y and scores[j] - scores[y] + delta > 0:
                expected[i] += W[j, :-1] - W[y, :-1]
    # Both are sums of eighths, so they are exact.
    np.testing.assert_array_equal(
        data_gradient(W, images, labels, mean=mean, delta=delta), expected
    )


@settings(max_examples=40)
@given(case=cases(max_rows=3, max_columns=65))
def test_data_gradient_matches_scipy_differences_away_from_kinks(case: Case) -> None:
    assume(not np.any(case.margins == 0))
    W, images, labels, mean, delta, _ = case
    gradient = data_gradient(W, images, labels, mean=mean, delta=delta)
    for i, label in enumerate(labels):

        def loss(pixels: NDArray[np.float64], label: int = int(label)) -> float:
            return reference.example_loss(W.tolist(), [*pixels, 1.0], label, delta)

        # A pixel moves a margin by at most 4 times the step, so none crosses its kink. All
        # numbers are multiples of 2^-17 below 2^20, so the difference is exact.
        differences: Any = approx_derivative(
            loss, case.centred[i, :-1], method="3-point", abs_step=STEP
        )
        np.testing.assert_array_equal(gradient[i], differences)
