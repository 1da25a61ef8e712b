"""The smoothed hinge is the maximum over its grid, and its sums are exact in any order."""

from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import smoothed
from kernels.compiled import smoothed_hinge as smoothed_loops
from kernels.hinge import Scorer, fold, scores, sum_rows
from kernels.smoothed import SmoothedPartial, finalize, levels, sum_smoothed_rows
from tests.bits import bits
from tests.kernels.cases import Case, cases
from tests.kernels.test_hinge_invariants import blocks

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
widths = st.sampled_from([1.0, 0.3, 2.0**-5, 1e-3, 100.0])


def assert_same(a: SmoothedPartial, b: SmoothedPartial) -> None:
    """Assert that every field of two sums contains the same integers."""
    np.testing.assert_array_equal(a.gradient, b.gradient)
    np.testing.assert_array_equal(a.indicators, b.indicators)
    assert (a.smoothed, a.hinge) == (b.smoothed, b.hinge)
    assert (a.alphas, a.squared_alphas, a.correct) == (b.alphas, b.squared_alphas, b.correct)


def row_factors(scorer: Scorer, images: Any, labels: Any, **options: Any) -> NDArray[np.int64]:
    """Return each row's factors k (n, C), from sums over one row each."""
    rows = zip(images[:, None], labels[:, None], strict=True)
    return np.array([sum_smoothed_rows(scorer, *row, **options).indicators for row in rows])


@dtypes
@given(case=cases(floats=False), mu=widths)
def test_alpha_attains_the_maximum_over_the_grid(dtype: type, case: Case, mu: float) -> None:
    # The margins are exact in both types. h is the maximum of lines in the margin. A line that
    # attains the maximum has the value h, and its slope is a subgradient.
    grid = np.arange(levels(len(case.W)) + 1) / levels(len(case.W))
    lines = grid * case.margins[:, None] - mu * grid**2 / 2
    scorer = fold(case.W, case.mean, dtype)
    factors = row_factors(scorer, case.images, case.labels, mu=mu, delta=case.delta)
    wrong = np.arange(len(case.W)) != case.labels[:, None]
    alphas = factors[wrong]
    attained = lines[np.arange(len(lines)), alphas]
    rounding = 1e-15 * (np.abs(case.margins) + mu)
    assert np.all(attained >= lines.max(1) - rounding)
    np.testing.assert_array_equal(factors.sum(1), 0)
    total = sum_smoothed_rows(scorer, case.images, case.labels, mu=mu, delta=case.delta)
    loss = total.smoothed.mean * len(case.images)
    assert abs(loss - lines.max(1).sum()) <= 2 * rounding.sum() + len(lines) * 2.0**-80


@given(case=cases(floats=False), mu=widths)
def test_gradient_is_a_subgradient_of_the_loss(case: Case, mu: float) -> None:
    # f(W') >= f(W) + <g, W' - W> for a convex f. This is exact and needs no difference step.
    mean = np.zeros(case.images.shape[1]) if case.mean is None else case.mean
    reg = case.reg or 0.25

    def objective(W: NDArray[np.float64]) -> smoothed.SmoothedEvaluation:
        scorer = fold(W, mean, np.float64)
        total = sum_smoothed_rows(scorer, case.images, case.labels, mu=mu, delta=case.delta)
        return finalize(total, W, mean, mu=mu, reg=reg, delta=case.delta)

    here = objective(case.W)
    assert here.loss <= here.hinge_loss
    for scale in (1e-3, 0.1, 1.0):
        step = scale * np.random.default_rng(0).normal(size=case.W.shape)
        there = objective(case.W + step)
        slack = 1e-12 * (here.loss + there.loss + np.abs(here.gradient * step).sum())
        assert there.loss >= here.loss + np.sum(here.gradient * step) - slack


@dtypes
@pytest.mark.parametrize("tiles", [True, False])
@settings(max_examples=25)  # each example sums its rows one by one
@given(data=st.data(), mu=widths)
def test_sums_match_the_sums_of_single_rows(
    tiles: bool, dtype: type, data: st.DataObject, mu: float
) -> None:
    scorer, images, labels, _ = data.draw(blocks(dtype))
    factors = row_factors(scorer, images, labels, mu=mu, tiles=tiles)
    alphas = np.maximum(factors, 0)  # the label's k is at most 0
    total = sum_smoothed_rows(scorer, images, labels, mu=mu, tiles=tiles)
    np.testing.assert_array_equal(total.gradient, factors.T @ images.astype(np.int64))
    np.testing.assert_array_equal(total.indicators, factors.sum(0))
    assert (total.alphas, total.squared_alphas) == (alphas.sum(), (alphas**2).sum())
    hinge = sum_rows(scorer, images, labels)
    assert (total.hinge, total.correct) == (hinge.losses, hinge.correct)
    # Each alpha is the level nearest to its margin, computed in the scorer's type.
    s = scores(scorer, images)
    margins = s - s[np.arange(len(s)), labels][:, None] + dtype(1)
    nearest = np.clip(margins.astype(np.float64) / mu, 0, 1) * levels(len(scorer.offset))
    wrong = np.arange(len(scorer.offset)) != labels[:, None]
    assert np.all(np.abs(alphas - nearest)[wrong] <= 0.5)


