"""The piecewise linear loss along a line.

It is compared with hand-worked values, exact fractions, and the losses at single step sizes.
"""

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


def function_of(line: Line, low: float, high: float) -> PiecewiseLinear:
    [slope], found = slopes(line, [low]), breakpoints(line, low, high)
    return piecewise_linear(low, high, slope, *found, lambda a: losses(line, [a])[0])


def means(line: Line, steps: Floats) -> Floats:
    return np.array([total.mean for total in losses(line, steps)])


# Hand-worked values. Margins 1 - a, 3 - 2a and -1 + 2a are 0 at 1, 1.5 and 0.5; the fourth is 2.
# Their summed loss at 0 is 1 + 3 + 0 + 2 = 6. Its slope is -3 up to 0.5, -1 up to 1, 0 up to 1.5,
# and then 2.
VALLEY = margins_and_gains((1, -1), (3, -2), (-1, 2), (2, 0))


@pytest.mark.parametrize(
    ("low", "high", "positions", "sums", "gains"),
    [
        (0, 2, [0, 0.5, 1, 1.5, 2], [6, 4.5, 4, 4, 5], [-3, -1, 0, 2]),  # all breakpoints
        (0.5, 1.5, [0.5, 1, 1.5, 1.5], [4.5, 4, 4, 4], [-1, 0, 2]),  # excludes low, includes high
        (0.75, 0.875, [0.75, 0.875], [4.25, 4.125], [-1]),  # no breakpoints
        (-1, 0.5, [-1, 0.5, 0.5], [9, 4.5, 4.5], [-3, -1]),  # starts below 0
        (2, 4, [2, 4], [5, 9], [2]),  # after the last breakpoint
        (1, 1, [1, 1], [4, 4], [0]),  # a single step size
    ],
)
def test_positions_values_and_slopes_match_hand_worked_values(
    low: float, high: float, positions: list[float], sums: list[float], gains: list[float]
) -> None:
    function = function_of(VALLEY, low, high)
    assert function.positions.tolist() == positions
    assert function.values.tolist() == [total / 4 for total in sums]
    assert function.slopes.tolist() == [total / 4 for total in gains]
    assert function.breakpoints == len(positions) - 2


def test_values_between_breakpoints_match_hand_worked_values() -> None:
    function = function_of(VALLEY, 0.0, 2.0)
    between = np.array([1.75, 0.25, 1.25, 0.75, 0.0, 2.0])
    assert function(between).tolist() == [4.5 / 4, 5.25 / 4, 1, 4.25 / 4, 1.5, 1.25]
    assert function.minimum == (1.0, 1.0)  # the left end of the flat bottom
    assert function_of(VALLEY, 1.25, 2.0).minimum == (1.25, 1.0)
    assert function_of(VALLEY, 0.0, 0.75).minimum == (0.75, 4.25 / 4)


def test_breakpoints_at_one_position_are_counted_separately() -> None:
    # 1 - a, -1 + a and 2 - 2a are 0 at 1; the fourth is 3 - a. The losses at 0, 1, 2 are 6, 2, 2.
    line = margins_and_gains((1, -1), (-1, 1), (2, -2), (3, -1))
    function = function_of(line, 0.0, 2.0)
    assert function.breakpoints == 3
    assert function.positions.tolist() == [0, 1, 1, 1, 2]
    assert function.values.tolist() == [6 / 4, 2 / 4, 2 / 4, 2 / 4, 2 / 4]
    assert (function.slopes[0], function.slopes[-1]) == (-1.0, 0.0)
    assert function.minimum == (1.0, 0.5)
    # More points than positions, for which NumPy uses another algorithm.
    many = np.linspace(0, 2, 33)
    for x in (many, many[:3], many[16:17]):
        np.testing.assert_allclose(function(x), means(line, x), rtol=1e-15)


# Exact fractions.


def exact_loss(line: Line, step: Fraction) -> Fraction:
    """Return the mean of the hinges at a step size, without rounding."""
    pairs = zip(line.margins.flat, line.slopes.flat, strict=True)
    hinges = (max(Fraction(0), Fraction(m) + step * Fraction(d)) for m, d in pairs)
    return sum(hinges, Fraction(0)) / line.rows


