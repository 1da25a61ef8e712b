"""The whole loss along a line: by hand, against exact fractions and the losses, and its laws."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import accumulate, pairwise
from math import inf, nan, trunc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.line import Line, breakpoints, losses, slopes
from kernels.line_minimum import minimum
from kernels.piecewise import PiecewiseLinear, piecewise_linear
from tests.kernels.test_line_minimum import PAIRS, margins_and_gains

UNIT = 2**80
Floats = NDArray[np.float64]


def whole(line: Line, low: float, high: float) -> PiecewiseLinear:
    [slope], found = slopes(line, [low]), breakpoints(line, low, high)
    return piecewise_linear(low, high, slope, *found, lambda a: losses(line, [a])[0])


def means(line: Line, steps: Floats) -> Floats:
    return np.array([total.mean for total in losses(line, steps)])


# By hand. Margins 1 - a, 3 - 2a, -1 + 2a and 2: 0 at 1, 1.5 and 0.5. The loss of the four is
# 6 at 0, 1 + 3 + 0 + 2; then it falls by 3 up to 0.5, by 1 up to 1, by none up to 1.5, and
# rises by 2.
VALLEY = margins_and_gains((1, -1), (3, -2), (-1, 2), (2, 0))


@pytest.mark.parametrize(
    ("low", "high", "positions", "sums", "gains"),
    [
        (0, 2, [0, 0.5, 1, 1.5, 2], [6, 4.5, 4, 4, 5], [-3, -1, 0, 2]),
        (0.5, 1.5, [0.5, 1, 1.5, 1.5], [4.5, 4, 4, 4], [-1, 0, 2]),  # ]low, high]
        (0.75, 0.875, [0.75, 0.875], [4.25, 4.125], [-1]),  # no breakpoints
        (-1, 0.5, [-1, 0.5, 0.5], [9, 4.5, 4.5], [-3, -1]),
        (2, 4, [2, 4], [5, 9], [2]),
        (1, 1, [1, 1], [4, 4], [0]),
    ],
)
def test_by_hand(
    low: float, high: float, positions: list[float], sums: list[float], gains: list[float]
) -> None:
    function = whole(VALLEY, low, high)
    assert function.positions.tolist() == positions
    assert function.values.tolist() == [total / 4 for total in sums]
    assert function.slopes.tolist() == [total / 4 for total in gains]
    assert function.breakpoints == len(positions) - 2


def test_by_hand_between_its_breakpoints() -> None:
    function = whole(VALLEY, 0.0, 2.0)
    between = np.array([1.75, 0.25, 1.25, 0.75, 0.0, 2.0])
    assert function(between).tolist() == [4.5 / 4, 5.25 / 4, 1, 4.25 / 4, 1.5, 1.25]
    assert function.minimum == (1.0, 1.0)  # the left end of the flat bottom
    assert whole(VALLEY, 1.25, 2.0).minimum == (1.25, 1.0)
    assert whole(VALLEY, 0.0, 0.75).minimum == (0.75, 4.25 / 4)


def test_breakpoints_at_one_place_each_count() -> None:
    # 1 - a, -1 + a, 2 - 2a, all 0 at 1, and 3 - a: 6 at 0, 2 at 1, and 2 = 1 + 1 at 2.
    line = margins_and_gains((1, -1), (-1, 1), (2, -2), (3, -1))
    function = whole(line, 0.0, 2.0)
    assert function.breakpoints == 3
    assert function.positions.tolist() == [0, 1, 1, 1, 2]
    assert function.values.tolist() == [6 / 4, 2 / 4, 2 / 4, 2 / 4, 2 / 4]
    assert (function.slopes[0], function.slopes[-1]) == (-1.0, 0.0)
    assert function.minimum == (1.0, 0.5)
    many = np.linspace(0, 2, 33)  # more than it has positions: NumPy's other way
    for x in (many, many[:3], many[16:17]):
        np.testing.assert_allclose(function(x), means(line, x), rtol=1e-15)


# Against exact fractions.


def exact_loss(line: Line, step: Fraction) -> Fraction:
    """The mean of the hinges at a step size, without any rounding."""
    pairs = zip(line.margins.flat, line.slopes.flat, strict=True)
    hinges = (max(Fraction(0), Fraction(m) + step * Fraction(d)) for m, d in pairs)
    return sum(hinges, Fraction(0)) / line.rows


def exact_values(line: Line, low: float, high: float) -> list[Fraction]:
    """The values at `low`, at the breakpoints where they are as numbers, and at `high`."""
    [loss], [slope] = losses(line, [low]), slopes(line, [low])
    found = sorted(zip(*(array.tolist() for array in breakpoints(line, low, high)), strict=True))
    places = [Fraction(x) for x in (low, *(position for position, _ in found), high)]
    jumps = (trunc(Fraction(jump) * UNIT) for _, jump in found)
    gains = accumulate(jumps, initial=slope.slope)  # whole numbers, as the products' factors are
    scale = max(place.denominator for place in places)  # of powers of two
    whole_places = [int(place * scale) for place in places]
    products = (gain * (b - a) for gain, (a, b) in zip(gains, pairwise(whole_places), strict=True))
    values = accumulate(products, initial=loss.loss * scale)
    return [Fraction(value, scale * UNIT * line.rows) for value in values]


Whole = Callable[[Line, float, float], PiecewiseLinear]


def assert_right(line: Line, low: float, high: float, whole: Whole = whole) -> None:
    """Hold it to the exact values, within a few roundings of the largest of them.

    A gain is rounded three times, and the sum of the gains' sizes is at most twice the
    largest value.
    """
    function = whole(line, low, high)
    expected = exact_values(line, low, high)
    positions = sorted(breakpoints(line, low, high)[0].tolist())
    assert function.positions.tolist() == [low, *positions, high]
    assert len(function.values) == len(function.slopes) + 1 == len(expected)
    tolerance = Fraction(max(expected)) / 10**15 + Fraction(len(expected), UNIT)
    for value, exact in zip(function.values.tolist(), expected, strict=True):
        assert abs(Fraction(value) - exact) <= tolerance
    assert (np.diff(function.slopes) >= 0).all()
    assert (function(function.positions) == function.values).all()
    last = slopes(line, [high])[0].mean
    assert function.slopes[-1] == last


# Margins are whole and what they gain is a power of two, so that every position is exact.
@given(pairs=PAIRS, low=st.integers(-40, 40), width=st.integers(0, 80))
def test_it_is_the_loss_exactly(pairs: list[tuple[float, float]], low: int, width: int) -> None:
    while len(pairs) & (len(pairs) - 1):
        pairs = [*pairs, (0.0, 0.0)]  # the mean is of a power of two, and so exact
    line, start, end = margins_and_gains(*pairs), low / 8, (low + width) / 8
    function = whole(line, start, end)
    exact = [exact_loss(line, Fraction(x)) for x in function.positions.tolist()]
    assert function.values.tolist() == exact
    assert function(function.positions).tolist() == exact
    assert_right(line, start, end)
    for i, (a, b) in enumerate(pairwise(function.positions.tolist())):
        if a < b:
            gained = exact_loss(line, Fraction(b)) - exact_loss(line, Fraction(a))
            assert function.slopes[i] == gained / (Fraction(b) - Fraction(a))


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 40),
    scale=st.integers(-30, 30),
    gain_scale=st.integers(-30, 30),
    ends=st.tuples(st.floats(-3, 3), st.floats(-3, 3)).map(sorted),
)
def test_it_is_right_to_1e_15(
    seed: int, rows: int, scale: int, gain_scale: int, ends: list[float]
) -> None:
    margins, gains = np.random.default_rng(seed).normal(size=(2, 3, rows))
    line = Line(np.ldexp(margins, scale), np.ldexp(gains, gain_scale))
    low, high = np.ldexp(ends, scale - gain_scale).tolist()
    assert_right(line, low, high)
    function = whole(line, low, high)
    if function.positions.size < 60:  # and the margins themselves say so
        largest = max(exact_loss(line, Fraction(x)) for x in (low, high))
        for x, value in zip(function.positions.tolist(), function.values.tolist(), strict=True):
            assert abs(Fraction(value) - exact_loss(line, Fraction(x))) <= largest / 10**14


# Against the losses.


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 40))
def test_everywhere_it_is_the_loss(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    line = Line(*rng.normal(size=(2, 9, rows)))
    low, high = np.sort(rng.normal(scale=3.0, size=2)).tolist()
    function = whole(line, low, high)
    middle = (function.positions[1:] + function.positions[:-1]) / 2
    roundings = 1e-15 * function.values.max()  # where few rows lose nothing
    for x in (function.positions, middle, rng.uniform(low, high, 50)):
        np.testing.assert_allclose(function(x), means(line, x), rtol=1e-12, atol=roundings)


@pytest.fixture(scope="module")
def many() -> Line:
    """As many margins as 20,000 images have; most are 0 between -2 and 2."""
    return Line(*np.random.default_rng(3).normal(size=(2, 9, 20_000)))


@pytest.mark.slow
def test_many_breakpoints_keep_it_right(many: Line) -> None:
    assert_right(many, -2.0, 2.0)
    function = whole(many, -2.0, 2.0)
    assert function.breakpoints > 100_000
    some = np.append(function.positions[::97], [2.0])
    np.testing.assert_allclose(function(some), means(many, some), rtol=1e-12)
    between = np.random.default_rng(4).uniform(-2, 2, 500)
    np.testing.assert_allclose(function(between), means(many, between), rtol=1e-12)


@pytest.mark.slow
def test_at_every_one_of_many_breakpoints_it_is_the_loss(many: Line) -> None:
    function = whole(many, -2.0, 2.0)
    np.testing.assert_allclose(function.values, means(many, function.positions), rtol=1e-12)


# The minimum.


def lowest_on_ray(line: Line) -> float:
    return minimum(
        lambda steps: slopes(line, steps), lambda low, high: breakpoints(line, low, high)
    ).step_size


@given(pairs=PAIRS)
def test_its_minimum_is_that_on_the_ray(pairs: list[tuple[float, float]]) -> None:
    line = margins_and_gains(*pairs)
    assert whole(line, 0.0, 64.0).minimum[0] == lowest_on_ray(line)


@pytest.mark.parametrize("seed", range(3))
def test_the_minimum_of_many_is_that_on_the_ray(seed: int, many: Line) -> None:
    towards = np.random.default_rng(seed).normal(size=many.slopes.shape) - 0.3
    line = Line(many.margins, towards)
    at, value = whole(line, 0.0, 4.0).minimum
    assert at == lowest_on_ray(line) > 0
    assert value == pytest.approx(losses(line, [at])[0].mean, rel=1e-14)


# Faults.


def plain(line: Line, low: float, high: float, fault: str = "") -> PiecewiseLinear:
    """The same in floats, with a mistake in it if `fault` names one."""
    positions, jumps = breakpoints(line, low, high)
    if fault == "breakpoints at its end forgotten":
        jumps = jumps[positions < high]
        positions = positions[positions < high]
    if fault == "ties dropped":
        positions, first = np.unique(positions, return_index=True)
        jumps = jumps[first]
    if fault == "jumps of 1":
        jumps = np.ones_like(jumps)
    order = np.argsort(positions)
    ends = np.concatenate([[low], positions[order], [high]])
    gained = np.cumsum(jumps if fault == "jumps in another order" else jumps[order])
    loss, slope = losses(line, [low])[0].mean, slopes(line, [low])[0].mean
    if fault == "slope on the left":
        slope = slopes(line, [float(np.nextafter(low, -inf))])[0].mean
    if fault == "slope at the other end":
        slope = slopes(line, [high])[0].mean
    rows = 1 if fault == "jumps not divided" else line.rows
    found = slope + np.concatenate([[0.0], gained]) / rows
    steps = -np.diff(ends) if fault == "backwards" else np.diff(ends)
    values = loss + np.concatenate([[0.0], np.cumsum(found * steps)])
    if fault == "off by a part in 1e13":
        values[-1] *= 1 + 1e-13
    return PiecewiseLinear(ends, values, found)


# 0 at 0 and 1, at both ends and twice at 0.5, in an order that is not theirs.
TELLING = margins_and_gains((-1, 1), (-1, 2), (0, 1), (3, -6), (3, -1), (1, -4), (0, -1), (2, 0))


def test_the_faultless_passes() -> None:
    assert_right(TELLING, 0.0, 1.0)
    assert_right(TELLING, 0.0, 1.0, plain)


@pytest.mark.parametrize(
    "fault",
    [
        "breakpoints at its end forgotten",
        "ties dropped",
        "jumps of 1",
        "jumps in another order",
        "slope on the left",
        "slope at the other end",
        "jumps not divided",
        "backwards",
        "off by a part in 1e13",
    ],
)
def test_a_fault_fails(fault: str) -> None:
    with pytest.raises(AssertionError):
        assert_right(TELLING, 0.0, 1.0, partial(plain, fault=fault))


@pytest.mark.slow
def test_sums_of_many_floats_fail(many: Line) -> None:
    with pytest.raises(AssertionError):
        assert_right(many, -2.0, 2.0, plain)


# Errors.


@pytest.mark.parametrize(
    ("margin", "gain"),
    [
        (2.0**80, 0.0),
        (inf, 0.0),
        (-inf, 0.0),
        (nan, 0.0),
        (1.0, 2.0**80),
        (-1.0, -(2.0**80)),
        (-1.0, nan),
    ],
)
def test_what_is_no_usable_number_is_refused(margin: float, gain: float) -> None:
    with pytest.raises(ValueError, match="no usable number"):
        whole(margins_and_gains((1, -1), (margin, gain)), 0.0, 2.0)


def test_a_margin_that_is_0_beyond_all_numbers_changes_nothing() -> None:
    function = whole(margins_and_gains((1, -1), (-1.7e308, 0.5)), 0.0, 2.0)
    assert function.positions.tolist() == [0.0, 1.0, 2.0]
    assert function.values.tolist() == [0.5, 0.0, 0.0]
    assert function.slopes.tolist() == [-0.5, 0.0]