@dtypes
@given(data=st.data(), mu=widths)
def test_partial_does_not_depend_on_partition_and_order(
    dtype: type, data: st.DataObject, mu: float
) -> None:
    scorer, images, labels, rng = data.draw(blocks(dtype))
    cuts = data.draw(st.lists(st.integers(0, len(images)), max_size=6), label="cuts")
    parts = [
        sum_smoothed_rows(scorer, images[rows], labels[rows], mu=mu)
        for rows in np.split(rng.permutation(len(images)), sorted(cuts))
    ]
    parts.append(SmoothedPartial.zero(*scorer.weights.shape))
    while len(parts) > 1:  # combine any two until one is left
        i, j = rng.choice(len(parts), 2, replace=False)
        both = parts[i].combine(parts[j])
        parts = [part for k, part in enumerate(parts) if k not in {i, j}] + [both]
    assert_same(parts[0], sum_smoothed_rows(scorer, images, labels, mu=mu))


@given(data=st.data(), mu=widths)
def test_sums_with_tiles_match_sums_without(data: st.DataObject, mu: float) -> None:
    scorer, images, labels, _ = data.draw(blocks(max_classes=128))
    assert_same(
        sum_smoothed_rows(scorer, images, labels, mu=mu, tiles=True),
        sum_smoothed_rows(scorer, images, labels, mu=mu, tiles=False),
    )


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("classes", [2, 3, 9, 10, 11, 125, 126, 127, 128])
def test_gradient_is_exact_at_the_largest_factors(classes: int, tiles: bool) -> None:
    # Zero weights and delta 1: every margin is 1 = mu, so k is -Q (C - 1) at the label, else Q.
    images, labels = np.full((131, 64), 255, np.uint8), np.full(131, classes - 1, np.uint8)
    scorer = Scorer(np.zeros((classes, 64), np.float32), np.zeros(classes, np.float32))
    total = sum_smoothed_rows(scorer, images, labels, mu=1.0, tiles=tiles)
    factors = np.full((131, classes), levels(classes))
    factors[:, -1] *= 1 - classes
    np.testing.assert_array_equal(total.gradient, factors.T @ images.astype(np.int64))
    assert total.smoothed.mean == (classes - 1) / 2


def test_every_factor_fits_two_bytes() -> None:
    for classes in range(2, 129):
        grid = levels(classes)
        assert grid & (grid - 1) == 0
        assert grid * (classes - 1) <= smoothed._LARGEST_FACTOR < 2 * grid * (classes - 1)
    k = np.arange(-smoothed._LARGEST_FACTOR, smoothed._LARGEST_FACTOR + 1)
    digits = np.zeros((1, 2 * len(k), 4), np.int8)
    smoothed_loops._write_digits(k, 2, digits)
    high, low = np.split(digits[0, :, 2].astype(np.int64), 2)
    np.testing.assert_array_equal(256 * high + low, k)


def test_evaluation_of_repeated_rows_is_bit_identical() -> None:
    # White images at weights near 0 would overflow the int32 sums in a single run.
    assert smoothed._LONGEST_RUN * 255 * 128 < 2**31 < 70_000 * 255 * 128
    rng = np.random.default_rng(0)
    W, mean = rng.normal(scale=1e-5, size=(10, 65)), rng.random(64)
    scorer = fold(W, mean)
    images, labels = np.full((7, 64), 255, np.uint8), np.full(7, 3, np.uint8)
    few = sum_smoothed_rows(scorer, images, labels, mu=0.3)
    rows = np.tile(np.arange(7), 10_000)
    many = sum_smoothed_rows(scorer, images[rows], labels[rows], mu=0.3)
    assert_same(many, reduce(SmoothedPartial.combine, [few] * 10_000))
    once = finalize(few, W, mean, mu=0.3, reg=0.7)
    often = finalize(many, W, mean, mu=0.3, reg=0.7)
    assert bits(often.gradient) == bits(once.gradient)
    assert (often.loss, often.hinge_loss) == (once.loss, once.hinge_loss)
    bounds = [(value.lower_bound, value.smoothed_lower_bound) for value in (often, once)]
    assert bounds[0] == bounds[1]