def exact_values(line: Line, low: float, high: float) -> list[Fraction]:
    """Return the exact values at `low`, at the rounded breakpoints, and at `high`."""
    [loss], [slope] = losses(line, [low]), slopes(line, [low])
    found = sorted(zip(*(array.tolist() for array in breakpoints(line, low, high)), strict=True))
    places = [Fraction(x) for x in (low, *(position for position, _ in found), high)]
    jumps = (trunc(Fraction(jump) * UNIT) for _, jump in found)
    gains = accumulate(jumps, initial=slope.slope)  # integers, so the products are exact
    scale = max(place.denominator for place in places)  # all denominators are powers of two
    integer_places = [int(place * scale) for place in places]
    products = (
        gain * (b - a) for gain, (a, b) in zip(gains, pairwise(integer_places), strict=True)
    )
    values = accumulate(products, initial=loss.loss * scale)
    return [Fraction(value, scale * UNIT * line.rows) for value in values]


FunctionOf = Callable[[Line, float, float], PiecewiseLinear]


def assert_matches_exact_values(
    line: Line, low: float, high: float, function_of: FunctionOf = function_of
) -> None:
    """Compare with the exact values, with a tolerance of a few roundings of the largest value.

    A change of the value is rounded three times, and the sum of the sizes of the changes is at
    most twice the largest value.
    """
    function = function_of(line, low, high)
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


# Margins are integers and slopes are powers of two, so that every position is exact.
@given(pairs=PAIRS, low=st.integers(-40, 40), width=st.integers(0, 80))
def test_function_equals_the_exact_loss_if_positions_are_exact(
    pairs: list[tuple[float, float]], low: int, width: int
) -> None:
    while len(pairs) & (len(pairs) - 1):
        pairs = [*pairs, (0.0, 0.0)]  # a power of two, so that the mean is exact
    line, start, end = margins_and_gains(*pairs), low / 8, (low + width) / 8
    function = function_of(line, start, end)
    exact = [exact_loss(line, Fraction(x)) for x in function.positions.tolist()]
    assert function.values.tolist() == exact
    assert function(function.positions).tolist() == exact
    assert_matches_exact_values(line, start, end)
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
def test_function_matches_the_exact_loss_within_roundings(
    seed: int, rows: int, scale: int, gain_scale: int, ends: list[float]
) -> None:
    margins, gains = np.random.default_rng(seed).normal(size=(2, 3, rows))
    line = Line(np.ldexp(margins, scale), np.ldexp(gains, gain_scale))
    low, high = np.ldexp(ends, scale - gain_scale).tolist()
    assert_matches_exact_values(line, low, high)
    function = function_of(line, low, high)
    if function.positions.size < 60:  # also compare with the margins
        largest = max(exact_loss(line, Fraction(x)) for x in (low, high))
        for x, value in zip(function.positions.tolist(), function.values.tolist(), strict=True):
            assert abs(Fraction(value) - exact_loss(line, Fraction(x))) <= largest / 10**14


