"""The loss over a plane.

It is compared with hand-worked values, the reference implementation, the loss along a line, and a
plain implementation.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from math import floor, inf, isfinite, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import line, reference
from kernels.compiled.lines import BLOCK_ROWS, LIMBS
from kernels.exact_sum import LossSum
from kernels.hinge import Scorer, fold, sum_rows
from kernels.line import Line
from kernels.plane import Plane, PlaneSum, losses, margins_over_plane
from kernels.simd.line_tiles import LARGEST, STEPS
from tests.kernels.cases import Case, cases
from tests.kernels.test_line import EXTREMES, FLOATS, INTEGERS, fused, lines

UNIT = 2**80
Floats = NDArray[np.float64]
Scorers = tuple[Scorer, Scorer, Scorer]


def sums(total: PlaneSum) -> list[list[LossSum]]:
    """Return the sum at each point (M, K) as a `LossSum`, as `kernels.line` does per step size."""
    return [
        [LossSum.of_limbs(*point, total.rows) for point in zip(*row, strict=True)]
        for row in zip(total.limbs, total.overflows.tolist(), strict=True)
    ]


def rows_of(plane: Plane, rows: Any) -> Plane:
    arrays = plane.line.margins, plane.line.slopes, plane.second
    margins, first, second = (np.ascontiguousarray(array[:, rows]) for array in arrays)
    return Plane(Line(margins, first), second)


def folded(W: Floats, U: Floats, V: Floats, mean: Floats | None = None) -> Scorers:
    W_scorer, U_scorer, V_scorer = (fold(weights, mean, np.float64) for weights in (W, U, V))
    return W_scorer, U_scorer, V_scorer


def plane_of(rows: list[list[tuple[float, float, float]]]) -> Plane:
    """Return the plane of rows given as (margin, slope in a, slope in b) for each wrong class."""
    margins, first, second = np.array(rows, np.float64).transpose(2, 1, 0).copy()
    return Plane(Line(margins, first), second)


# Hand-worked values.

W = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])
U = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
V = np.array([[0.0, 0.0, 2.0], [0.0, 1.0, 0.0], [1.0, 0.0, -3.0]])
IMAGES = np.array([[2, 4], [3, 0]], np.uint8)
LABELS = np.array([0, 2], np.uint8)
# Scores of W for (2, 4, 1): 2, 4, 2; for (3, 0, 1): 3, 0, -3.
# Scores of U for (2, 4, 1): 1, -2, 4; for (3, 0, 1): 1, -3, 0.
# Scores of V for (2, 4, 1): 2, 4, -1; for (3, 0, 1): 2, 0, 0.
# Image 0, of class 0: margins class 1: 4 - 2 + 1 = 3, plus -3 a + 2 b;
#                              class 2: 2 - 2 + 1 = 1, plus  3 a - 3 b.
# Image 1, of class 2: margins class 0: 3 + 3 + 1 = 7, plus    a + 2 b;
#                              class 1: 0 + 3 + 1 = 4, plus -3 a.
A, B = [0.0, 1.0, -2.0], [0.0, 1.0, -4.0]
# b = 0:  a = 0: (3 + 1) + (7 + 4) = 15;  a = 1: (0 + 4) + (8 + 1) = 13;
#         a = -2: (9 + 0) + (5 + 10) = 24, where the margin of class 2 is -5.
# b = 1:  (5 + 0) + (9 + 4) = 18;  (2 + 1) + (10 + 1) = 14;  (11 + 0) + (7 + 10) = 28.
# b = -4: (0 + 13) + (0 + 4) = 17;  (0 + 16) + (0 + 1) = 17;  (1 + 7) + (0 + 10) = 18.
SUMS = np.array([[15, 13, 24], [18, 14, 28], [17, 17, 18]])


def hand_worked_plane() -> Plane:
    return margins_over_plane(*folded(W, U, V), IMAGES, LABELS)


def test_margins_and_losses_match_hand_worked_values() -> None:
    plane = hand_worked_plane()
    assert plane.line.margins.tolist() == [[3, 7], [1, 4]]
    assert plane.line.slopes.tolist() == [[-3, 1], [3, -3]]
    assert plane.second.tolist() == [[2, 2], [-3, 0]]
    total = losses(plane, A, B)
    assert sums(total) == [[LossSum(n * UNIT, 0, 2) for n in row] for row in SUMS.tolist()]
    assert (total.means == SUMS / 2).all()


def test_delta_is_added_to_every_margin() -> None:
    plane = margins_over_plane(*folded(W, U, V), IMAGES, LABELS, delta=0.0)
    # Every margin is 1 less: 2 + 0 + 6 + 3 = 11; at b = 1: 4 + 0 + 8 + 3 = 15.
    assert (losses(plane, [0.0], [0.0, 1.0]).means == [[11 / 2], [15 / 2]]).all()


# The reference implementation.


def plane_of_case(case: Case, data: st.DataObject) -> tuple[Plane, Floats, Floats]:
    """Draw directions for a case, in eighths like its weights, sometimes parallel to them."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="directions"))
    U, V = rng.integers(-16, 17, (2, *case.W.shape)) / 8
    if data.draw(st.booleans(), label="towards 0"):
        V = -case.W
    scorers = folded(case.W, U, V, case.mean)
    return margins_over_plane(*scorers, case.images, case.labels, delta=case.delta), U, V


