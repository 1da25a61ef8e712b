"""What is not a finite number: every kernel follows the one rule of `kernels.partial`.

A row's margins are given by the offsets of weights that are 0, with the label's score 0 and a
delta of 0, so that each margin is a class's offset as it stands.
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
    ([-inf, -1.0], None),  # what became -inf has lost its sign
    ([-inf, 3.0], None),
    ([3.0, -inf], None),
    ([inf, -inf], None),  # their sum is nan
    ([nan, -1.0], None),
    ([-1.0, nan], None),
    ([1.7e308, 1.7e308], None),  # finite margins whose sum is not
    ([1.7e308, -1.7e308], None),  # finite, and too large for the exact sum
    ([-1.7e308, 1.0], 1.0),  # a finite margin below 0 adds nothing, however large
    ([2.0**80, -1.0], None),  # the smallest loss that the exact sum has no room for
    ([LARGEST_LOSS, -1.0], LARGEST_LOSS),  # the largest that it has
    ([2.0**79, 2.0**79], None),  # each has room, both have not
    ([2.0**79, -(2.0**79)], 2.0**79),
    ([1e300, 1e300], None),
    ([5e-324, -5e-324], 0.0),  # less than a unit of the sum
    ([0.0, -0.0], 0.0),
]


def expected_of(margins: list[float], loss: float | None) -> LossSum:
    return LossSum(overflows=1, rows=1) if loss is None else LossSum(floor(loss * UNIT), 0, 1)


# Every kernel that sums losses, at the margins of one row.

IMAGES, LABELS = np.zeros((1, 1), np.uint8), np.zeros(1, np.uint8)


def weights_of(margins: list[float]) -> Floats:
    """Weights (C, 2) of one pixel."""
    return np.array([[0.0, offset] for offset in [0.0, *margins]])


def scorer_of(margins: list[float]) -> Scorer:
    W = weights_of(margins)
    return Scorer(W[:, :-1].copy(), W[:, -1].copy())


def by_hinge(margins: list[float]) -> LossSum:
    return sum_rows(scorer_of(margins), IMAGES, LABELS, delta=0.0).losses


def by_smoothed(margins: list[float]) -> LossSum:
    return sum_smoothed_rows(scorer_of(margins), IMAGES, LABELS, mu=0.5, delta=0.0).hinge


def by_wide(margins: list[float]) -> LossSum:
    W = np.stack([np.zeros((len(margins) + 1, 2)), weights_of(margins)])
    others, found = losses_at_many_weights(W, IMAGES, LABELS, mean=np.zeros(1), delta=0.0)
    assert others == LossSum(0, 0, 1)
    return found


def by_trials(margins: list[float]) -> LossSum:
    """One trial among others, in one pass and from kept scores."""
    trials = pack(FixedPoint(np.zeros((LANES, len(margins) + 1, 2), np.int16), 1.0))
    trials.offsets[0, :, 3] = [0.0, *margins]
    found = trial_losses(trials, IMAGES, LABELS, delta=0.0)
    base = np.zeros((1, len(margins) + 1))
    kept = losses_of_scores(scores(trials, IMAGES), base, LABELS, trials, delta=0.0)
    assert kept == found
    assert [found[i] for i in range(LANES) if i != 3] == [LossSum(0, 0, 1)] * (LANES - 1)
    return found[3]


def by_line(margins: list[float]) -> LossSum:
    """At several step sizes, more than a tile, in a direction that moves nothing."""
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
    by_wide,
    by_trials,
    by_line,
    by_plane,
]
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@every_kernel
@pytest.mark.parametrize(("margins", "loss"), ROWS)
def test_a_row(
    kernel: Callable[[list[float]], LossSum], margins: list[float], loss: float | None
) -> None:
    assert kernel(margins) == expected_of(margins, loss)


@pytest.mark.parametrize(("margins", "loss"), ROWS)
def test_the_loss_of_images_in_memory(margins: list[float], loss: float | None) -> None:
    # Its delta is 1, which adds to the margins but makes none of these rows overflow.
    for images in (IMAGES, IMAGES.astype(np.float64)):
        found, _ = loss_and_gradient(weights_of(margins), images, LABELS)
        assert found == inf if loss is None else loss <= found <= loss + 2


def summed(margins: list[float]) -> LossSum:
    """The rule, in Python's own numbers."""
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
def test_every_kernel_says_the_same_as_the_rule(margins: list[float]) -> None:
    expected = summed(margins)
    assert [kernel(margins) for kernel in KERNELS] == [expected] * len(KERNELS)


def test_a_score_out_of_range_of_the_label_overflows() -> None:
    # The other classes' margins are -inf or nan: the row is not one without a loss.
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
def test_scores_out_of_range_of_float32_overflow(own: float, other: float) -> None:
    with np.errstate(over="ignore"):
        offset = np.array([own, other]).astype(np.float32)
    scorer = Scorer(np.zeros((2, 1), np.float32), offset)
    assert sum_rows(scorer, IMAGES, LABELS).losses == LossSum(0, 1, 1)
    smoothed = sum_smoothed_rows(scorer, IMAGES, LABELS, mu=1.0)
    assert smoothed.hinge == smoothed.smoothed == LossSum(0, 1, 1)


# The other rows' sums stay whole, wherever the row stands.


