"""The structured check finds planted faults in gradients of CIFAR-10's size, and only those."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.finite_difference import Scheme
from kernels.gradient_verdict import Comparison, Findings, Verdict
from kernels.regulariser_difference import regulariser_quotient
from kernels.structured_difference import slack_of_float32
from tests.kernels.differences import Checked

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

ROWS, COLUMNS, CLASSES, STEP = 300, 3072, 10, 1e-5
schemes = pytest.mark.parametrize("scheme", list(Scheme))
regs = pytest.mark.parametrize("reg", [0.0, 1e3])


@cache
def images_and_labels() -> tuple[Bytes, Bytes]:
    """Make images with correlated pixels, as in photographs, so that the margins spread."""
    rng = np.random.default_rng(17)
    brightness = rng.integers(0, 128, (ROWS, 1))
    images = (brightness + rng.integers(0, 128, (ROWS, COLUMNS))).astype(np.uint8)
    return images, rng.integers(0, CLASSES, ROWS).astype(np.uint8)


@cache
def usual(scheme: Scheme, reg: float) -> Checked:
    """Return an objective at random weights; its differences are summed only once."""
    images, labels = images_and_labels()
    W = np.random.default_rng(18).normal(scale=1e-3, size=(CLASSES, COLUMNS + 1))
    mean = images.mean(axis=0)
    return Checked.at(W, images, labels, mean, step=STEP, scheme=scheme, reg=reg)


@cache
def at_the_kink(scheme: Scheme) -> Checked:
    """Return an objective of integers only, in which many margins are exactly 0.

    The weights of class 1 are those of class 0, with a bias that is lower by delta. So its margin
    is 0 in rows of class 0.
    """
    images, labels = images_and_labels()
    W = np.random.default_rng(19).integers(-2, 3, (CLASSES, COLUMNS + 1)).astype(float)
    W[1] = W[0]
    W[1, -1] -= 1
    mean = np.full(COLUMNS, 100.0)
    return Checked.at(W, images, labels, mean, step=STEP, scheme=scheme)


@dataclass(frozen=True)
class Faults:
    """The faults of a gradient. With the default values there is none."""

    delta: float = 1.0
    reg_factor: float = 2.0
    dropped: int | None = None
    """The row that is left out."""
    at_least: bool = False
    """Whether the indicator is 1 for `m >= 0` instead of `m > 0`."""
    other_sign: int | None = None
    """The class whose sign is wrong."""
    bias: bool = True


def gradient(checked: Checked, faults: Faults) -> Floats:
    """Compute the subgradient in NumPy, with integer sums as in the kernels."""
    W, images, labels, mean = checked.W, checked.images, checked.labels, checked.mean
    own = np.arange(len(labels)), labels
    scores = (images - mean) @ W[:, :-1].T + W[:, -1]
    margins = scores - scores[own][:, None] + faults.delta
    k = (margins >= 0 if faults.at_least else margins > 0).astype(np.int64)
    k[own] = 0
    k[own] = -k.sum(1)
    if faults.dropped is not None:
        k[faults.dropped] = 0
    if faults.other_sign is not None:
        k[:, faults.other_sign] *= -1
    bias = k.sum(0)[:, None] / len(labels)
    pixels = (k.T @ images.astype(np.int64)) / len(labels) - bias * mean
    pixels += faults.reg_factor * checked.reg * W[:, :-1]
    return np.hstack([pixels, bias * faults.bias])


def wrong_of(checked: Checked, found: Floats) -> NDArray[np.bool_]:
    """Return a mask of the coordinates with the verdict WRONG."""
    wrong: NDArray[np.bool_] = checked.compare(found).verdicts == Verdict.WRONG
    return wrong


@schemes
@regs
def test_correct_gradient_has_no_wrong_coordinate(scheme: Scheme, reg: float) -> None:
    checked = usual(scheme, reg)
    for correct in (checked.gradient(), gradient(checked, Faults())):
        assert not wrong_of(checked, correct).any()


@schemes
def test_correct_gradient_at_kinks_has_no_wrong_coordinate(scheme: Scheme) -> None:
    checked = at_the_kink(scheme)
    assert checked.sums.crossings.any()
    for correct in (checked.gradient(), gradient(checked, Faults())):
        assert not wrong_of(checked, correct).any()


@schemes
@regs
@pytest.mark.parametrize("place", [(0, 0), (3, 1234), (9, 3071), (5, 3072)])
@pytest.mark.parametrize("factor", [1.001, 0.999])
def test_one_coordinate_off_by_a_thousandth_is_found(
    scheme: Scheme, reg: float, place: tuple[int, int], factor: float
) -> None:
    checked = usual(scheme, reg)
    faulty = checked.gradient()
    faulty[place] *= factor
    found = Findings.of(checked.compare(faulty))
    assert found.wrong == 1
    assert found.worst[0].place == place


@schemes
@regs
@pytest.mark.parametrize("j", [0, 7])
def test_wrong_sign_of_one_class_is_found(scheme: Scheme, reg: float, j: int) -> None:
    checked = usual(scheme, reg)
    wrong = wrong_of(checked, gradient(checked, Faults(other_sign=j)))
    assert wrong[j].mean() > 0.99  # all except coordinates near 0
    assert not np.delete(wrong, j, axis=0).any()


@schemes
def test_missing_bias_gradient_is_found(scheme: Scheme) -> None:
    checked = usual(scheme, 0.0)
    wrong = wrong_of(checked, gradient(checked, Faults(bias=False)))
    assert wrong[:, -1].all()
    assert not wrong[:, :-1].any()


@schemes
@regs
def test_wrong_delta_is_found(scheme: Scheme, reg: float) -> None:
    checked = usual(scheme, reg)
    assert wrong_of(checked, gradient(checked, Faults(delta=0.99))).any()


@schemes
@pytest.mark.parametrize("factor", [1.0, 0.0])
def test_wrong_factor_of_the_regulariser_is_found(scheme: Scheme, factor: float) -> None:
    checked = usual(scheme, 1e3)
    wrong = wrong_of(checked, gradient(checked, Faults(reg_factor=factor)))
    assert wrong[:, :-1].mean() > 0.99  # all except weights near 0
    assert not wrong[:, -1].any()


@schemes
@regs
def test_dropped_image_is_found(scheme: Scheme, reg: float) -> None:
    checked = usual(scheme, reg)
    scores = (checked.images - checked.mean) @ checked.W[:, :-1].T + checked.W[:, -1]
    own = scores[np.arange(ROWS), checked.labels][:, None]
    losing = ((scores - own + 1 > 0).sum(1) > 1).nonzero()[0]
    for row in losing[[0, len(losing) // 2, -1]].tolist():
        assert wrong_of(checked, gradient(checked, Faults(dropped=row))).mean() > 0.1


@schemes
def test_wrong_subgradient_at_a_kink_is_found(scheme: Scheme) -> None:
    checked = at_the_kink(scheme)
    rows = int((checked.labels == 0).sum())
    assert rows > 10
    wrong = wrong_of(checked, gradient(checked, Faults(at_least=True)))
    assert wrong[:2].mean() > 0.9
    # Away from kinks the same fault has no effect.
    elsewhere = usual(scheme, 0.0)
    assert not wrong_of(elsewhere, gradient(elsewhere, Faults(at_least=True))).any()


@cache
def next_to_the_kink(slack: float) -> Checked:
    """Return an objective for which float32 scores give some margins the wrong sign.

    The weights of class 1 are those of class 0, with a bias that is lower by almost delta.
    """
    images, labels = images_and_labels()
    W = np.random.default_rng(20).normal(scale=1e-3, size=(CLASSES, COLUMNS + 1))
    W[1] = W[0]
    W[1, -1] += -1 + 1e-9
    return Checked.at(W, images, labels, images.mean(axis=0), step=STEP, slack=slack)


def without_slack(compared: Comparison) -> Comparison:
    return replace(compared, undecided=0.0)


def test_correct_float32_gradient_has_no_wrong_coordinate() -> None:
    checked = next_to_the_kink(slack_of_float32(COLUMNS))
    correct = checked.gradient(np.float32)
    assert (correct != checked.gradient()).any()  # some signs differ
    compared = checked.compare(correct)
    assert Findings.of(without_slack(compared)).wrong > 0
    assert Findings.of(compared).wrong == 0
    assert not wrong_of(checked, checked.gradient()).any()


def test_slack_of_float32_hides_no_fault() -> None:
    images, labels = images_and_labels()
    plain = usual(Scheme.CENTRED, 0.0)
    checked = Checked.at(
        plain.W, images, labels, plain.mean, step=STEP, slack=slack_of_float32(COLUMNS)
    )
    assert not wrong_of(checked, checked.gradient(np.float32)).any()
    for fault in (Faults(delta=0.99), Faults(dropped=4), Faults(other_sign=2), Faults(bias=False)):
        assert wrong_of(checked, gradient(checked, fault)).any()
    # A margin near its kink can hide an error of its own pixels, but not a larger error.
    near = next_to_the_kink(slack_of_float32(COLUMNS))
    assert wrong_of(near, gradient(near, Faults(other_sign=1)))[1].any()


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("size", [1e-14, 1e-12, 1e-8, 1e-3, 10.0])
def test_bound_on_the_rounding_of_the_regulariser_holds(scheme: Scheme, size: float) -> None:
    # For weights that are small compared with the step, moving them rounds as much as squaring.
    W = np.random.default_rng(0).normal(scale=size, size=(10, 3073))
    for step in (1e-5, 1e-3):
        found = regulariser_quotient(W, 1.0, step, scheme, reg_bias=True)
        exact = 2 * W  # doubling is exact
        assert (np.abs(found.value - exact) <= found.bound).all()
        assert found.bound.max() <= 1e-13 * max(size, step) * max(1, size / step)