QUARTERS = st.integers(-40, 40).map(lambda n: n / 4)


@given(case=cases(max_rows=3, max_columns=65, floats=False), data=st.data())
def test_losses_match_the_reference_implementation(case: Case, data: st.DataObject) -> None:
    plane, U, V = plane_of_case(case, data)
    a, b = data.draw(QUARTERS, label="a"), data.draw(QUARTERS, label="b")
    at = (case.W + a * U + b * V).tolist()
    expected = reference.loss(at, case.centred.tolist(), case.labels.tolist(), case.delta)
    assert losses(plane, [a], [b]).means.item() == pytest.approx(expected, rel=1e-12, abs=0)


@given(case=cases(max_rows=6, max_columns=65, floats=False), data=st.data())
def test_exchanging_exact_directions_transposes_the_losses(case: Case, data: st.DataObject) -> None:
    plane, _, _ = plane_of_case(case, data)
    exchanged = Plane(Line(plane.line.margins, plane.second), plane.line.slopes)
    a, b = (data.draw(st.lists(QUARTERS, max_size=6), label=label) for label in "ab")
    transposed = losses(exchanged, b, a).limbs.swapaxes(0, 1)
    np.testing.assert_array_equal(losses(plane, a, b).limbs, transposed)


# The loss along a line.


@given(drawn=lines(), data=st.data())
def test_losses_at_b_0_are_bit_identical_to_the_line(
    drawn: tuple[Line, list[float]], data: st.DataObject
) -> None:
    along, steps = drawn
    steps = [step for step in steps if isfinite(step)]
    size = along.margins.size
    finite = st.lists(FLOATS | st.sampled_from([1e300, -1e300]), min_size=size, max_size=size)
    second = np.array(data.draw(finite, label="second")).reshape(along.margins.shape)
    found = sums(losses(Plane(along, second), steps, [0.0, -0.0]))
    assert found == [list(line.losses(along, steps))] * 2


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 600))
def test_loss_at_the_origin_is_bit_identical_to_sum_rows(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (rows, 70), dtype=np.uint8)
    labels = rng.integers(0, 5, rows).astype(np.uint8)
    W, U, V = rng.normal(scale=0.01, size=(3, 5, 71))
    scorers = folded(W, U, V, rng.random(70) * 255)
    plane = margins_over_plane(*scorers, images, labels, delta=0.7)
    [[found]] = sums(losses(plane, [0.0], [0.0]))
    assert found == sum_rows(scorers[0], images, labels, delta=0.7).losses


