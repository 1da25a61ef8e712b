"""Differences in the pixels of each row, against the reference implementation."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import reference
from kernels.data_difference import compare_pixel_gradient
from kernels.finite_difference import Scheme, numerical_gradient
from kernels.gradient_verdict import Comparison, Findings, Verdict
from tests.kernels.cases import Case, cases

Floats = NDArray[np.float64]
schemes = pytest.mark.parametrize("scheme", list(Scheme))

STEPS = st.sampled_from([2.0**-20, 2.0**-6, 1.0, 64.0])
"""Exact difference steps. With the first, no margin of `cases` crosses its kink. With the last,
many do."""


def compare_pixels(case: Case, step: float, scheme: Scheme) -> Comparison:
    mean = np.zeros(case.images.shape[1]) if case.mean is None else case.mean
    return compare_pixel_gradient(
        case.W, case.images, case.labels, mean=mean, step=step, scheme=scheme, delta=case.delta
    )


@schemes
@settings(max_examples=40)
@given(case=cases(max_rows=3, max_columns=3, floats=False), step=STEPS)
def test_differences_match_a_black_box_of_the_reference(
    scheme: Scheme, case: Case, step: float
) -> None:
    # All products, moves and sums are multiples of 2^-24 below 2^20, so nothing is rounded.
    found = compare_pixels(case, step, scheme)
    for i, (x, label) in enumerate(zip(case.centred, case.labels.tolist(), strict=True)):

        def loss(pixels: Floats, label: int = label) -> float:
            return reference.example_loss(case.W.tolist(), [*pixels, 1.0], label, case.delta)

        black_box = numerical_gradient(loss, x[:-1], step=step, scheme=scheme)
        np.testing.assert_array_equal(found.numerical[i], black_box)


@schemes
@settings(max_examples=60)
@given(case=cases(max_rows=4, max_columns=65, floats=False), step=STEPS)
def test_crossings_are_counted_and_explain_the_error(
    scheme: Scheme, case: Case, step: float
) -> None:
    found = compare_pixels(case, step, scheme)
    scores = case.centred @ case.W.T
    crossings = np.zeros(case.images.shape, np.int64)
    slope = np.zeros(case.images.shape)
    for i, (y, s) in enumerate(zip(case.labels, scores, strict=True)):
        for j in set(range(len(s))) - {int(y)}:
            margin, weights = s[j] - s[y] + case.delta, case.W[j, :-1] - case.W[y, :-1]
            back = margin - step * weights if scheme is Scheme.CENTRED else margin
            crossings[i] += (margin + step * weights > 0) != (back > 0)
            slope[i] += weights * (margin > 0)
    np.testing.assert_array_equal(found.crossings, crossings)
    np.testing.assert_array_equal(found.analytic, slope)
    np.testing.assert_array_equal(found.numerical - found.kinks, slope)
    assert not (found.kinks * (crossings == 0)).any()


def test_differences_of_one_row_match_hand_worked_values() -> None:
    # Scores 0, 1/2 and -2, label 0, delta 1/2: the margins are 1 and -3/2. Their slopes are
    # 2 - 1 = 1 and -1 - 1 = -2. A step of 1 moves the first margin to 0 and 2: the difference of
    # its hinges is 2. It moves the second to 1/2 and -7/2: the difference is -1/2, though the
    # subgradient is 0. So the quotient is (2 - 1/2) / 2, and the kink's part is -1/4.
    W = np.array([[1.0, -4.0], [2.0, -7.5], [-1.0, 2.0]])
    images, labels = np.array([[4]], np.uint8), np.array([0], np.uint8)
    found = compare_pixel_gradient(W, images, labels, mean=np.zeros(1), step=1.0, delta=0.5)
    assert found.numerical.tolist() == [[0.75]]
    assert found.kinks.tolist() == [[-0.25]]
    assert found.analytic.tolist() == [[1]]
    assert found.crossings.tolist() == [[2]]  # the first margin crosses, too: 0 is not positive
    assert found.verdicts.tolist() == [[Verdict.KINK]]
    # Forward: the first moves to 2 (difference 1), the second to -7/2 (difference 0).
    ahead = compare_pixel_gradient(
        W, images, labels, mean=np.zeros(1), step=1.0, delta=0.5, scheme=Scheme.FORWARD
    )
    assert ahead.numerical.tolist() == [[1]]
    assert ahead.kinks.tolist() == [[0]]
    assert ahead.crossings.tolist() == [[0]]


def random_case(seed: int, rows: int, columns: int, classes: int, scale: float) -> Case:
    """Return a case whose products are all rounded."""
    rng = np.random.default_rng(seed)
    return Case(
        rng.normal(scale=scale, size=(classes, columns + 1)),
        rng.integers(0, 256, (rows, columns), dtype=np.uint8),
        rng.integers(0, classes, rows).astype(np.uint8),
        rng.uniform(0, 255, columns),
        1.0,
        0.0,
    )


random_cases = st.builds(
    random_case,
    st.integers(0, 2**32 - 1),
    st.integers(1, 20),
    st.sampled_from([1, 5, 64, 100]),
    st.integers(2, 10),
    st.sampled_from([1e-6, 1e-3, 0.1]),
)


@schemes
@given(case=random_cases, step=st.floats(-6, 2).map(lambda power: 10.0**power))
def test_correct_gradient_has_no_wrong_pixel(scheme: Scheme, case: Case, step: float) -> None:
    found = compare_pixels(case, step, scheme)
    assert Findings.of(found).wrong == 0
    # The bound is tight enough: 2^-47 of the largest rounded numbers.
    largest = 1 + 2 * 256 * np.abs(case.W).sum(1).max()
    assert (found.bound <= 2.0**-47 * (9 * largest / step + np.abs(case.W).max())).all()


@schemes
@pytest.mark.parametrize("step", [1e-2, 30.0])
def test_one_faulty_pixel_is_found_and_named(scheme: Scheme, step: float) -> None:
    case = random_case(3, 40, 50, 10, 1e-3)
    found = compare_pixels(case, step, scheme)
    covered = found.crossings > 0 if step > 1 else found.crossings == 0  # kinks hide no fault
    row, column = np.argwhere(covered & (found.analytic != 0))[0].tolist()
    for factor in (1.001, 0.999, -1.0, 0.0):
        analytic = found.analytic.copy()
        analytic[row, column] *= factor
        findings = Findings.of(replace(found, analytic=analytic))
        assert findings.wrong == 1
        assert findings.worst[0].place == (row, column)


@schemes
def test_one_class_missing_from_one_row_is_found(scheme: Scheme) -> None:
    # The fault: in one row, W^T k omits one class whose indicator is 1.
    case = random_case(4, 40, 50, 10, 1e-3)
    found = compare_pixels(case, 1e-2, scheme)
    scores = case.centred @ case.W.T
    indicators = scores - scores[np.arange(40), case.labels][:, None] + 1 > 0
    indicators[np.arange(40), case.labels] = False
    row, j = np.argwhere(indicators)[-1].tolist()
    analytic = found.analytic.copy()
    analytic[row] -= case.W[j, :-1] - case.W[case.labels[row], :-1]
    wrong = replace(found, analytic=analytic).verdicts == Verdict.WRONG
    assert wrong[row].all()
    assert not np.delete(wrong, row, axis=0).any()


def test_empty_batch_has_no_verdicts() -> None:
    none = compare_pixel_gradient(
        np.ones((3, 5)),
        np.zeros((0, 4), np.uint8),
        np.zeros(0, np.uint8),
        mean=np.zeros(4),
        step=1.0,
    )
    assert Findings.of(none).verdicts.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("images", "labels", "mean"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros(2, np.uint8), np.zeros(4)),
        (np.zeros((3, 4), np.uint8), np.zeros(2, np.uint8), np.zeros(4)),
        (np.zeros((2, 4), np.uint8), np.full(2, 3, np.uint8), np.zeros(4)),
        (np.zeros((2, 4), np.uint8), np.zeros(2, np.uint8), np.zeros(3)),
    ],
    ids=["columns", "rows", "label", "mean"],
)
def test_mismatched_arrays_raise_value_error(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], mean: Floats
) -> None:
    with pytest.raises(ValueError, match=r"need images of|in 0\.\.2, not|mean has 3 pixels"):
        compare_pixel_gradient(np.zeros((3, 5)), images, labels, mean=mean, step=1e-2)
