"""Exact sums: losses of very different sizes, and rows that are repeated many times."""

from fractions import Fraction
from math import floor, inf, isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.exact_sum import LIMB_BITS
from kernels.hinge import Scorer, _safe_runs, data_gradient, fold, loss_and_gradient, sum_rows
from kernels.partial import finalize
from tests.bits import bits

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def constant_scorer(offset: list[float], dtype: type) -> Scorer:
    """Return weights that give every image the scores `offset`."""
    return Scorer(np.zeros((len(offset), 64), dtype), np.array(offset, dtype))


@dtypes
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 255), st.integers(0, 255)), min_size=1
    ),
    scale=st.integers(-70, 60),
    delta=st.sampled_from([0.0, 1.0, 1e-20]),
)
def test_loss_is_the_exact_sum_of_the_row_losses(
    dtype: Any, rows: list[tuple[int, int, int]], scale: int, delta: float
) -> None:
    # Each class has at most one weight that is not 0, and there is no mean. So each score is one
    # product, rounded once.
    weights = np.zeros((3, 64), dtype)
    weights[1, 0], weights[2, 1] = dtype(1.1 * 2.0**scale), dtype(-0.7)
    images = np.zeros((len(rows), 64), np.uint8)
    images[:, :2] = [row[1:] for row in rows]
    labels = np.array([row[0] for row in rows], np.uint8)
    exact = Fraction(0)
    for label, a, b in rows:
        scores = [dtype(0), dtype(a) * weights[1, 0], dtype(b) * weights[2, 1]]
        loss = 0.0
        for j in range(3):
            margin = scores[j] - scores[label] + dtype(delta)
            assert isinstance(margin, dtype)
            if j != label and margin > 0:
                loss += float(margin)
        exact += Fraction(floor(Fraction(loss) * 2**80), 2**80)
    total = sum_rows(Scorer(weights, np.zeros(3, dtype)), images, labels, delta=delta)
    assert Fraction(total.losses.loss, 2**80) == exact
    assert finalize(total, np.zeros((3, 65)), np.zeros(64)).loss == float(exact / len(rows))


@pytest.mark.parametrize(
    "loss",
    [
        2.0**-80,  # the lowest bit of the lowest limb
        2.0**-41,  # the highest bit of the lowest limb
        1 - 2.0**-53,  # 53 bits in two limbs
        1 + 2.0**-52,
        2.0**40 - 2.0**-12,
        2.0**80 - 2.0**27,  # the largest loss that does not overflow
    ],
)
def test_every_bit_of_a_loss_is_summed(loss: float) -> None:
    scorer = constant_scorer([0.0, loss], np.float64)
    images, labels = np.zeros((5, 64), np.uint8), np.zeros(5, np.uint8)
    total = sum_rows(scorer, images, labels, delta=0.0)
    assert Fraction(total.losses.loss, 2**80) == 5 * Fraction(loss)


@pytest.mark.parametrize("offset", [2.0**80, 1e30, inf, -inf, nan])
def test_overflowing_rows_are_counted_and_not_summed(offset: float) -> None:
    images, labels = np.zeros((3, 64), np.uint8), np.array([0, 1, 0], np.uint8)
    total = sum_rows(constant_scorer([0.0, offset], np.float64), images, labels)
    usual = 1 if isfinite(offset) else 0  # the row of class 1 has loss 0 if the score is finite
    assert (total.losses.overflows, total.losses.loss) == (3 - usual, 0)
    assert finalize(total, np.zeros((2, 65)), np.zeros(64)).loss == inf


@pytest.mark.parametrize("value", [1e300, -1e300, inf, -inf, nan])
@pytest.mark.parametrize("image_type", [np.uint8, np.float64])
@pytest.mark.parametrize("reg", [0.0, 1.0])
@dtypes
def test_weights_out_of_range_give_infinite_loss_without_warnings(
    value: float, image_type: type, reg: float, dtype: type
) -> None:
    # Warnings are errors in these tests, so this also asserts that none is emitted.
    rng = np.random.default_rng(0)
    images: NDArray[Any] = rng.integers(1, 256, (20, 70)).astype(image_type)
    labels = np.arange(20) % 4
    W = rng.normal(size=(4, 71))
    W[2] = value
    mean = images.mean(0) / 2
    loss, _ = loss_and_gradient(W, images, labels, mean=mean, reg=reg, dtype=dtype)
    assert loss == inf
    data_gradient(W, images, labels, mean=mean)


@pytest.mark.parametrize("classes", range(2, 129))
def test_runs_of_rows_do_not_overflow_the_gradient_or_a_limb(classes: int) -> None:
    rows = 20_000_000
    runs = _safe_runs(rows, classes)
    lengths = [run.stop - run.start for run in runs]
    assert max(lengths) * 255 * (classes - 1) < 2**31  # an int32 gradient sum
    assert max(lengths) * (2**LIMB_BITS - 1) < 2**63  # an int64 limb
    starts = [run.start for run in runs]
    assert starts == list(range(0, rows, lengths[0]))
    assert runs[-1].stop >= rows


def assert_repetition_changes_nothing(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], classes: int = 10
) -> None:
    """Check the notes' thought experiment: copying every image 1,200 times keeps the gradient."""
    rng = np.random.default_rng(1)
    mean = images.mean(0)
    W = rng.normal(scale=1e-3, size=(classes, images.shape[1] + 1))
    scorer = fold(W, mean)
    rows = np.tile(np.arange(len(images)), 1_200)
    assert len(_safe_runs(len(rows), classes)) > 1
    once = finalize(sum_rows(scorer, images, labels), W, mean, reg=0.3)
    often = finalize(sum_rows(scorer, images, labels, rows=rows), W, mean, reg=0.3)
    assert bits(often.gradient) == bits(once.gradient)
    assert (often.loss, often.accuracy) == (once.loss, once.accuracy)
    assert often.rows == 1_200 * once.rows


def test_repeating_random_images_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1_000, 3_072), dtype=np.uint8)
    assert_repetition_changes_nothing(images, rng.integers(0, 10, 1_000).astype(np.uint8))


def test_repeating_white_images_of_one_class_changes_nothing() -> None:
    # All margins are positive near zero weights, so each row adds -9 * 255 to every pixel of the
    # gradient of its class. The sum over 1.2 million rows is outside the range of int32.
    images = np.full((1_000, 64), 255, np.uint8)
    labels = np.full(1_000, 3, np.uint8)
    assert_repetition_changes_nothing(images, labels)
    rows = np.tile(np.arange(1_000), 1_200)
    total = sum_rows(fold(np.zeros((10, 65))), images, labels, rows=rows)
    assert total.gradient.min() == -9 * 255 * 1_200_000 < -(2**31)


@pytest.mark.slow
@pytest.mark.real
def test_repeating_real_images_changes_nothing(real_cifar10: Path) -> None:
    batches = sorted(real_cifar10.rglob("data_batch_1.bin"))
    if not batches:
        pytest.skip(f"{real_cifar10} does not contain the binary version of CIFAR-10")
    records = np.fromfile(batches[0], np.uint8, 1_000 * 3_073).reshape(1_000, 3_073)
    assert_repetition_changes_nothing(np.ascontiguousarray(records[:, 1:]), records[:, 0].copy())