def test_evaluation_of_one_image_matches_hand_worked_values() -> None:
    # Three classes, one pixel. Scores of pixel 2: 0.5, 0, 1.25; the label is 0 and delta 0.5.
    # Margins: 0 - 0.5 + 0.5 = 0 and 1.25 - 0.5 + 0.5 = 1.25. With mu 2: alpha = 0 and 0.625,
    # hinge 1.25, smoothed 0.625 * 1.25 - 0.625^2 = 0.390625. k = (-0.625, 0, 0.625).
    W = np.array([[0.25, 0.0], [0.0, 0.0], [0.5, 0.25]])
    images, labels = np.array([[2]], np.uint8), np.array([0], np.uint8)
    total = sum_smoothed_rows(fold(W), images, labels, mu=2.0, delta=0.5)
    np.testing.assert_array_equal(total.indicators / levels(3), [-0.625, 0, 0.625])
    # ||W||^2 = 0.0625 + 0.25 + 0.0625 = 0.375; G = +-0.625 (2, 1); ||G||^2 = 2 * 5 * 0.390625.
    # The bound is 0.5 * 0.625 - 3.90625 / (4 * 4) = 0.068359375. The smoothed bound is lower by
    # mu/2 alpha^2 = 0.390625.
    value = finalize(total, W, np.zeros(1), mu=2.0, reg=4.0, delta=0.5)
    expected = np.array([[-1.25 + 2, -0.625], [0, 0], [1.25 + 4, 0.625 + 2]])
    np.testing.assert_array_equal(value.gradient, expected)
    assert (value.loss, value.hinge_loss) == (0.390625 + 1.5, 1.25 + 1.5)
    assert value.lower_bound == 0.068359375
    assert value.smoothed_lower_bound == 0.068359375 - 0.390625
    assert (value.accuracy, value.rows) == (0.0, 1)


def test_smoothed_loss_approaches_the_hinge_loss_for_small_mu() -> None:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (200, 64), dtype=np.uint8)
    labels = rng.integers(0, 10, 200).astype(np.uint8)
    W = rng.normal(scale=1e-3, size=(10, 65))
    totals = [sum_smoothed_rows(fold(W), images, labels, mu=mu) for mu in (1.0, 0.1, 1e-2, 1e-9)]
    losses = [total.smoothed.mean for total in totals]
    assert all(coarse < fine for coarse, fine in pairwise(losses))
    assert losses[-1] == pytest.approx(totals[-1].hinge.mean, rel=1e-8)
    exact = sum_rows(fold(W), images, labels)
    np.testing.assert_array_equal(totals[-1].gradient, levels(10) * exact.gradient)


@pytest.mark.parametrize("value", [1e300, np.inf, -np.inf, np.nan])
@dtypes
def test_huge_and_non_finite_weights_give_an_infinite_loss(value: float, dtype: type) -> None:
    # Warnings are errors in these tests, so this also checks that nothing warns.
    rng = np.random.default_rng(0)
    images, labels = rng.integers(1, 256, (20, 70), dtype=np.uint8), np.arange(20) % 4
    W, mean = rng.normal(size=(4, 71)), images.mean(0) / 2
    W[2] = value
    total = sum_smoothed_rows(fold(W, mean, dtype), images, labels.astype(np.uint8), mu=0.1)
    result = finalize(total, W, mean, mu=0.1, reg=1.0)
    assert (result.loss, result.hinge_loss) == (np.inf, np.inf)
    assert result.lower_bound < np.inf  # alpha is always in [0, 1]
    assert total.smoothed.overflows == total.hinge.overflows > 0


@pytest.mark.parametrize("mu", [0.0, -1.0, np.inf, np.nan])
def test_bad_mu_raises_value_error(mu: float) -> None:
    images, labels = np.zeros((2, 4), np.uint8), np.zeros(2, np.uint8)
    with pytest.raises(ValueError, match=r"^mu must be above 0 and finite, not "):
        sum_smoothed_rows(fold(np.zeros((3, 5))), images, labels, mu=mu)


def test_bad_arrays_bad_reg_and_no_rows_raise_value_error() -> None:
    scorer, images = fold(np.zeros((3, 5))), np.zeros((2, 4), np.uint8)
    labels = np.zeros(2, np.uint8)
    with pytest.raises(ValueError, match=r"^labels must be in 0..2, not 3..3$"):
        sum_smoothed_rows(scorer, images, labels + np.uint8(3), mu=1.0)
    with pytest.raises(ValueError, match=r"^images and labels must be uint8, not uint8, int64$"):
        sum_smoothed_rows(scorer, images, labels.astype(np.int64), mu=1.0)
    with pytest.raises(ValueError, match=r"^images and labels must be uint8, not float32, uint8$"):
        sum_smoothed_rows(scorer, images.astype(np.float32), labels, mu=1.0)
    total = sum_smoothed_rows(scorer, images, labels, mu=1.0)
    for reg in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"^a lower bound needs a reg above 0 and finite, not"):
            finalize(total, np.zeros((3, 5)), np.zeros(4), mu=1.0, reg=reg)
    nothing = sum_smoothed_rows(scorer, images[:0], labels[:0], mu=1.0)
    assert_same(nothing, SmoothedPartial.zero(3, 4))
    with pytest.raises(ValueError, match=r"^the mean over no rows is not defined"):
        finalize(nothing, np.zeros((3, 5)), np.zeros(4), mu=1.0, reg=1.0)