@pytest.mark.parametrize("margin", [inf, -inf, nan, 2.0**80, 1.7e308])
@pytest.mark.parametrize("place", [0, 7, 8, 255, 256, 299])
def test_one_row_among_others(margin: float, place: int) -> None:
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
    (-inf, 1e300, 1e300, None),  # the product is beyond all numbers, and of the other sign
    (-inf, -1.0, 1.0, None),
    (inf, -1e300, 1e300, None),
    (-1.0, -1e300, 1e300, None),  # -inf at the step: its sign is that of the true margin, and yet
    (1.0, 1e300, 1e300, None),
    (1e300, -1e300, 1e300, None),
    (1.7e308, -1e300, 1.0, None),  # finite, and too large
    (-1.7e308, -1.0, 1e300, 0.0),  # large, finite and below 0
    (1e300, -1e300, 1.0, 0.0),  # 0, by numbers that are too large for the sum
    (1.0, -(2.0**1000), 2.0**-1000, 0.0),
    (1.0, 2.0**1000, 2.0**-1000, 2.0),
    (0.0, 2.0**500, -(2.0**500), 0.0),
    (0.0, 2.0**600, -(2.0**600), None),
    (1.0, inf, 0.0, None),  # 0 times inf is no number
    (1.0, nan, 0.0, None),
    (-1.0, -inf, 1.0, None),
    (1.0, 5e-324, 1e300, 1.0),
]


@pytest.mark.parametrize(("margin", "slope", "step", "loss"), MOVES)
def test_a_margin_that_moves(margin: float, slope: float, step: float, loss: float | None) -> None:
    # Beside a row that loses 0.5, and at a step beside ones that move nothing far.
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
        (2.0**80, 1.0, True),  # a sum of slopes has nothing to do with how large a margin is
        (1e300, 1e-300, True),  # its position is beyond all numbers
        (-1.0, LARGEST_LOSS, True),
        (-1.0, 2.0**80, False),
        (-1.0, -1e300, False),
        (inf, 1.0, False),
        (-inf, 1.0, False),
        (nan, 1.0, False),
        (1.0, inf, False),
        (1.0, -inf, False),
        (1.0, nan, False),
    ],
)
def test_slopes_that_count(margin: float, slope: float, counts: bool) -> None:
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
def test_the_smoothed_loss_overflows_where_the_hinge_does(
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
        (LossSum(UNIT, 1, 2), nan, inf),  # whatever the regulariser is
        (LossSum(UNIT, 0, 2), nan, inf),
        (LossSum(UNIT, 0, 2), inf, inf),
    ],
)
def test_the_regulariser(losses: LossSum, regulariser: float, expected: float) -> None:
    assert regularised(losses, regulariser) == expected


@pytest.mark.parametrize("size", [1e200, 1e308])
def test_a_norm_out_of_range_is_an_infinite_loss(size: float) -> None:
    # All margins are 1: the scores are those of black images.
    W = np.array([[size, 0.0], [size, 0.0]])
    total = sum_rows(Scorer(W[:, :-1].copy(), np.zeros(2)), IMAGES, LABELS)
    assert finalize(total, W, np.zeros(1)).loss == 1.0
    assert finalize(total, W, np.zeros(1), reg=1e-3).loss == inf


# Finite differences.


def differences(probe: Probe, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Differences:
    """Both ways, which are to say the same whatever the margins are."""
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
        (-1.7e308, False),  # its hinge is 0 wherever it is moved
    ],
)
@pytest.mark.parametrize("step", [1e-200, 1e-5, 1e200])
def test_differences(scheme: Scheme, margin: float, overflows: bool, step: float) -> None:
    images, labels = np.full((3, 1), 2, np.uint8), np.zeros(3, np.uint8)
    scorer = scorer_of([margin, 0.5])
    probe = Probe(scorer, np.zeros(1), step, scheme, delta=0.0)
    assert (differences(probe, images, labels).overflows > 0) == overflows
    if not isfinite(margin):  # the other class's differences are those beside a margin far below 0
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
def test_differences_of_all_kinds_of_margins_are_those_of_plain_loops(
    offsets: list[float], weights: list[float], scheme: Scheme, power: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (5, 3), dtype=np.uint8)
    labels = rng.integers(0, len(offsets), 5).astype(np.uint8)
    scorer = Scorer(rng.choice(weights, (len(offsets), 3)), np.array(offsets))
    differences(Probe(scorer, np.full(3, 100.0), 10.0**power, scheme), images, labels)


def test_differences_in_pixels_are_refused() -> None:
    for offset in (inf, -inf, nan):
        with pytest.raises(ValueError, match="2 margins at these weights are not finite numbers"):
            compare_pixel_gradient(
                weights_of([offset, 1.0]),
                np.zeros((2, 1), np.uint8),
                np.zeros(2, np.uint8),
                mean=np.zeros(1),
                step=1e-5,
            )


# The rule's own pieces.


@pytest.mark.parametrize("loss", [-inf, inf, nan, 2.0**80])
def test_a_loss_that_does_not_fit_is_not_added(loss: float) -> None:
    limbs = np.zeros(LOSS_LIMBS, np.int64)
    assert not loops.add_loss(loss, limbs)
    assert not limbs.any()
