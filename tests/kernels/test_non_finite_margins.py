"""Non-finite margins: every kernel follows the rule of `kernels.partial`.

The weights of the pixels are 0, the label's score is 0 and delta is 0. So each margin of a row is
exactly the offset of its class.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from math import floor, inf, isfinite, nan

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import line, plane, structured_difference
from kernels.compiled import gradient as loops
from kernels.data_difference import compare_pixel_gradient
from kernels.exact_sum import LOSS_LIMBS, LossSum
from kernels.finite_difference import Scheme
from kernels.fixed_point import FixedPoint
from kernels.hinge import Scorer, loss_and_gradient, sum_rows
from kernels.line import Line
from kernels.many_weights import losses_at_many_weights
from kernels.partial import finalize, regularised
from kernels.plane import Plane
from kernels.smoothed import finalize as finalize_smoothed
from kernels.smoothed import sum_smoothed_rows
from kernels.structured_difference import Differences, Probe
from kernels.trials import LANES, losses_of_scores, pack, scores, trial_losses
from tests.kernels.differences import assert_same_sums

Floats = NDArray[np.float64]
UNIT = 2**80
LARGEST_LOSS = 2.0**80 - 2.0**27

ROWS: list[tuple[list[float], float | None]] = [
    # A row's margins, and its loss; None if it overflows.
    ([1.0, -2.0], 1.0),
    ([inf, -1.0], None),
    ([-inf, -1.0], None),  # a score that became -inf has lost its sign
    ([-inf, 3.0], None),
    ([3.0, -inf], None),
    ([inf, -inf], None),  # inf - inf is nan
    ([nan, -1.0], None),
    ([-1.0, nan], None),
    ([1.7e308, 1.7e308], None),  # finite margins with a non-finite sum
    ([1.7e308, -1.7e308], None),  # finite, but too large for the exact sum
    ([-1.7e308, 1.0], 1.0),  # a finite margin below 0 adds nothing
    ([2.0**80, -1.0], None),  # the smallest loss that is too large for the exact sum
    ([LARGEST_LOSS, -1.0], LARGEST_LOSS),  # the largest loss that fits
    ([2.0**79, 2.0**79], None),  # each margin fits, their sum does not
    ([2.0**79, -(2.0**79)], 2.0**79),
    ([1e300, 1e300], None),
    ([5e-324, -5e-324], 0.0),  # less than one unit of the sum
    ([0.0, -0.0], 0.0),
]


def expected_sum(margins: list[float], loss: float | None) -> LossSum:
    return LossSum(overflows=1, rows=1) if loss is None else LossSum(floor(loss * UNIT), 0, 1)


# Every kernel that sums losses, on one row with the given margins.

IMAGES, LABELS = np.zeros((1, 1), np.uint8), np.zeros(1, np.uint8)


def weights_of(margins: list[float]) -> Floats:
    """Return weights (C, 2) of one pixel."""
    return np.array([[0.0, offset] for offset in [0.0, *margins]])


def scorer_of(margins: list[float]) -> Scorer:
    W = weights_of(margins)
    return Scorer(W[:, :-1].copy(), W[:, -1].copy())


def by_hinge(margins: list[float]) -> LossSum:
    return sum_rows(scorer_of(margins), IMAGES, LABELS, delta=0.0).losses


def by_smoothed(margins: list[float]) -> LossSum:
    return sum_smoothed_rows(scorer_of(margins), IMAGES, LABELS, mu=0.5, delta=0.0).hinge


def by_many_weights(margins: list[float]) -> LossSum:
    W = np.stack([np.zeros((len(margins) + 1, 2)), weights_of(margins)])
    others, found = losses_at_many_weights(W, IMAGES, LABELS, mean=np.zeros(1), delta=0.0)
    assert others == LossSum(0, 0, 1)
    return found


def by_trials(margins: list[float]) -> LossSum:
    """Sum one trial among others, in one pass and from stored scores."""
    trials = pack(FixedPoint(np.zeros((LANES, len(margins) + 1, 2), np.int16), 1.0))
    trials.offsets[0, :, 3] = [0.0, *margins]
    found = trial_losses(trials, IMAGES, LABELS, delta=0.0)
    base = np.zeros((1, len(margins) + 1))
    kept = losses_of_scores(scores(trials, IMAGES), base, LABELS, trials, delta=0.0)
    assert kept == found
    assert [found[i] for i in range(LANES) if i != 3] == [LossSum(0, 0, 1)] * (LANES - 1)
    return found[3]


def by_line(margins: list[float]) -> LossSum:
    """Sum at several step sizes, which fill more than one tile, along a direction of slope 0."""
    column = np.array(margins)[:, None]
    found = line.losses(Line(column, np.zeros_like(column)), [0.0, 1.0, -1e300, 2.0, 0.5])
    assert found == (found[0],) * 5
    return found[0]


def by_plane(margins: list[float]) -> LossSum:
    column = np.array(margins)[:, None]
    still = np.zeros_like(column)
    found = plane.losses(Plane(Line(column, still), still), [1.0], [1e300])
    return LossSum.of_limbs(found.limbs[0, 0], found.overflows[0, 0], found.rows)


KERNELS: list[Callable[[list[float]], LossSum]] = [
    by_hinge,
    by_smoothed,
    by_many_weights,
    by_trials,
    by_line,
    by_plane,
]
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@every_kernel
@pytest.mark.parametrize(("margins", "loss"), ROWS)
def test_loss_of_one_row_follows_the_rule(
    kernel: Callable[[list[float]], LossSum], margins: list[float], loss: float | None
) -> None:
    assert kernel(margins) == expected_sum(margins, loss)


@pytest.mark.parametrize(("margins", "loss"), ROWS)
def test_loss_of_images_in_memory_follows_the_rule(
    margins: list[float], loss: float | None
) -> None:
    # The default delta of 1 is added to the margins, but makes no further row overflow.
    for images in (IMAGES, IMAGES.astype(np.float64)):
        found, _ = loss_and_gradient(weights_of(margins), images, LABELS)
        assert found == inf if loss is None else loss <= found <= loss + 2


def summed(margins: list[float]) -> LossSum:
    """Apply the rule in Python floats and fractions."""
    loss = 0.0
    for margin in margins:
        loss += max(0.0, margin) if isfinite(margin) else nan
    if not loss < 2.0**80:
        return LossSum(overflows=1, rows=1)
    return LossSum(floor(Fraction(loss) * UNIT), 0, 1)


EDGES = [0.0, 5e-324, 2.0**-80, 1.0, 2.0**79, LARGEST_LOSS, 2.0**80, 1e300, 1.7e308, inf]
MARGINS = st.lists(
    st.sampled_from([sign * edge for edge in EDGES for sign in (1, -1)] + [nan]) | st.floats(),
    min_size=1,
    max_size=5,
)


@given(MARGINS)
@example([-inf, 1.0])
def test_every_kernel_follows_the_rule(margins: list[float]) -> None:
    expected = summed(margins)
    assert [kernel(margins) for kernel in KERNELS] == [expected] * len(KERNELS)


def test_non_finite_score_of_the_label_overflows() -> None:
    # All margins are non-finite, so the row overflows instead of having a loss of 0.
    for own in (inf, -inf, nan):
        scorer = Scorer(np.zeros((3, 1)), np.array([own, 1.0, -1.0]))
        assert sum_rows(scorer, IMAGES, LABELS).losses == LossSum(0, 1, 1)


@pytest.mark.parametrize(
    ("own", "other"),
    [
        (3e38, -3e38),  # the margin is -inf in float32
        (-3e38, 3e38),
        (4e38, 0.0),  # the label's score is inf in float32
        (0.0, -4e38),
    ],
)
def test_scores_beyond_the_range_of_float32_overflow(own: float, other: float) -> None:
    with np.errstate(over="ignore"):
        offset = np.array([own, other]).astype(np.float32)
    scorer = Scorer(np.zeros((2, 1), np.float32), offset)
    assert sum_rows(scorer, IMAGES, LABELS).losses == LossSum(0, 1, 1)
    smoothed = sum_smoothed_rows(scorer, IMAGES, LABELS, mu=1.0)
    assert smoothed.hinge == smoothed.smoothed == LossSum(0, 1, 1)


# A row that overflows does not change the sums of the others, at any position.


@pytest.mark.parametrize("margin", [inf, -inf, nan, 2.0**80, 1.7e308])
@pytest.mark.parametrize("place", [0, 7, 8, 255, 256, 299])
def test_row_that_overflows_does_not_change_other_rows(margin: float, place: int) -> None:
    rng = np.random.default_rng(1)
    margins = rng.normal(size=(2, 300))
    others = [summed(row) for row in np.delete(margins, place, axis=1).T.tolist()]
    margins[1, place] = margin
    expected = LossSum(sum(each.loss for each in others), 1, 300)
    still = np.zeros_like(margins)
    assert line.losses(Line(margins, still), [0.0, 1.0]) == (expected, expected)
    assert line.losses(Line(still - 1.0, margins + 1.0), [1.0])[0].overflows == 1
    found = plane.losses(Plane(Line(margins, still), still), [0.0, 1.0], [0.0])
    assert found.overflows.tolist() == [[1, 1]]
    assert [LossSum.of_limbs(each, 1, 300) for each in found.limbs[0]] == [expected] * 2


# Along a line.

MOVES: list[tuple[float, float, float, float | None]] = [
    # A margin, its slope, a step size, and the loss there; None if it overflows.
    (-inf, 1e300, 1e300, None),  # the product overflows to inf, with the other sign
    (-inf, -1.0, 1.0, None),
    (inf, -1e300, 1e300, None),
    (-1.0, -1e300, 1e300, None),  # overflows to -inf, though the true margin is negative
    (1.0, 1e300, 1e300, None),
    (1e300, -1e300, 1e300, None),  # overflows to -inf
    (1.7e308, -1e300, 1.0, None),  # finite, but too large
    (-1.7e308, -1.0, 1e300, 0.0),  # large in size, finite and below 0
    (1e300, -1e300, 1.0, 0.0),  # 0, from numbers that are too large for the sum
    (1.0, -(2.0**1000), 2.0**-1000, 0.0),  # 0, from a slope that is too large for the sum
    (1.0, 2.0**1000, 2.0**-1000, 2.0),
    (0.0, 2.0**500, -(2.0**500), 0.0),  # -2^1000, finite and below 0
    (0.0, 2.0**600, -(2.0**600), None),  # overflows to -inf
    (1.0, inf, 0.0, None),  # 0 times inf is nan
    (1.0, nan, 0.0, None),
    (-1.0, -inf, 1.0, None),
    (1.0, 5e-324, 1e300, 1.0),  # the move is lost in rounding
]


@pytest.mark.parametrize(("margin", "slope", "step", "loss"), MOVES)
def test_losses_of_a_moving_margin_follow_the_rule(
    margin: float, slope: float, step: float, loss: float | None
) -> None:
    # The margin is beside a row with a loss of 0.5, and the step size beside step sizes of 0.
    margins, slopes = np.array([[0.5, margin]]), np.array([[0.0, slope]])
    still = np.zeros_like(margins)
    expected = LossSum(floor((0.5 + (loss or 0.0)) * UNIT), int(loss is None), 2)
    for steps in ([step], [0.0, step], [0.0] * 5 + [step]):
        assert line.losses(Line(margins, slopes), steps)[-1] == expected
        for first, second, a, b in ((slopes, still, steps, [0.0]), (still, slopes, [0.0], steps)):
            found = plane.losses(Plane(Line(margins, first), second), a, b)
            point = found.limbs[-1, -1], found.overflows[-1, -1]
            assert LossSum.of_limbs(*point, found.rows) == expected


@pytest.mark.parametrize(
    ("margin", "slope", "counts"),
    [
        (1.0, 1.0, True),
        (-1.7e308, 1.0, True),
        (2.0**80, 1.0, True),  # slopes count for finite margins of any size
        (1e300, 1e-300, True),  # its breakpoint is beyond the range of float64
        (-1.0, LARGEST_LOSS, True),  # the largest slope that fits
        (-1.0, 2.0**80, False),  # the smallest slope that is too large
        (-1.0, -1e300, False),
        (inf, 1.0, False),
        (-inf, 1.0, False),
        (nan, 1.0, False),
        (1.0, inf, False),
        (1.0, -inf, False),
        (1.0, nan, False),
    ],
)
def test_slope_sum_overflows_for_non_finite_margins_and_slopes(
    margin: float, slope: float, counts: bool
) -> None:
    one = Line(np.array([[0.5, margin]]), np.array([[-0.25, slope]]))
    for step in (0.0, 1e300, -1e300):
        [found] = line.slopes(one, [step])
        assert found.overflows == (not counts)
        assert math.isnan(found.mean) == (not counts)
    at_0 = 0.0
    if counts and (margin > 0 or (margin == 0 and slope > 0)):
        at_0 = slope
    assert line.slopes(one, [0.0])[0].slope == floor((at_0 - 0.25) * UNIT)
    positions, jumps = line.breakpoints(one, 0.0, 1e300)
    assert (2.0, 0.25) in set(zip(positions.tolist(), jumps.tolist(), strict=True))
    assert len(positions) == 1 + (counts and 0 < -margin / slope <= 1e300)


# The smoothed hinge.


@pytest.mark.parametrize(("margins", "loss"), ROWS)
@pytest.mark.parametrize("mu", [5e-324, 1.0, 1e308])
def test_smoothed_loss_overflows_only_if_the_hinge_loss_does(
    margins: list[float], loss: float | None, mu: float
) -> None:
    W = weights_of(margins)
    total = sum_smoothed_rows(scorer_of(margins), IMAGES, LABELS, mu=mu, delta=0.0)
    plain = sum_smoothed_rows(scorer_of(margins), IMAGES, LABELS, mu=mu, delta=0.0, tiles=False)
    assert (total.smoothed, total.hinge) == (plain.smoothed, plain.hinge)
    np.testing.assert_array_equal(total.gradient, plain.gradient)
    if not all(map(isfinite, margins)):
        assert total.smoothed == LossSum(0, 1, 1)
    assert total.smoothed.overflows <= total.hinge.overflows
    assert total.smoothed.loss <= total.hinge.loss or total.hinge.overflows
    value = finalize_smoothed(total, W, np.zeros(1), mu=mu, reg=1.0, delta=0.0)
    if loss is None:
        assert value.hinge_loss == inf
    if total.smoothed.overflows:
        assert value.loss == inf


# The regulariser.


@pytest.mark.parametrize(
    ("losses", "regulariser", "expected"),
    [
        (LossSum(UNIT, 0, 2), 0.25, 0.75),
        (LossSum(UNIT, 1, 2), 0.25, inf),  # a row overflows
        (LossSum(UNIT, 1, 2), nan, inf),  # a row overflows, whatever the regulariser is
        (LossSum(UNIT, 0, 2), nan, inf),
        (LossSum(UNIT, 0, 2), inf, inf),
    ],
)
def test_regularised_loss_is_inf_for_non_finite_parts(
    losses: LossSum, regulariser: float, expected: float
) -> None:
    assert regularised(losses, regulariser) == expected


@pytest.mark.parametrize("size", [1e200, 1e308])
def test_norm_beyond_float64_gives_an_infinite_loss(size: float) -> None:
    # All margins are 1, because the image is black.
    W = np.array([[size, 0.0], [size, 0.0]])
    total = sum_rows(Scorer(W[:, :-1].copy(), np.zeros(2)), IMAGES, LABELS)
    assert finalize(total, W, np.zeros(1)).loss == 1.0
    assert finalize(total, W, np.zeros(1), reg=1e-3).loss == inf


# Finite differences.


def differences(probe: Probe, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Differences:
    """Return the differences; assert that the plain implementation gives the same integers."""
    found = structured_difference.differences(probe, images, labels)
    plain = structured_difference.differences(probe, images, labels, tiles=False)
    assert_same_sums(found, plain)
    return found


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize(
    ("margin", "overflows"),
    [
        (1.0, False),
        (inf, True),
        (-inf, True),
        (nan, True),
        (2.0**80, True),
        (LARGEST_LOSS, False),
        (1.7e308, True),
        (-1.7e308, False),  # its hinge stays 0 when it moves
    ],
)
@pytest.mark.parametrize("step", [1e-200, 1e-5, 1e200])
def test_differences_overflow_for_non_finite_and_large_margins(
    scheme: Scheme, margin: float, overflows: bool, step: float
) -> None:
    images, labels = np.full((3, 1), 2, np.uint8), np.zeros(3, np.uint8)
    scorer = scorer_of([margin, 0.5])
    probe = Probe(scorer, np.zeros(1), step, scheme, delta=0.0)
    assert (differences(probe, images, labels).overflows > 0) == overflows
    if not isfinite(margin):  # the other class's differences do not change
        beside = differences(probe._replace(scorer=scorer_of([-1e300, 0.5])), images, labels)
        found = differences(probe, images, labels)
        np.testing.assert_array_equal(found.differences, beside.differences)


@given(
    offsets=st.lists(MARGINS.map(lambda drawn: drawn[0]), min_size=2, max_size=6),
    weights=st.lists(st.sampled_from([0.0, 1e-300, 1e300, -inf]) | st.floats(-1, 1), min_size=1),
    scheme=st.sampled_from(Scheme),
    power=st.integers(-200, 200),
    seed=st.integers(0, 2**32 - 1),
)
def test_differences_with_tiles_match_the_plain_ones(
    offsets: list[float], weights: list[float], scheme: Scheme, power: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (5, 3), dtype=np.uint8)
    labels = rng.integers(0, len(offsets), 5).astype(np.uint8)
    scorer = Scorer(rng.choice(weights, (len(offsets), 3)), np.array(offsets))
    differences(Probe(scorer, np.full(3, 100.0), 10.0**power, scheme), images, labels)


def test_pixel_differences_raise_for_non_finite_margins() -> None:
    for offset in (inf, -inf, nan):
        with pytest.raises(ValueError, match="2 margins at these weights are non-finite"):
            compare_pixel_gradient(
                weights_of([offset, 1.0]),
                np.zeros((2, 1), np.uint8),
                np.zeros(2, np.uint8),
                mean=np.zeros(1),
                step=1e-5,
            )


# The functions behind the rule.


@pytest.mark.parametrize("loss", [-inf, inf, nan, 2.0**80])
def test_add_loss_rejects_losses_that_do_not_fit(loss: float) -> None:
    limbs = np.zeros(LOSS_LIMBS, np.int64)
    assert not loops.add_loss(loss, limbs)
    assert not limbs.any()
