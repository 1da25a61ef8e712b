"""The loss along a line.

It is compared with hand-worked values, the reference implementation, and a plain implementation.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from itertools import chain, pairwise
from math import floor, inf, nan, trunc
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import reference
from kernels.compiled import lines as line_loops
from kernels.exact_sum import LossSum
from kernels.hinge import fold, sum_rows
from kernels.line import Line, SlopeSum, breakpoints, losses, margins_along_line, slopes
from tests.kernels.cases import Case, cases

UNIT = 2**80


# Hand-worked values.

W = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 1.0], [-1.0, 1.0, 0.0]])
V = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
IMAGES = np.array([[2, 4], [3, 0]], np.uint8)
LABELS = np.array([0, 2], np.uint8)
# Scores of W for (2, 4, 1): 2, 3, 2; for (3, 0, 1): 3, 1, -3.
# Scores of V for (2, 4, 1): 1, -2, 2; for (3, 0, 1): 1, -3, 0.
# Image 0, of class 0: margins class 1: 3 - 2 + 1 = 2, slope -2 - 1 = -3: 0 at 2/3;
#                              class 2: 2 - 2 + 1 = 1, slope  2 - 1 =  1: 0 at -1.
# Image 1, of class 2: margins class 0: 3 + 3 + 1 = 7, slope  1: 0 at -7;
#                              class 1: 1 + 3 + 1 = 5, slope -3: 0 at 5/3.
# Step size 0: losses 3 + 12 = 15, slope -3 + 1 + 1 - 3 = -4.
# Step size 1: losses (0 + 2) + (8 + 2) = 12, slope 1 + 1 - 3 = -1.
# Step size 2: losses (0 + 3) + (9 + 0) = 12, slope 2.
# Step size -8: losses (26 + 0) + (0 + 29) = 55, slope -3 - 3 = -6.
STEPS = [0.0, 1.0, 2.0, -8.0]


def hand_worked_line() -> Line:
    return margins_along_line(fold(W, dtype=np.float64), fold(V, dtype=np.float64), IMAGES, LABELS)


def test_losses_slopes_and_breakpoints_match_hand_worked_values() -> None:
    line = hand_worked_line()
    assert (line.rows, line.margins.tolist()) == (2, [[2, 7], [1, 5]])
    assert line.slopes.tolist() == [[-3, 1], [1, -3]]
    assert losses(line, STEPS) == tuple(LossSum(n * UNIT, 0, 2) for n in (15, 12, 12, 55))
    found = [SlopeSum(n * UNIT, k, 0, 2) for n, k in ((-4, 0), (-1, 1), (2, 2), (-6, 0))]
    assert slopes(line, STEPS) == tuple(found)
    assert [total.mean for total in found] == [-2, -0.5, 1, -3]
    positions, jumps = breakpoints(line, -1.0, 5 / 3)  # excludes -1, includes 5/3
    assert (sorted(positions), jumps.tolist()) == ([2 / 3, 5 / 3], [3, 3])


def test_slope_at_a_breakpoint_is_the_right_hand_derivative() -> None:
    # Three margins are 0 at 0, with slopes 2, -3 and 0; two are 0 at 1, with slopes 5 and -7.
    line = Line(np.array([[0.0, 0.0, 0.0, -5.0, 7.0]]), np.array([[2.0, -3.0, 0.0, 5.0, -7.0]]))
    steps = [-0.5, -0.0, 0.0, 0.5, 1.0, 2.0]
    expected = [-3 - 7, 2 - 7, 2 - 7, 2 - 7, 2 + 5, 2 + 5]
    found = slopes(line, steps)
    assert [total.slope for total in found] == [n * UNIT for n in expected]
    assert [total.breakpoints for total in found] == [0, 0, 0, 0, 2, 2]


# The reference implementation, and the exact difference of the loss.


@given(case=cases(max_rows=3, max_columns=65, floats=False), data=st.data())
def test_losses_match_the_reference_implementation(case: Case, data: st.DataObject) -> None:
    line, V = line_of_case(case, data)
    step = data.draw(st.integers(-40, 40), label="quarters") / 4
    expected = reference.loss(
        (case.W + step * V).tolist(), case.centred.tolist(), case.labels.tolist(), case.delta
    )
    assert losses(line, [step])[0].mean == pytest.approx(expected, rel=1e-12, abs=0)


@given(case=cases(max_rows=3, max_columns=65, floats=False), data=st.data())
def test_slope_matches_exact_loss_difference_before_next_breakpoint(
    case: Case, data: st.DataObject
) -> None:
    # Margins and slopes are multiples of 1/16 below 2^22, so a breakpoint is a ratio of integers
    # below 2^26. It is more than 2^-54 away from every other breakpoint and multiple of 1/4.
    line, V = line_of_case(case, data)
    step, h = Fraction(data.draw(st.integers(-40, 40), label="quarters"), 4), Fraction(1, 2**60)
    gained = exact_loss(case, V, step + h) - exact_loss(case, V, step)
    assert Fraction(slopes(line, [float(step)])[0].slope, UNIT) == gained / h


def line_of_case(case: Case, data: st.DataObject) -> tuple[Line, NDArray[np.float64]]:
    """Draw a direction for a case, in eighths like its weights, sometimes parallel to them."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="direction"))
    V = rng.integers(-16, 17, case.W.shape) / 8
    if data.draw(st.booleans(), label="towards 0"):
        V = -case.W
    scorer, direction = (fold(weights, case.mean, np.float64) for weights in (case.W, V))
    return margins_along_line(scorer, direction, case.images, case.labels, delta=case.delta), V