# The losses at single step sizes.


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 40))
def test_function_matches_the_losses_everywhere(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    line = Line(*rng.normal(size=(2, 9, rows)))
    low, high = np.sort(rng.normal(scale=3.0, size=2)).tolist()
    function = function_of(line, low, high)
    middle = (function.positions[1:] + function.positions[:-1]) / 2
    roundings = 1e-15 * function.values.max()  # for values close to 0
    for x in (function.positions, middle, rng.uniform(low, high, 50)):
        np.testing.assert_allclose(function(x), means(line, x), rtol=1e-12, atol=roundings)


@pytest.fixture(scope="module")
def many() -> Line:
    """Return a line of 20,000 images, most of whose margins are 0 between -2 and 2."""
    return Line(*np.random.default_rng(3).normal(size=(2, 9, 20_000)))


@pytest.mark.slow
def test_function_of_many_breakpoints_matches_the_losses(many: Line) -> None:
    assert_matches_exact_values(many, -2.0, 2.0)
    function = function_of(many, -2.0, 2.0)
    assert function.breakpoints > 100_000
    some = np.append(function.positions[::97], [2.0])
    np.testing.assert_allclose(function(some), means(many, some), rtol=1e-12)
    between = np.random.default_rng(4).uniform(-2, 2, 500)
    np.testing.assert_allclose(function(between), means(many, between), rtol=1e-12)


@pytest.mark.slow
def test_values_at_all_of_many_breakpoints_match_the_losses(many: Line) -> None:
    function = function_of(many, -2.0, 2.0)
    np.testing.assert_allclose(function.values, means(many, function.positions), rtol=1e-12)


# The minimum.


def lowest_on_ray(line: Line) -> float:
    return minimum(
        lambda steps: slopes(line, steps), lambda low, high: breakpoints(line, low, high)
    ).step_size


@given(pairs=PAIRS)
def test_minimum_equals_the_minimum_on_the_ray(pairs: list[tuple[float, float]]) -> None:
    line = margins_and_gains(*pairs)
    assert function_of(line, 0.0, 64.0).minimum[0] == lowest_on_ray(line)


@pytest.mark.parametrize("seed", range(3))
def test_minimum_of_many_breakpoints_equals_the_minimum_on_the_ray(seed: int, many: Line) -> None:
    towards = np.random.default_rng(seed).normal(size=many.slopes.shape) - 0.3
    line = Line(many.margins, towards)
    at, value = function_of(line, 0.0, 4.0).minimum
    assert at == lowest_on_ray(line) > 0
    assert value == pytest.approx(losses(line, [at])[0].mean, rel=1e-14)


# Planted faults.


def plain(line: Line, low: float, high: float, fault: str = "") -> PiecewiseLinear:
    """Plain implementation in float64, with an optional fault."""
    positions, jumps = breakpoints(line, low, high)
    if fault == "breakpoints at the high end missing":
        jumps = jumps[positions < high]
        positions = positions[positions < high]
    if fault == "ties counted once":
        positions, first = np.unique(positions, return_index=True)
        jumps = jumps[first]
    if fault == "all jumps 1":
        jumps = np.ones_like(jumps)
    order = np.argsort(positions)
    ends = np.concatenate([[low], positions[order], [high]])
    gained = np.cumsum(jumps if fault == "jumps not sorted" else jumps[order])
    loss, slope = losses(line, [low])[0].mean, slopes(line, [low])[0].mean
    if fault == "left-hand slope at the low end":
        slope = slopes(line, [float(np.nextafter(low, -inf))])[0].mean
    if fault == "slope at the high end":
        slope = slopes(line, [high])[0].mean
    rows = 1 if fault == "jumps not divided by the rows" else line.rows
    found = slope + np.concatenate([[0.0], gained]) / rows
    steps = -np.diff(ends) if fault == "sign of the differences" else np.diff(ends)
    values = loss + np.concatenate([[0.0], np.cumsum(found * steps)])
    if fault == "last value wrong by 1e-13":
        values[-1] *= 1 + 1e-13
    return PiecewiseLinear(ends, values, found)


# Unsorted breakpoints: two at 0, one at 0.25, two at 0.5, one at 1 and one beyond the high end.
REVEALING = margins_and_gains((-1, 1), (-1, 2), (0, 1), (3, -6), (3, -1), (1, -4), (0, -1), (2, 0))


def test_kernel_and_plain_implementation_pass_the_comparison() -> None:
    assert_matches_exact_values(REVEALING, 0.0, 1.0)
    assert_matches_exact_values(REVEALING, 0.0, 1.0, plain)


@pytest.mark.parametrize(
    "fault",
    [
        "breakpoints at the high end missing",
        "ties counted once",
        "all jumps 1",
        "jumps not sorted",
        "left-hand slope at the low end",
        "slope at the high end",
        "jumps not divided by the rows",
        "sign of the differences",
        "last value wrong by 1e-13",
    ],
)
def test_every_planted_fault_is_detected(fault: str) -> None:
    with pytest.raises(AssertionError):
        assert_matches_exact_values(REVEALING, 0.0, 1.0, partial(plain, fault=fault))


@pytest.mark.slow
def test_float_sums_over_many_breakpoints_are_not_exact_enough(many: Line) -> None:
    with pytest.raises(AssertionError):
        assert_matches_exact_values(many, -2.0, 2.0, plain)


# Errors.


@pytest.mark.parametrize(
    ("margin", "gain"),
    [
        (2.0**80, 0.0),  # the loss overflows
        (inf, 0.0),
        (-inf, 0.0),
        (nan, 0.0),
        (1.0, 2.0**80),  # the slope overflows
        (-1.0, -(2.0**80)),
        (-1.0, nan),
    ],
)
def test_overflowing_losses_and_slopes_raise_value_error(margin: float, gain: float) -> None:
    with pytest.raises(ValueError, match=r"not finite or at least 2\^80"):
        function_of(margins_and_gains((1, -1), (margin, gain)), 0.0, 2.0)


def test_breakpoint_beyond_the_range_of_float64_is_ignored() -> None:
    function = function_of(margins_and_gains((1, -1), (-1.7e308, 0.5)), 0.0, 2.0)
    assert function.positions.tolist() == [0.0, 1.0, 2.0]
    assert function.values.tolist() == [0.5, 0.0, 0.0]
    assert function.slopes.tolist() == [-0.5, 0.0]
