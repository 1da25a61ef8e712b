"""A gradient with a fault in it, and CIFAR-10's sizes, is found to be wrong; a sound one is not."""

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
    """Make images whose pixels go together, as in photographs, so that margins spread."""
    rng = np.random.default_rng(17)
    brightness = rng.integers(0, 128, (ROWS, 1))
    images = (brightness + rng.integers(0, 128, (ROWS, COLUMNS))).astype(np.uint8)
    return images, rng.integers(0, CLASSES, ROWS).astype(np.uint8)


@cache
def usual(scheme: Scheme, reg: float) -> Checked:
    """Return an objective at random weights; its differences are summed up once."""
    images, labels = images_and_labels()
    W = np.random.default_rng(18).normal(scale=1e-3, size=(CLASSES, COLUMNS + 1))
    mean = images.mean(axis=0)
    return Checked.at(W, images, labels, mean, step=STEP, scheme=scheme, reg=reg)


@cache
def at_the_kink(scheme: Scheme) -> Checked:
    """Return one of integers alone, where many margins are 0 exactly.

    Class 1 is class 0 but for a bias that is lower by delta: in rows of class 0 its margin is 0.
    """
    images, labels = images_and_labels()
    W = np.random.default_rng(19).integers(-2, 3, (CLASSES, COLUMNS + 1)).astype(float)
    W[1] = W[0]
    W[1, -1] -= 1
    mean = np.full(COLUMNS, 100.0)
    return Checked.at(W, images, labels, mean, step=STEP, scheme=scheme)


@dataclass(frozen=True)
class Faults:
    """What may be wrong with a gradient: nothing, as it stands."""

    delta: float = 1.0
    reg_factor: float = 2.0
    dropped: int | None = None
    at_least: bool = False
    """Whether the indicator is of `m >= 0`."""
    other_sign: int | None = None
    bias: bool = True


def gradient(checked: Checked, faults: Faults) -> Floats:
    """Return the subgradient, in NumPy; its sums are of integers, as the kernels'."""
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
    """Return which coordinates are found to be wrong."""
    wrong: NDArray[np.bool_] = checked.compare(found).verdicts == Verdict.WRONG
    return wrong


@schemes
@regs
def test_the_sound_gradient_passes(scheme: Scheme, reg: float) -> None:
    checked = usual(scheme, reg)
    for sound in (checked.gradient(), gradient(checked, Faults())):
        assert not wrong_of(checked, sound).any()


@schemes
def test_the_sound_gradient_passes_at_kinks(scheme: Scheme) -> None:
    checked = at_the_kink(scheme)
    assert checked.sums.crossings.any()
    for sound in (checked.gradient(), gradient(checked, Faults())):
        assert not wrong_of(checked, sound).any()