def exact_loss(case: Case, V: NDArray[np.float64], step: Fraction) -> Fraction:
    """Return the summed hinges at W + step V; the scores of W and V are exact (see `cases`)."""
    total = Fraction(0)
    for x, y in zip(case.centred, case.labels, strict=True):
        pairs = zip((case.W @ x).tolist(), (V @ x).tolist(), strict=True)
        score = [Fraction(s) + step * Fraction(t) for s, t in pairs]
        for j in range(len(score)):
            if j != y:
                total += max(Fraction(0), score[j] - score[y] + Fraction(case.delta))
    return total


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 600))
def test_loss_at_step_size_0_is_bit_identical_to_sum_rows(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (rows, 70), dtype=np.uint8)
    labels = rng.integers(0, 5, rows).astype(np.uint8)
    scorer, direction = (
        fold(rng.normal(scale=0.01, size=(5, 71)), rng.random(70) * 255, np.float64)
        for _ in range(2)
    )
    line = margins_along_line(scorer, direction, images, labels, delta=0.7)
    assert losses(line, [0.0])[0] == sum_rows(scorer, images, labels, delta=0.7).losses


# A plain implementation, bit for bit.


class PlainLine:
    """Plain implementation of `kernels.line`, one margin at a time, with an optional fault."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def losses(self, line: Line, steps: list[float]) -> tuple[LossSum, ...]:
        return tuple(self.loss(line, step) for step in steps)

    def loss(self, line: Line, step: float) -> LossSum:
        total = LossSum(rows=line.rows)
        for margins, gains in zip(line.margins.T.tolist(), line.slopes.T.tolist(), strict=True):
            loss = 0.0
            for margin, gain in zip(margins, gains, strict=True):
                value = (
                    margin + step * gain
                    if self.fault == "margins rounded twice"
                    else fused(step, gain, margin)
                )
                if self.fault == "-inf counted as no loss" and value == -inf:
                    value = 0.0
                loss += max(value, 0.0) if math.isfinite(value) else nan
            if loss < 2.0**80:
                total = total.combine(LossSum(floor(Fraction(loss) * UNIT)))
            elif self.fault != "overflows not counted":
                total = total.combine(LossSum(overflows=1))
        return total

    def slopes(self, line: Line, steps: list[float]) -> tuple[SlopeSum, ...]:
        return tuple(self.slope(line, step) for step in steps)

    def slope(self, line: Line, step: float) -> SlopeSum:
        total = SlopeSum(rows=line.rows)
        for margin, gain in self.margins(line):
            if not self.usable(margin, gain):
                total = total.combine(SlopeSum(overflows=1))
                continue
            position = self.position(margin, gain)
            active = position <= step if gain > 0 else position > step
            if self.fault == "left-hand derivative":
                active = position < step if gain > 0 else position >= step
            if self.fault == "inactive at its breakpoint":
                active = position < step if gain > 0 else position > step
            if self.fault == "active by the sign of the margin":
                value = margin + step * gain
                active = value > 0 or (value == 0 and gain > 0)
            cut = floor if self.fault == "slopes rounded down" else trunc
            counted = (
                0 <= position <= step
                if self.fault == "breakpoint at 0 counted"
                else 0 < position <= step
            )
            total = total.combine(
                SlopeSum(cut(Fraction(gain) * UNIT) if active else 0, int(counted))
            )
        return total

    def breakpoints(self, line: Line, low: float, high: float) -> list[tuple[float, float]]:
        found = []
        for margin, gain in self.margins(line):
            if self.usable(margin, gain):
                position = self.position(margin, gain)
                if low < position <= high or (self.fault == "low end included" and position == low):
                    found.append(
                        (position, gain if self.fault == "jumps with a sign" else abs(gain))
                    )
        return sorted(found)

    @staticmethod
    def margins(line: Line) -> list[tuple[float, float]]:
        return list(zip(line.margins.flat, line.slopes.flat, strict=True))

    def usable(self, margin: float, gain: float) -> bool:
        if self.fault == "-inf counted as no loss" and margin == -inf:
            return abs(gain) < 2.0**80
        return math.isfinite(margin) and abs(gain) < 2.0**80

    @staticmethod
    def position(margin: float, gain: float) -> float:
        """Return the position of the breakpoint, rounded once, or an infinity if it has none."""
        if gain == 0 or not math.isfinite(margin):
            return inf if gain >= 0 else -inf
        quotient = Fraction(-margin) / Fraction(gain)
        try:
            return float(quotient)
        except OverflowError:
            return inf if quotient > 0 else -inf


def fused(a: float, b: float, c: float) -> float:
    """Return `a * b + c`, rounded once.

    The product of two finite factors is finite, because it is exact.
    """
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b + c
    if not math.isfinite(c):
        return c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    try:
        return float(exact)
    except OverflowError:
        return inf if exact > 0 else -inf


def float_of(digits: int, exponent: int) -> float:
    return math.ldexp(digits, exponent)


INTEGERS = st.integers(-4, 4).map(float)
FLOATS = st.builds(float_of, st.integers(-(2**53), 2**53), st.integers(-140, 20))
EXTREMES = st.sampled_from(
    [size * sign for size in [0.0, 5e-324, 2.0**80, 1e300, 1.7e308, inf] for sign in (1, -1)]
    + [nan]
)
"""The limits of float64 and of the exact sums."""


@st.composite
def lines(draw: st.DrawFn, finite: bool = False) -> tuple[Line, list[float]]:
    """Draw a line and some step sizes, many of them at breakpoints."""
    elements = draw(st.sampled_from([INTEGERS, FLOATS, INTEGERS | FLOATS | EXTREMES][: 3 - finite]))
    classes, rows = draw(st.integers(1, 4)), draw(st.integers(0, 5))
    values = draw(st.lists(elements, min_size=2 * classes * rows, max_size=2 * classes * rows))
    margins, gains = np.array(values).reshape(2, classes, rows)
    with np.errstate(all="ignore"):
        positions = (-margins / gains).ravel()
    positions = positions[np.isfinite(positions)]
    near = np.concatenate([positions, np.nextafter(positions, inf), np.nextafter(positions, -inf)])
    other = st.sampled_from([0.0, 1.0, -1.0, 1e-300, 1e300, -1e300]) | FLOATS
    steps = draw(st.lists(st.sampled_from(near.tolist()) | other if len(near) else other))
    return Line(margins.copy(), gains.copy()), steps


def assert_same_results(a: Any, b: Any, line: Line, steps: list[float]) -> None:
    assert a.losses(line, steps) == b.losses(line, steps)
    assert a.slopes(line, steps) == b.slopes(line, steps)
    for low, high in pairwise(steps):
        assert a.breakpoints(line, low, high) == b.breakpoints(line, low, high)


class Compiled:
    """The kernels, with sorted breakpoints."""

    losses = staticmethod(losses)
    slopes = staticmethod(slopes)

    @staticmethod
    def breakpoints(line: Line, low: float, high: float) -> list[tuple[float, float]]:
        return sorted(zip(*(array.tolist() for array in breakpoints(line, low, high)), strict=True))


@given(lines())
@example((Line(np.array([[-1.0], [nan]]), np.array([[3.0], [1.0]])), [1 / 3, inf]))
@example((Line(np.array([[-inf]]), np.array([[1e300]])), [1e300]))  # the product overflows
def test_kernels_match_the_plain_implementation(drawn: tuple[Line, list[float]]) -> None:
    line, steps = drawn
    assert_same_results(
        Compiled, PlainLine(), line, [step for step in steps if math.isfinite(step)]
    )


# 1/49 * 49 is not 1 in float64, so the sign of 1/49 * 49 - 1 disagrees with the breakpoint 1/49.
REVEALING = Line(
    np.array([[0.0, 1.0, -1.0, 1.0, 1.0, inf, -inf]]),
    np.array([[-1.0, -1.0, 49.0, -49.0, -(2.0**-70) / 3, 1.0, 1.0]]),
)


def test_correct_plain_implementation_passes_on_the_revealing_line() -> None:
    assert_same_results(Compiled, PlainLine(), REVEALING, [0.0, 1 / 49, 1.0])


@pytest.mark.parametrize(
    "fault",
    [
        "overflows not counted",
        "-inf counted as no loss",
        "margins rounded twice",
        "left-hand derivative",
        "inactive at its breakpoint",
        "active by the sign of the margin",
        "slopes rounded down",
        "breakpoint at 0 counted",
        "low end included",
        "jumps with a sign",
    ],
)
def test_every_planted_fault_is_detected(fault: str) -> None:
    with pytest.raises(AssertionError):
        assert_same_results(Compiled, PlainLine(fault), REVEALING, [0.0, 1 / 49, 1.0])


def test_many_rows_match_the_plain_implementation() -> None:
    rng = np.random.default_rng(3)
    rows = 2 * line_loops.BLOCK + 77
    line = Line(rng.normal(size=(3, rows)), rng.normal(size=(3, rows)))
    assert_same_results(Compiled, PlainLine(), line, [0.1, 0.2, *line.slopes[0, :3].tolist()])


# Laws.


@given(lines(finite=True))
def test_slope_changes_by_the_jumps_of_the_breakpoints(drawn: tuple[Line, list[float]]) -> None:
    line, steps = drawn
    steps = sorted([*steps, 0.0])
    for low, high in pairwise(steps):
        (at_low, at_high), (_, jumps) = slopes(line, [low, high]), breakpoints(line, low, high)
        assert at_high.slope - at_low.slope == sum(trunc(Fraction(d) * UNIT) for d in jumps)
        if low >= 0:
            assert at_high.breakpoints - at_low.breakpoints == len(jumps)
    found = [total.slope for total in slopes(line, steps)]
    assert found == sorted(found)  # convex


@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_sums_do_not_depend_on_partition_or_order_of_rows(seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    line = Line(*rng.normal(size=(2, 3, data.draw(st.integers(0, 1_300), label="rows"))))
    steps = [0.0, 0.3, -0.7, 5.0]
    cuts = data.draw(st.lists(st.integers(0, line.rows), max_size=5), label="cuts")
    parts = [
        Line(
            np.ascontiguousarray(line.margins[:, rows]), np.ascontiguousarray(line.slopes[:, rows])
        )
        for rows in np.split(rng.permutation(line.rows), sorted(cuts))
    ]
    for of in (losses, slopes):
        assert combined(of, parts, steps) == of(line, steps)
    found = [Compiled.breakpoints(part, 0.0, 2.0) for part in parts]
    assert sorted(chain.from_iterable(found)) == Compiled.breakpoints(line, 0.0, 2.0)


def combined(of: Callable[..., tuple[Any, ...]], parts: list[Line], steps: list[float]) -> Any:
    """Sum over the parts at each step size."""
    columns = zip(*(of(part, steps) for part in parts), strict=True)
    return tuple(reduce(lambda a, b: a.combine(b), column) for column in columns)


@pytest.mark.parametrize("size", [2.0**-80, 1 - 2.0**-53, 2.0**80 - 2.0**27])
@pytest.mark.parametrize("sign", [1, -1])
def test_every_bit_is_summed_over_many_rows(size: float, sign: int) -> None:
    rows = 3 * line_loops.BLOCK
    line = Line(np.full((1, rows), size), np.full((1, rows), sign * size))
    exact = rows * int(Fraction(size) * UNIT)
    assert losses(line, [0.0]) == (LossSum(exact, 0, rows),)
    assert slopes(line, [0.0]) == (SlopeSum(sign * exact, 0, 0, rows),)


def test_limbs_do_not_overflow_between_carries() -> None:
    # Between two carries, numbers below 2^40 from one block are added to a limb. The highest limb
    # receives only carries, which are 2^-40 of the limb below it.
    sums = np.array([[2**40 - 1, 2**40 - 1, 2**40 - 1, 2**40 - 1, 0]])
    line = Line(np.full((1, 5_000), 2.0**80 - 2.0**27), np.zeros((1, 5_000)))
    line_loops.losses(line.margins, line.slopes, np.zeros(1), sums, np.zeros(1, np.int64))
    assert (sums[0, :-1] >= 0).all()
    assert (sums[0, :-1] < 2**40).all()
    assert LossSum.of_limbs(sums[0], 0, 0).loss == 2**160 - 1 + 5_000 * (2**160 - 2**107)
    assert line_loops.BLOCK * 2**40 < 2**62


# Non-finite values are counted and raise no error.


@pytest.mark.parametrize(
    ("margin", "gain", "loss_overflows", "slope_overflows"),
    [
        (2.0**80, 0.0, 1, 0),  # a large loss overflows, its slope does not
        (1.0, 2.0**82, 1, 1),
        (1.0, -(2.0**82), 0, 1),
        (inf, 1.0, 1, 1),
        (-inf, -1.0, 1, 1),  # -inf may come from an overflow of either sign
        (-1.0, -1.7e308, 0, 1),  # very negative, but finite
        (-inf, inf, 1, 1),
        (nan, 1.0, 1, 1),
        (1.0, nan, 1, 1),
        (-1.0, nan, 1, 1),
    ],
)
def test_non_finite_or_too_large_margins_are_counted_as_overflows(
    margin: float, gain: float, loss_overflows: int, slope_overflows: int
) -> None:
    line = Line(np.array([[0.5, margin, 0.25]]), np.array([[-0.5, gain, -0.5]]))
    (loss,), (slope,) = losses(line, [0.25]), slopes(line, [0.25])
    assert (loss.overflows, slope.overflows) == (loss_overflows, slope_overflows)
    assert loss.mean == (inf if loss_overflows else 0.5 / 3)
    assert math.isnan(slope.mean) == bool(slope_overflows)
    if slope_overflows or margin < 0:  # the sums of the other margins are complete
        assert (loss.loss, slope.slope) == (UNIT // 2, -UNIT)
    assert sorted(breakpoints(line, 0.0, 1e300)[0]) == [0.5, 1.0]


def test_weights_out_of_range_are_counted_without_an_error() -> None:
    W = np.array([[1e308, 1e308, 1e308], [-1e308, 0.0, inf], [nan, 0.0, 0.0]])
    scorer, direction = fold(W, dtype=np.float64), fold(-W, dtype=np.float64)
    line = margins_along_line(scorer, direction, IMAGES, LABELS)
    assert [total.overflows for total in losses(line, [0.0, 1.0])] == [2, 2]
    assert slopes(line, [1.0])[0].overflows == 4


# Errors.


def test_mismatched_shapes_and_types_raise_value_error() -> None:
    scorer = fold(W, dtype=np.float64)
    with pytest.raises(ValueError, match="float64, not"):
        margins_along_line(fold(W), fold(V), IMAGES, LABELS)
    with pytest.raises(ValueError, match=r"direction of the same shape.* not \(2, 2\)"):
        margins_along_line(scorer, fold(V[:2], dtype=np.float64), IMAGES, LABELS)
    with pytest.raises(ValueError, match=r"labels must be in 0..2, not 3"):
        margins_along_line(scorer, scorer, IMAGES, LABELS + np.uint8(1))
    with pytest.raises(ValueError, match=r"2 images need labels \(2,\) uint8, not \(1,\)"):
        margins_along_line(scorer, scorer, IMAGES, LABELS[:1])
    with pytest.raises(ValueError, match="weights of 2 pixels need images"):
        margins_along_line(scorer, scorer, IMAGES[:, :1], LABELS)
    unsuitable: list[NDArray[Any]] = [np.zeros(3), np.zeros((2, 3), np.float32), np.zeros((3, 2)).T]
    for array in unsuitable:
        with pytest.raises(ValueError, match=r"must be \(C - 1, n\) float64"):
            Line(array, array)
    with pytest.raises(
        ValueError, match=r"margins \(2, 3\) need slopes of the same shape, not \(2, 4\)"
    ):
        Line(np.zeros((2, 3)), np.zeros((2, 4)))
    for steps in ([nan], [inf], 1.0, [[1.0]]):
        for of in (losses, slopes):
            with pytest.raises(ValueError, match=r"must be \(K,\) finite numbers"):
                of(hand_worked_line(), steps)
    with pytest.raises(ValueError, match="finite numbers"):
        breakpoints(hand_worked_line(), 0.0, inf)
    with pytest.raises(ValueError, match="sum at least one row"):
        _ = SlopeSum().mean


def test_line_reports_its_size_and_can_be_empty() -> None:
    assert hand_worked_line().__sizeof__() == 2 * 2 * 2 * 8
    empty = Line(np.empty((9, 0)), np.empty((9, 0)))
    assert losses(empty, [0.0]) == (LossSum(),)
    assert slopes(empty, [0.0]) == (SlopeSum(),)
    assert losses(hand_worked_line(), []) == ()
    assert slopes(hand_worked_line(), []) == ()
