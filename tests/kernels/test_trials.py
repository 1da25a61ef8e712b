"""The losses of many trials at once are bit-identical to separate evaluations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import reference
from kernels.compiled import trial_scores as trial_loops
from kernels.exact_sum import LossSum
from kernels.fixed_point import FixedPoint, fixed_point, rounded, unit_of
from kernels.hinge import Scorer, fold, scores, sum_rows
from kernels.trials import LANES, losses_of_scores, pack, trial_losses
from kernels.trials import scores as trial_scores


def random_case(
    rng: np.random.Generator, rows: int, columns: int, classes: int, trials: int, scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float64], FixedPoint]:
    images = rng.integers(0, 256, (rows, columns), dtype=np.uint8)
    labels = rng.integers(0, classes, rows).astype(np.uint8)
    weights = fixed_point(rng.normal(size=(trials, classes, columns + 1)), scale)
    return images, labels, rng.uniform(0, 255, columns), weights


def separate_losses(
    weights: FixedPoint,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    mean: NDArray[np.float64],
) -> tuple[LossSum, ...]:
    return tuple(
        sum_rows(fold(W, mean, np.float64), images, labels).losses for W in weights.weights
    )


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(0, 130),
    st.integers(1, 140),
    st.integers(2, 12),
    st.integers(1, 35),
    st.floats(1e-8, 1e3),
)
def test_losses_are_bit_identical_to_separate_evaluations(
    seed: int, rows: int, columns: int, classes: int, trials: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    images, labels, mean, weights = random_case(rng, rows, columns, classes, trials, scale)
    together = trial_losses(pack(weights, mean), images, labels)
    assert together == separate_losses(weights, images, labels, mean)


def test_losses_on_real_images_are_bit_identical_to_separate_evaluations(
    real_cifar10: Path,
) -> None:
    batches = sorted(real_cifar10.rglob("data_batch_1.bin"))
    if not batches:
        pytest.skip(f"{real_cifar10} does not contain the binary version of CIFAR-10")
    records = np.fromfile(batches[0], np.uint8).reshape(-1, 3073)[:1500]
    images, labels = np.ascontiguousarray(records[:, 1:]), np.ascontiguousarray(records[:, 0])
    mean = images.mean(axis=0)
    normals = np.random.default_rng(0).normal(size=(33, 10, 3073))
    weights = fixed_point(normals, 1e-4)
    together = trial_losses(pack(weights, mean), images, labels)
    assert together == separate_losses(weights, images, labels, mean)
    # a trial's loss does not depend on the other trials
    [alone] = trial_losses(
        pack(FixedPoint(weights.units[17:18], weights.unit), mean), images, labels
    )
    assert alone == together[17]


def test_losses_match_the_reference_implementation() -> None:
    images, labels, mean, weights = random_case(np.random.default_rng(3), 7, 5, 3, 2, 0.3)
    X = [[*(image - mean).tolist(), 1.0] for image in images]
    for summed, W in zip(
        trial_losses(pack(weights, mean), images, labels), weights.weights, strict=True
    ):
        expected = reference.loss(W.tolist(), X, labels.tolist())
        assert summed.mean == pytest.approx(expected, rel=1e-13)


def test_loss_of_one_trial_matches_a_hand_worked_value() -> None:
    # One pixel of 2 in two images; scores (2 * 3, 2 * 1) + bias (0, 1), labels 0 and 1.
    weights = FixedPoint(np.array([[[3, 0], [1, 1]]], np.int16), 1.0)
    images, labels = np.array([[2], [2]], np.uint8), np.array([0, 1], np.uint8)
    [summed] = trial_losses(pack(weights), images, labels)
    assert summed == LossSum((6 - 3 + 1) << 80, 0, 2)  # the first image has no loss


@pytest.mark.parametrize("columns", [1, 2, 63, 64, 65])
def test_integer_scores_match_plain_loops_and_numpy(columns: int) -> None:
    images, _, _, weights = random_case(np.random.default_rng(1), 53, columns, 3, LANES, 1.0)
    trials = pack(weights)
    plain = np.empty((53, 3, LANES), np.int32)
    trial_loops.plain_scores(images, trials.panels[0], plain)
    np.testing.assert_array_equal(trial_scores(trials, images), plain)
    products = np.einsum("id,ljd->ijl", images.astype(int), weights.units[..., :-1].astype(int))
    np.testing.assert_array_equal(plain, products)


def test_scores_of_extreme_weights_and_pixels_are_exact() -> None:
    units = np.full((1, 2, 201), 32767, np.int16)
    units[0, 1] = -32768
    images = np.full((3, 200), 255, np.uint8)
    got = trial_scores(pack(FixedPoint(units, 1.0)), images)[..., 0]
    assert got.tolist() == [[200 * 255 * 32767, -200 * 255 * 32768]] * 3


def test_weights_whose_scores_may_exceed_32_bits_raise_value_error() -> None:
    with pytest.raises(ValueError, match="may exceed 32 bits"):
        pack(FixedPoint(np.full((1, 2, 301), -32768, np.int16), 1.0))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 16), st.integers(2, 6))
def test_losses_from_summed_scores_are_bit_identical(seed: int, trials: int, classes: int) -> None:
    """In a local search, the losses of `W + step` follow from the scores of both, bit for bit."""
    rng = np.random.default_rng(seed)
    images, labels, mean, steps = random_case(rng, 60, 40, classes, trials, 1e-4)
    W = rounded(rng.normal(size=(classes, 41)) * 1e-2, steps.unit)
    moved = W + steps.weights
    whole = Scorer(W[:, :-1] / steps.unit, np.zeros(classes))
    base = scores(whole, images).astype(np.float64)
    packed = pack(steps)
    folded = np.zeros((1, classes, LANES))
    for lane, V in enumerate(moved):
        folded[0, :, lane] = fold(V, mean, np.float64).offset
    got = losses_of_scores(
        trial_scores(packed, images), base, labels, packed._replace(offsets=folded)
    )
    assert got == tuple(sum_rows(fold(V, mean, np.float64), images, labels).losses for V in moved)


def test_losses_out_of_range_are_counted_as_overflows() -> None:
    images, labels, mean, weights = random_case(np.random.default_rng(0), 20, 8, 3, 3, 1e290)
    for summed in trial_losses(pack(weights, mean), images, labels):
        assert (summed.overflows > 0, summed.rows, summed.mean) == (True, 20, np.inf)


def test_many_rows_are_summed_in_parts_before_a_limb_overflows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, labels, mean, weights = random_case(np.random.default_rng(2), 100, 8, 3, 17, 1.0)
    whole = trial_losses(pack(weights, mean), images, labels)
    monkeypatch.setattr("kernels.trials.LIMB_ROWS", 7)
    assert trial_losses(pack(weights, mean), images, labels) == whole


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4)), np.zeros(2, np.uint8), "must be uint8, not float64"),
        (np.zeros((2, 4), np.uint8), np.zeros(2, int), "must be uint8"),
        (np.zeros((2, 5), np.uint8), np.zeros(2, np.uint8), r"need images of shape \(2, 4\)"),
        (np.zeros((2, 4), np.uint8), np.full(2, 3, np.uint8), r"0\.\.2, not up to 3"),
    ],
)
def test_mismatched_arrays_raise_value_error(images: Any, labels: Any, message: str) -> None:
    trials = pack(FixedPoint(np.ones((1, 3, 5), np.int16), 1.0))
    with pytest.raises(ValueError, match=message):
        trial_losses(trials, images, labels)


@given(st.floats(1e-12, 1e12))
def test_unit_is_a_power_of_two_and_the_scale_is_2048_to_4096_units(scale: float) -> None:
    unit = unit_of(scale)
    mantissa, _ = np.frexp(unit)
    assert mantissa == 0.5
    assert 2**11 <= scale / unit < 2**12


def test_fixed_point_weights_are_rounded_to_exact_multiples_of_the_unit() -> None:
    normals = np.random.default_rng(0).normal(size=10_000)
    weights = fixed_point(normals, 1e-4)
    assert np.abs(weights.weights - 1e-4 * normals).max() <= weights.unit / 2
    assert (rounded(weights.weights, weights.unit) == weights.weights).all()
    assert (weights.weights / weights.unit == weights.units).all()