# A plain implementation, bit for bit.


class PlainPlane:
    """Plain implementation of `kernels.plane`, one margin at a time, with an optional fault."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def sums(self, plane: Plane, a: list[float], b: list[float]) -> list[list[LossSum]]:
        if self.fault == "last step size of an incomplete tile replaced by 0":
            a = [*a[:-1], 0.0] if len(a) % STEPS else a
        return [[self.point(plane, x, y) for x in a] for y in b]

    def point(self, plane: Plane, a: float, b: float) -> LossSum:
        arrays = plane.line.margins, plane.line.slopes, plane.second
        rows = np.stack(arrays, axis=-1).swapaxes(0, 1).tolist()
        if self.fault == "rows of the last block missing":
            rows = rows[: len(rows) // BLOCK_ROWS * BLOCK_ROWS]
        total = LossSum(rows=plane.line.rows)
        for row in rows[1:] if self.fault == "first row missing" else rows:
            total = total.combine(self.counted(self.loss(row, a, b)))
        return total

    def loss(self, row: list[list[float]], a: float, b: float) -> float:
        loss = 0.0
        for margin in row[::-1] if self.fault == "classes in reverse order" else row:
            value = self.margin(margin, a, b)
            if self.fault == "-inf counted as 0" and value == -inf:
                value = 0.0
            if self.fault == "nan counted as 0":
                loss += value if value > 0 else 0.0
            else:
                loss += max(value, 0.0) if isfinite(value) else nan
        return loss

    def margin(self, parts: list[float], a: float, b: float) -> float:
        margin, first, second = parts
        if self.fault == "first direction added first":
            return fused(b, second, fused(a, first, margin))
        if self.fault == "margins rounded once" and all(map(isfinite, (margin, first, second))):
            gains = Fraction(a) * Fraction(first) + Fraction(b) * Fraction(second)
            return float(Fraction(margin) + gains)
        if self.fault == "directions exchanged":
            a, b = b, a
        sign = -1 if self.fault == "sign of the second direction" else 1
        if self.fault == "second direction not fused":
            moved = margin + b * second
        else:
            moved = fused(sign * b, second, margin)
        return (
            moved + a * first
            if self.fault == "first direction not fused"
            else fused(a, first, moved)
        )

    def counted(self, loss: float) -> LossSum:
        if self.fault == "large losses missing" and LARGEST <= loss < 2.0**80:
            return LossSum()
        if loss < 2.0**80 or (self.fault == "2^80 summed" and loss == 2.0**80):
            cut = round if self.fault == "losses rounded to the nearest unit" else floor
            return LossSum(cut(Fraction(loss) * UNIT))
        return LossSum() if self.fault == "overflows not counted" else LossSum(overflows=1)


def assert_same_results(plain: PlainPlane, plane: Plane, a: list[float], b: list[float]) -> None:
    assert sums(losses(plane, a, b)) == plain.sums(plane, a, b)


POINTS = st.lists(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, -1e300]) | FLOATS, max_size=5
)


@st.composite
def planes(draw: st.DrawFn, elements: st.SearchStrategy[float], max_rows: int = 5) -> Plane:
    classes, rows = draw(st.integers(1, 4)), draw(st.integers(0, max_rows))
    size = 3 * classes * rows
    values = draw(st.lists(elements, min_size=size, max_size=size))
    margins, first, second = np.array(values).reshape(3, classes, rows)
    return Plane(Line(margins, first), second)


ELEMENTS = st.sampled_from([INTEGERS, FLOATS, INTEGERS | FLOATS | EXTREMES])


# The product of slope and step size overflows, and the margin is -inf: in the first example from
# the start, in the second after the step along the second direction.
@example(plane=plane_of([[(-inf, 1e300, 0.0)]]), a=[1e300], b=[0.0])
@example(plane=plane_of([[(-1.0, 1e300, -1e300)]]), a=[1e300], b=[1e300])
@given(plane=ELEMENTS.flatmap(planes), a=POINTS, b=POINTS)
def test_kernels_match_the_plain_implementation(
    plane: Plane, a: list[float], b: list[float]
) -> None:
    assert_same_results(PlainPlane(), plane, a, b)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 255, 256, 257, 511, 600])
@pytest.mark.parametrize("points", [1, STEPS, STEPS + 1])
def test_many_rows_match_the_plain_implementation(rows: int, points: int) -> None:
    rng = np.random.default_rng(rows + points)
    margins, first, second = rng.normal(scale=3.0, size=(3, 2, rows))
    plane = Plane(Line(margins, first), second)
    assert_same_results(
        PlainPlane(), plane, rng.normal(size=points).tolist(), rng.normal(size=2).tolist()
    )


NEARLY_LARGEST = LARGEST - 2.0**-36


@pytest.mark.slow
@pytest.mark.parametrize("rows", [3, BLOCK_ROWS + 9])
@pytest.mark.parametrize("place", [0, 2, -1])
@pytest.mark.parametrize("loss", [NEARLY_LARGEST, LARGEST, LARGEST + 2.0**-35, 2.0**80 - 2.0**27])
def test_large_losses_among_small_ones_are_summed_exactly(
    loss: float, place: int, rows: int
) -> None:
    # The loss is large at b = 2, and at a = -4 and b = 0. No other point of these tiles has a large
    # loss.
    rng = np.random.default_rng(rows)
    margins, first, second = rng.normal(scale=1e-3, size=(3, 2, rows))
    margins[:, place], first[:, place], second[:, place] = [0, -1], [-loss / 4, 0], [loss / 2, 0]
    plane, a = Plane(Line(margins, first), second), [0.0, 1e-9, -4.0, 1.0, 0.5]
    assert_same_results(PlainPlane(), plane, a, [0.0, 2.0, -1.0])
    at = sums(losses(plane, a, [0.0, 2.0]))
    for total in at[0][2], at[1][0]:
        assert loss <= Fraction(total.loss, UNIT) < Fraction(loss) + 8


# Rows that reveal faults:
# - 2^-60 and 1 show whether margins are rounded once or twice, and in which order;
# - 1/49 * 49 is not 1, which shows whether multiply and add are fused, in each direction;
# - the sum of 1 and two halves of its last bit depends on the order of the classes;
# - 3 * 2^-82 is not a multiple of the unit.
SMALL = [
    [(1.0, -1.0, 2.0**-60), (-1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)],
    [(-1.0, 49.0, 0.0), (1.0, -49.0, 0.0), (-1.0, 0.0, 0.0)],
    [(-1.0, 0.0, 49.0), (1.0, 0.0, -49.0), (-1.0, 0.0, 0.0)],
    [(1.0, 0.0, 0.0), (2.0**-53, 0.0, 0.0), (2.0**-53, 0.0, 0.0)],
    [(3 * 2.0**-82, 0.0, 0.0), (-1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)],
]
LARGE = [
    [(LARGEST, 0.0, 0.0), (-1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)],
    [(2.0**80, 0.0, 0.0), (-1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)],
    [(-1.0, 0.0, 0.0), (nan, 0.0, 0.0), (-1.0, 0.0, 0.0)],
    [(inf, 0.0, 0.0), (-inf, 0.0, 0.0), (-1.0, 0.0, 0.0)],
    [(2.0, 0.0, 0.0), (-inf, 0.0, 0.0), (-1.0, 0.0, 0.0)],
]
USUAL = [[(2.0, 1.0, -1.0), (1.0, -3.0, 2.0), (0.0, 1.0, 2.0)]]
REVEALING = plane_of(USUAL * (BLOCK_ROWS - len(SMALL)) + SMALL + LARGE + USUAL)
"""A full block of small losses, and part of another block with large ones."""
REVEALING_A, REVEALING_B = [0.0, 1.0, 1 / 49], [0.0, 1.0, 1 / 49]


def test_correct_plain_implementation_passes_on_the_revealing_plane() -> None:
    assert_same_results(PlainPlane(), REVEALING, REVEALING_A, REVEALING_B)


@pytest.mark.parametrize(
    "fault",
    [
        "first direction not fused",
        "second direction not fused",
        "margins rounded once",
        "first direction added first",
        "directions exchanged",
        "sign of the second direction",
        "classes in reverse order",
        "losses rounded to the nearest unit",
        "large losses missing",
        "2^80 summed",
        "overflows not counted",
        "nan counted as 0",
        "-inf counted as 0",
        "first row missing",
        "rows of the last block missing",
        "last step size of an incomplete tile replaced by 0",
    ],
)
def test_every_planted_fault_is_detected(fault: str) -> None:
    with pytest.raises(AssertionError):
        assert_same_results(PlainPlane(fault), REVEALING, REVEALING_A, REVEALING_B)


# Laws.

Combine = Callable[[PlaneSum, PlaneSum], PlaneSum]


def assert_same(found: PlaneSum, expected: PlaneSum) -> None:
    np.testing.assert_array_equal(found.limbs, expected.limbs)
    np.testing.assert_array_equal(found.overflows, expected.overflows)
    assert found.rows == expected.rows


def assert_partition(
    plane: Plane, parts: list[NDArray[np.int64]], combine: Combine = PlaneSum.combine
) -> None:
    a, b = [0.0, 0.3, -0.7, 5.0, 1e-9], [0.0, 1.0, -2.5]
    found = [losses(rows_of(plane, rows), a, b) for rows in parts]
    kept = [(total.limbs.copy(), total.overflows.copy()) for total in found]
    assert_same(reduce(combine, found), losses(plane, a, b))
    for total, (limbs, overflows) in zip(found, kept, strict=True):  # the inputs are not modified
        assert_same(total, PlaneSum(limbs, overflows, total.rows))


def drawn_plane(rng: np.random.Generator, rows: int) -> Plane:
    """Return a plane with margins of all sizes, some of them infinite."""
    margins, first, second = rng.normal(size=(3, 3, rows)) * 2.0 ** rng.integers(-40, 15, (3, rows))
    margins[0, rng.random(rows) < 0.01] = inf
    margins[1, rng.random(rows) < 0.01] = 2.0**79
    return Plane(Line(margins, first), second)


@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_sums_do_not_depend_on_partition_or_order_of_rows(seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    plane = drawn_plane(rng, data.draw(st.integers(0, 1_300), label="rows"))
    rows = plane.line.rows
    cuts = data.draw(st.lists(st.integers(0, rows), max_size=5), label="cuts")
    assert_partition(plane, np.split(rng.permutation(rows), sorted(cuts)))


def faulty(fault: str) -> Combine:
    def combine(one: PlaneSum, other: PlaneSum) -> PlaneSum:
        total = one.combine(other)
        limbs, overflows, rows = total.limbs, total.overflows, total.rows
        if fault == "no carry":
            limbs = one.limbs + other.limbs
        if fault == "highest carry missing":
            limbs[..., -1] = 0
        if fault == "overflows of one part":
            overflows = one.overflows
        if fault == "rows of one part":
            rows = one.rows
        if fault == "input modified":
            one.limbs[...] = limbs
        return PlaneSum(limbs, overflows, rows)

    return combine


@pytest.mark.parametrize(
    "fault",
    [
        "",  # no fault: passes
        "no carry",
        "highest carry missing",
        "overflows of one part",
        "rows of one part",
        "input modified",
    ],
)
def test_faulty_combination_is_detected(fault: str) -> None:
    plane = drawn_plane(np.random.default_rng(5), 900)
    plane.line.margins[2] = 2.0**80 - 2.0**79  # the sum of two exceeds the lower limbs
    parts = np.array_split(np.arange(900), 3)
    if not fault:
        assert_partition(plane, parts, faulty(fault))
        return
    with pytest.raises(AssertionError):
        assert_partition(plane, parts, faulty(fault))


@pytest.mark.parametrize("size", [2.0**-80, 1 - 2.0**-53, NEARLY_LARGEST, 2.0**80 - 2.0**27])
def test_every_bit_is_summed_over_many_rows(size: float) -> None:
    rows = 3 * BLOCK_ROWS
    plane = Plane(Line(np.zeros((1, rows)), np.zeros((1, rows))), np.full((1, rows), size))
    exact = rows * int(Fraction(size) * UNIT)
    total = losses(plane, [7.0], [1.0])
    assert sums(total.combine(total)) == [[LossSum(2 * exact, 0, 2 * rows)]]
    assert total.means.item() == size


def test_mean_is_rounded_once() -> None:
    # The sum of the three rows is 1 + 2^-60, which is exact in the sum but not in float64.
    total = losses(plane_of([[(1.0, 0, 0)], [(2.0**-60, 0, 0)], [(0.0, 0, 0)]]), [0.0], [0.0])
    assert total.means.item() == float((1 + Fraction(1, 2**60)) / 3)
    third = losses(plane_of([[(1.0, 1.0, 1.0)], [(0, 0, 0)], [(0, 0, 0)]]), [0.0, 1.0], [1.0])
    assert third.means.tolist() == [[2 / 3, 1.0]]


# Non-finite values are counted and raise no error.


@pytest.mark.parametrize(
    ("margin", "first", "second", "overflows"),
    [
        (2.0**80, 0.0, 0.0, 1),
        (2.0**80 - 2.0**27, 0.0, 0.0, 0),
        (1.0, 2.0**82, 0.0, 1),
        (1.0, 0.0, 2.0**82, 1),
        (1.0, 0.0, -(2.0**82), 0),
        (1.0, -(2.0**82), 2.0**82, 0),  # 0 after two roundings
        (1e307, -4e307, 2e307, 0),
        (1.7e308, -1.7e308, 1.7e308, 1),  # infinite after the first addition
        (inf, 1.0, 1.0, 1),
        (-inf, -1.0, 1.0, 1),  # -inf may come from an overflow of either sign
        (-1.7e308, -1.7e308, -1.7e308, 1),  # -inf after the first addition
        (-1.7e308, -1.0, 1.0, 0),
        (-inf, 1.0, inf, 1),
        (nan, 1.0, 1.0, 1),
        (1.0, nan, 1.0, 1),
        (-1.0, 1.0, nan, 1),
    ],
)
@pytest.mark.parametrize("others", [2, BLOCK_ROWS])
def test_overflowing_margins_are_counted(
    margin: float, first: float, second: float, overflows: int, others: int
) -> None:
    plane = plane_of([[(0.5, 1.0, -1.0)]] * others + [[(margin, first, second)]])
    total = losses(plane, [0.5], [0.5])
    assert total.overflows.tolist() == [[overflows]]
    assert (total.means.item() == inf) == bool(overflows)
    if overflows or margin < 0:  # the sums of the other rows are complete
        assert sums(total) == [[LossSum(others * UNIT // 2, overflows, others + 1)]]
    assert_same_results(PlainPlane(), plane, [0.5], [0.5])


def test_weights_out_of_range_are_counted_without_an_error() -> None:
    W = np.array([[1e308, 1e308, 1e308], [-1e308, 0.0, inf], [nan, 0.0, 0.0]])
    total = losses(margins_over_plane(*folded(W, -W, W), IMAGES, LABELS), [0.0, 1.0], [0.0, 1.0])
    assert total.overflows.tolist() == [[2, 2], [2, 2]]
    assert (total.means == inf).all()


# Errors and empty input.


def test_mismatched_shapes_and_types_raise_value_error() -> None:
    scorer, short = fold(W, dtype=np.float64), fold(W[:2], dtype=np.float64)
    with pytest.raises(ValueError, match=r"second direction of the same shape.* not \(2, 2\)"):
        margins_over_plane(scorer, scorer, short, IMAGES, LABELS)
    with pytest.raises(ValueError, match=r"direction of the same shape.* not \(2, 2\)"):
        margins_over_plane(scorer, short, scorer, IMAGES, LABELS)
    single = fold(W)
    in_turn: list[Scorers] = [
        (single, scorer, scorer),
        (scorer, single, scorer),
        (scorer, scorer, single),
    ]
    for scorers in in_turn:
        with pytest.raises(ValueError, match="must be float64, not float32"):
            margins_over_plane(*scorers, IMAGES, LABELS)
    with pytest.raises(ValueError, match=r"labels must be in 0..2, not 3"):
        margins_over_plane(scorer, scorer, scorer, IMAGES, LABELS + np.uint8(1))
    with pytest.raises(ValueError, match=r"2 images need labels \(2,\) uint8, not \(1,\)"):
        margins_over_plane(scorer, scorer, scorer, IMAGES, LABELS[:1])
    with pytest.raises(ValueError, match="weights of 2 pixels need images"):
        margins_over_plane(scorer, scorer, scorer, IMAGES[:, :1], LABELS)
    unsuitable: list[NDArray[Any]] = [np.zeros(3), np.zeros((2, 3), np.float32), np.zeros((3, 2)).T]
    for array in unsuitable:
        with pytest.raises(ValueError, match=r"must be \(C - 1, n\) float64"):
            Plane(Line(np.zeros((2, 3)), np.zeros((2, 3))), array)
    with pytest.raises(
        ValueError, match=r"margins \(2, 3\) need slopes of the same shape, not \(2, 4\)"
    ):
        Plane(Line(np.zeros((2, 3)), np.zeros((2, 3))), np.zeros((2, 4)))
    bad: list[Any] = [[nan], [inf], 1.0, [[1.0]]]
    for steps in bad:
        for points in ((steps, [0.0]), ([0.0], steps)):
            with pytest.raises(ValueError, match=r"must be \(K,\) finite numbers"):
                losses(hand_worked_plane(), *points)
    with pytest.raises(ValueError, match="sum at least one row"):
        _ = losses(rows_of(hand_worked_plane(), slice(0)), [0.0], [0.0]).means


@pytest.mark.parametrize(("a", "b"), [([], [1.0]), ([1.0, 2.0], []), ([], [])])
def test_no_points_give_empty_losses(a: list[float], b: list[float]) -> None:
    total = losses(hand_worked_plane(), a, b)
    assert total.limbs.shape == (len(b), len(a), LIMBS)
    assert total.combine(total).rows == 4
    assert total.means.shape == (len(b), len(a))


def test_plane_reports_its_size_and_can_be_empty() -> None:
    assert hand_worked_plane().__sizeof__() == 3 * 2 * 2 * 8
    none = losses(rows_of(hand_worked_plane(), slice(0)), A, B)
    assert sums(none) == [[LossSum()] * 3] * 3
    some = losses(hand_worked_plane(), A, B)
    assert_same(none.combine(some), some)


def test_losses_do_not_modify_the_plane() -> None:
    plane = rows_of(REVEALING, slice(None))
    losses(plane, REVEALING_A, REVEALING_B)
    for array, expected in (
        (plane.line.margins, REVEALING.line.margins),
        (plane.line.slopes, REVEALING.line.slopes),
        (plane.second, REVEALING.second),
    ):
        np.testing.assert_array_equal(array, expected)
