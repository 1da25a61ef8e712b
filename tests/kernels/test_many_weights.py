"""The losses of many weights at once are bit-identical to separate evaluations."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import reference
from kernels.exact_sum import LossSum
from kernels.hinge import fold, sum_rows
from kernels.many_weights import losses_at_many_weights

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]


def random_case(
    seed: int, many: int, classes: int, columns: int, rows: int
) -> tuple[Floats, Bytes, Bytes, Floats]:
    rng = np.random.default_rng(seed)
    W = rng.normal(scale=0.01, size=(many, classes, columns + 1))
    images = rng.integers(0, 256, (rows, columns), dtype=np.uint8)
    labels = rng.integers(0, classes, rows).astype(np.uint8)
    return W, images, labels, rng.uniform(0, 255, columns)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    many=st.integers(1, 23),
    classes=st.integers(2, 12),
    columns=st.sampled_from([1, 5, 63, 64, 65, 130]),
    rows=st.integers(0, 150),
    delta=st.sampled_from([1.0, 0.0, 2.5]),
    picked=st.booleans(),
)
def test_losses_are_bit_identical_to_separate_evaluations(
    seed: int, many: int, classes: int, columns: int, rows: int, delta: float, picked: bool
) -> None:
    W, images, labels, mean = random_case(seed, many, classes, columns, rows)
    some = None
    if picked and rows:
        rng = np.random.default_rng(seed)
        some = rng.integers(0, rows, rng.integers(0, 2 * rows))
    together = losses_at_many_weights(W, images, labels, mean=mean, rows=some, delta=delta)
    scorers = [fold(each, mean, np.float64) for each in W]
    alone = [sum_rows(s, images, labels, rows=some, delta=delta).losses for s in scorers]
    assert list(together) == alone


def test_losses_match_the_reference_implementation() -> None:
    W, images, labels, mean = random_case(7, 3, 4, 6, 9)
    X = np.column_stack([images - mean, np.ones(9)]).tolist()
    for summed, each in zip(losses_at_many_weights(W, images, labels, mean=mean), W, strict=True):
        expected = reference.loss(each.tolist(), X, labels.tolist())
        assert summed.mean == pytest.approx(expected, rel=1e-13)


def test_losses_of_two_weights_match_hand_worked_values() -> None:
    # x is 1 for class 0 and -1 for class 1.
    # First weights: scores (0, 0), margins 1.
    # Second weights: scores (3 x, x), margins 1 - 3 + 1 = -1 and -3 + 1 + 1 = -1; 2 with delta 4.
    W = np.array([[[0.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [1.0, 0.0]]])
    images, labels = np.array([[3], [1]], np.uint8), np.array([0, 1], np.uint8)
    mean = np.array([2.0])
    assert losses_at_many_weights(W, images, labels, mean=mean) == (
        LossSum(2 << 80, 0, 2),
        LossSum(0, 0, 2),
    )
    assert losses_at_many_weights(W, images, labels, mean=mean, delta=4) == (
        LossSum(8 << 80, 0, 2),
        LossSum(4 << 80, 0, 2),
    )
    picked = losses_at_many_weights(W, images, labels, mean=mean, delta=4, rows=np.array([1, 1, 1]))
    assert picked == (LossSum(12 << 80, 0, 3), LossSum(6 << 80, 0, 3))


def test_overflow_is_counted_only_for_the_weights_that_overflow() -> None:
    W, images, labels, mean = random_case(1, 4, 3, 5, 20)
    W[2] *= 1e300
    sums = losses_at_many_weights(W, images, labels, mean=mean)
    assert [each.overflows > 0 for each in sums] == [False, False, True, False]
    assert sums[2].mean == math.inf
    W[2] = 0
    others = losses_at_many_weights(W, images, labels, mean=mean)
    assert [sums[i] == others[i] for i in range(4)] == [True, True, False, True]


def test_many_rows_are_summed_in_parts_before_a_limb_overflows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    W, images, labels, mean = random_case(2, 5, 4, 8, 100)
    whole = losses_at_many_weights(W, images, labels, mean=mean)
    monkeypatch.setattr("kernels.many_weights.LIMB_ROWS", 7)
    assert losses_at_many_weights(W, images, labels, mean=mean) == whole


@pytest.mark.parametrize(
    ("W", "images", "labels", "mean", "message"),
    [
        (np.zeros((2, 3, 5)), np.zeros((2, 4)), np.full(2, 3), np.zeros(4), r"0\.\.2, not 3"),
        (np.zeros((2, 3, 5)), np.zeros((2, 5)), np.zeros(2), np.zeros(4), r"shape \(2, 4\)"),
        (np.zeros((2, 3, 5)), np.zeros((3, 4)), np.zeros(2), np.zeros(4), r"shape \(2, 4\)"),
        (np.zeros((2, 3, 5)), np.zeros((2, 4)), np.zeros(2), np.zeros(3), "4 pixels need"),
        (np.zeros((2, 1, 5)), np.zeros((2, 4)), np.zeros(2), np.zeros(4), "2 to 128 classes"),
        (np.zeros((3, 5)), np.zeros((2, 4)), np.zeros(2), np.zeros(4), "with B at least 1"),
    ],
    ids=["label", "columns", "rows", "mean", "classes", "2-D weights"],
)
def test_mismatched_arrays_raise_value_error(
    W: Floats, images: Any, labels: Any, mean: Floats, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        losses_at_many_weights(W, images.astype(np.uint8), labels.astype(np.uint8), mean=mean)