@schemes
@regs
@pytest.mark.parametrize("place", [(0, 0), (3, 1234), (9, 3071), (5, 3072)])
@pytest.mark.parametrize("factor", [1.001, 0.999])
def test_a_coordinate_off_by_a_thousandth_is_found(
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
def test_the_sign_of_a_class_is_found(scheme: Scheme, reg: float, j: int) -> None:
    checked = usual(scheme, reg)
    wrong = wrong_of(checked, gradient(checked, Faults(other_sign=j)))
    assert wrong[j].mean() > 0.99  # all but what is next to 0
    assert not np.delete(wrong, j, axis=0).any()


@schemes
def test_a_missing_bias_is_found(scheme: Scheme) -> None:
    checked = usual(scheme, 0.0)
    wrong = wrong_of(checked, gradient(checked, Faults(bias=False)))
    assert wrong[:, -1].all()
    assert not wrong[:, :-1].any()


@schemes
@regs
def test_another_delta_is_found(scheme: Scheme, reg: float) -> None:
    checked = usual(scheme, reg)
    assert wrong_of(checked, gradient(checked, Faults(delta=0.99))).any()


@schemes
@pytest.mark.parametrize("factor", [1.0, 0.0])
def test_the_regularisers_lost_factor_is_found(scheme: Scheme, factor: float) -> None:
    checked = usual(scheme, 1e3)
    wrong = wrong_of(checked, gradient(checked, Faults(reg_factor=factor)))
    assert wrong[:, :-1].mean() > 0.99  # all but weights next to 0
    assert not wrong[:, -1].any()


@schemes
@regs
def test_a_dropped_image_is_found(scheme: Scheme, reg: float) -> None:
    checked = usual(scheme, reg)
    scores = (checked.images - checked.mean) @ checked.W[:, :-1].T + checked.W[:, -1]
    own = scores[np.arange(ROWS), checked.labels][:, None]
    losing = ((scores - own + 1 > 0).sum(1) > 1).nonzero()[0]
    for row in losing[[0, len(losing) // 2, -1]].tolist():
        assert wrong_of(checked, gradient(checked, Faults(dropped=row))).mean() > 0.1


@schemes
def test_the_other_subgradient_at_a_kink_is_found(scheme: Scheme) -> None:
    checked = at_the_kink(scheme)
    rows = int((checked.labels == 0).sum())
    assert rows > 10
    wrong = wrong_of(checked, gradient(checked, Faults(at_least=True)))
    assert wrong[:2].mean() > 0.9
    # and away from kinks it makes no difference
    elsewhere = usual(scheme, 0.0)
    assert not wrong_of(elsewhere, gradient(elsewhere, Faults(at_least=True))).any()


@cache
def next_to_the_kink(slack: float) -> Checked:
    """Return one where float32 scores get signs of margins wrong.

    Class 1 is class 0 but for a bias that is lower by delta less a little.
    """
    images, labels = images_and_labels()
    W = np.random.default_rng(20).normal(scale=1e-3, size=(CLASSES, COLUMNS + 1))
    W[1] = W[0]
    W[1, -1] += -1 + 1e-9
    return Checked.at(W, images, labels, images.mean(axis=0), step=STEP, slack=slack)


def without_slack(compared: Comparison) -> Comparison:
    return replace(compared, undecided=0.0)


def test_a_sound_float32_gradient_passes() -> None:
    checked = next_to_the_kink(slack_of_float32(COLUMNS))
    sound = checked.gradient(np.float32)
    assert (sound != checked.gradient()).any()  # signs did change
    compared = checked.compare(sound)
    assert Findings.of(without_slack(compared)).wrong > 0
    assert Findings.of(compared).wrong == 0
    assert not wrong_of(checked, checked.gradient()).any()


def test_float32_is_no_cover_for_a_fault() -> None:
    images, labels = images_and_labels()
    plain = usual(Scheme.CENTRED, 0.0)
    checked = Checked.at(
        plain.W, images, labels, plain.mean, step=STEP, slack=slack_of_float32(COLUMNS)
    )
    assert not wrong_of(checked, checked.gradient(np.float32)).any()
    for fault in (Faults(delta=0.99), Faults(dropped=4), Faults(other_sign=2), Faults(bias=False)):
        assert wrong_of(checked, gradient(checked, fault)).any()
    # a margin next to its kink can hide its own pixels, but not what is off by more than those
    near = next_to_the_kink(slack_of_float32(COLUMNS))
    assert wrong_of(near, gradient(near, Faults(other_sign=1)))[1].any()


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("size", [1e-14, 1e-12, 1e-8, 1e-3, 10.0])
def test_the_bound_on_the_regulariser_alone(scheme: Scheme, size: float) -> None:
    """Where weights are small beside the step, moving them rounds as much as the squares do."""
    W = np.random.default_rng(0).normal(scale=size, size=(10, 3073))
    for step in (1e-5, 1e-3):
        found = regulariser_quotient(W, 1.0, step, scheme, reg_bias=True)
        exact = 2 * W  # doubling rounds nothing
        assert (np.abs(found.value - exact) <= found.bound).all()
        assert found.bound.max() <= 1e-13 * max(size, step) * max(1, size / step)
