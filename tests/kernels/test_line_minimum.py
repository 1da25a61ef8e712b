"""The minimum along a ray.

It is compared with hand-worked values and with all candidates, on small cases and on real images.
"""

import math
from fractions import Fraction
from functools import cache, reduce
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import line_minimum
from kernels.hinge import fold, loss_and_gradient
from kernels.line import Line, SlopeSum, breakpoints, losses, margins_along_line, slopes
from kernels.line_minimum import NO_PENALTY, LineMinimum, Penalty, minimum, penalty

Floats = NDArray[np.float64]


class Shards:
    """Shards of a line that count the passes over them, with an optional fault."""

    def __init__(self, lines: list[Line], fault: str = "") -> None:
        self.lines, self.fault = lines, fault
        self.steps: list[int] = []
        """Number of step sizes of each pass."""
        self.fetched: list[int] = []
        """Number of breakpoints that each pass fetched."""

    def slopes_at(self, steps: Floats) -> list[SlopeSum]:
        self.steps.append(len(steps))
        if self.fault == "inactive at its breakpoint":  # as if rounded to the left
            steps = np.where(steps > 0, np.nextafter(steps, -math.inf), steps)
        lines = self.lines[1:] if self.fault == "missing shard" else self.lines
        columns = zip(*(slopes(line, steps) for line in lines), strict=True)
        return [reduce(SlopeSum.combine, column) for column in columns]

    def breakpoints_within(self, low: float, high: float) -> tuple[Floats, Floats]:
        parts = [breakpoints(line, low, high) for line in self.lines]
        positions, jumps = np.concatenate(parts, axis=1)
        self.fetched.append(len(positions))
        if self.fault == "ties fetched once":
            positions, first = np.unique(positions, return_index=True)
            jumps = jumps[first]
        if self.fault == "all jumps 1":
            jumps = np.ones_like(jumps)
        return positions, jumps

    def minimum(self, penalty: Penalty = NO_PENALTY, fetch: int = 20_000) -> LineMinimum:
        """Find the minimum, fetching at most `fetch` breakpoints."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(line_minimum, "MAX_FETCHED", fetch)
            return minimum(self.slopes_at, self.breakpoints_within, penalty)


def margins_and_gains(*pairs: tuple[float, float]) -> Line:
    """Return a line with one wrong class and one row per pair (margin, slope)."""
    return Line(*np.array(pairs, np.float64).reshape(-1, 2).T.copy()[:, None])


# Hand-worked values. Margins 1 - a, 3 - 2a, -1 + 2a are 0 at 1, 1.5 and 0.5. The slope is -3 from
# 0, -1 from 0.5, 0 from 1, and 2 from 1.5.
VALLEY = margins_and_gains((1, -1), (3, -2), (-1, 2))


@pytest.mark.parametrize("fetch", [0, 1, 20_000])
@pytest.mark.parametrize(
    ("line", "penalty", "step_size", "on_ray"),
    [
        (VALLEY, NO_PENALTY, 1.0, 3),  # the left end of the flat bottom from 1 to 1.5
        (VALLEY, Penalty(linear=2.0), 0.0, 3),  # -3/3 + 2 > 0 at 0
        (VALLEY, Penalty(linear=1.0), 0.0, 3),  # -3/3 + 1 = 0 at 0
        (VALLEY, Penalty(linear=0.5), 0.5, 3),  # -1 + 0.5 < 0 before 0.5, -1/3 + 0.5 > 0 after
        (VALLEY, Penalty(linear=-0.25), 1.5, 3),  # 0 - 0.25 < 0 before 1.5, 2/3 - 0.25 > 0 after
        (VALLEY, Penalty(quadratic=0.125), 1.0, 3),  # -1/3 + 0.25 < 0 before 1, 0.25 > 0 after
        (VALLEY, Penalty(quadratic=4.0), 0.125, 3),  # -1 + 8a = 0 in the first segment
        (VALLEY, Penalty(-0.5, 0.2), 1.25, 3),  # 0 - 0.5 + 0.4 a = 0 between 1 and 1.5
        (VALLEY, Penalty(-8.0, 1.0), 11 / 3, 3),  # 2/3 - 8 + 2a = 0 after the last breakpoint
        (margins_and_gains((1, 2), (-1, -2)), NO_PENALTY, 0.0, 0),  # rises: both are 0 at -0.5
        (margins_and_gains((1, 0), (-1, 0), (0, 0)), NO_PENALTY, 0.0, 0),  # V = 0
        (margins_and_gains((1, 0)), Penalty(-1.0, 0.25), 2.0, 0),  # only the parabola
        # two breakpoints at 0, which is not on the ray; the right-hand slope there includes the
        # slope of the first margin
        (margins_and_gains((0, 1), (0, -1), (1, -0.5)), NO_PENALTY, 0.0, 1),
        (margins_and_gains((0, 1), (0, -1), (3, -2)), NO_PENALTY, 1.5, 1),
        # two and three breakpoints at one position
        (margins_and_gains((-1, 1), (1, -1)), NO_PENALTY, 1.0, 2),
        (margins_and_gains((1, -1), (-2, 3), (4, -6), (2, -3)), NO_PENALTY, 2 / 3, 4),
        # very large and very small positions
        (margins_and_gains((1e300, -1)), NO_PENALTY, 1e300, 1),
        (margins_and_gains((1e-300, -1), (-1, 0.5)), NO_PENALTY, 1e-300, 2),
        (margins_and_gains((5e-324, -1), (-1, 0.5)), NO_PENALTY, 5e-324, 2),
        # the breakpoint is rounded to 0
        (margins_and_gains((5e-324, -4), (-1, 0.5)), NO_PENALTY, 0.0, 1),
        # the breakpoint overflows, and the slope is rounded to 0
        (margins_and_gains((1e300, -1e-30)), NO_PENALTY, 0.0, 0),
        # the breakpoint of the first margin overflows
        (margins_and_gains((-1.7e308, 0.5), (1, -1)), NO_PENALTY, 1.0, 1),
    ],
)
def test_minimum_matches_hand_worked_values(
    line: Line, penalty: Penalty, step_size: float, on_ray: int, fetch: int
) -> None:
    found = Shards([line]).minimum(penalty, fetch)
    assert found.breakpoints == on_ray
    # The penalty 0.2 and the step size 11/3 are rounded, so not all results are exact.
    assert found.step_size == pytest.approx(step_size, rel=4e-16, abs=0)
    if penalty in {NO_PENALTY, Penalty(linear=0.5)}:
        assert found.step_size == step_size


# All candidates.


def margins_of(lines: list[Line]) -> list[tuple[Fraction, Fraction]]:
    return [
        (Fraction(m), Fraction(d))
        for line in lines
        for m, d in zip(line.margins.flat, line.slopes.flat, strict=True)
    ]


def lowest(lines: list[Line], penalty: Penalty) -> LineMinimum:
    """Return the lowest candidate: 0, a breakpoint, or the lowest point of a parabola."""
    margins = margins_of(lines)
    rows = sum(line.rows for line in lines)
    linear, quadratic = map(Fraction, penalty)

    @cache
    def hinges(a: Fraction) -> Fraction:
        return sum((max(Fraction(0), m + a * d) for m, d in margins), Fraction(0)) / rows

    places = sorted({-m / d for m, d in margins if d and -m / d > 0} | {Fraction(0)})
    candidates = list(places)
    if quadratic:
        for low, high in pairwise([*places, places[-1] + 1]):
            slope = (hinges(high) - hinges(low)) / (high - low)
            lowest_point = -(slope + linear) / (2 * quadratic)
            if lowest_point > low and (lowest_point < high or low == places[-1]):
                candidates.append(lowest_point)
    _, a = min((hinges(a) + linear * a + quadratic * a * a, a) for a in candidates)
    return LineMinimum(float(a), sum(d != 0 and -m / d > 0 for m, d in margins))


# Margins are integers and slopes are powers of two, so that every position is exact.
GAINS = st.sampled_from([0.0, 0.125, 0.5, 1.0, 2.0, 8.0, -0.125, -0.5, -1.0, -2.0, -8.0])
PAIRS = st.lists(st.tuples(st.integers(-6, 6).map(float), GAINS), min_size=1, max_size=12)
PENALTIES = st.sampled_from([0.0, 0.1, 3.0]).flatmap(
    lambda quadratic: st.builds(
        Penalty, st.sampled_from([0.0, -0.3, 2.0] if quadratic else [0.0]), st.just(quadratic)
    )
)
FETCHES = st.sampled_from([0, 1, 3, 20_000])


@given(pairs=PAIRS, penalty=PENALTIES, fetch=FETCHES, cut=st.integers(0, 12))
def test_minimum_is_the_leftmost_lowest_candidate(
    pairs: list[tuple[float, float]], penalty: Penalty, fetch: int, cut: int
) -> None:
    lines = [margins_and_gains(*pairs[:cut]), margins_and_gains(*pairs[cut:])]
    assert_lowest(Shards(lines), penalty, fetch)


def assert_lowest(shards: Shards, penalty: Penalty, fetch: int) -> None:
    assert shards.minimum(penalty, fetch) == lowest(shards.lines, penalty)


# The slope is -5 at 0 and -3 from 0.5; two breakpoints at 1 raise it above 0.
REVEALING = [margins_and_gains((2, -2), (1, -2)), margins_and_gains((1, -1), (-1, 1), (-2, 1))]
BENT = Penalty(-0.25, 0.7)  # -3/5 - 0.25 + 1.4 a = 0 at 0.607, between two breakpoints


@pytest.mark.parametrize("fetch", [0, 20_000])
def test_correct_passes_give_the_lowest_candidate(fetch: int) -> None:
    assert_lowest(Shards(REVEALING), NO_PENALTY, fetch)
    assert_lowest(Shards(REVEALING), BENT, fetch)


@pytest.mark.parametrize(
    ("fault", "fetch"),
    [
        ("inactive at its breakpoint", 0),
        ("missing shard", 0),
        ("missing shard", 20_000),
        ("ties fetched once", 20_000),
        ("all jumps 1", 20_000),
    ],
)
def test_faulty_passes_are_detected(fault: str, fetch: int) -> None:
    with pytest.raises((AssertionError, ValueError)):
        assert_lowest(Shards(REVEALING, fault), NO_PENALTY, fetch)


@pytest.mark.parametrize(
    "wrong",
    [NO_PENALTY, BENT._replace(quadratic=0.0), BENT._replace(linear=0.0), Penalty(-0.25, 0.35)],
)
def test_wrong_penalty_is_detected(wrong: Penalty) -> None:
    assert Shards(REVEALING).minimum(wrong) != lowest(REVEALING, BENT)


# Laws.


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.integers(-60, 60),
    penalty=st.sampled_from([NO_PENALTY, Penalty(-0.1, 0.3), Penalty(0.01, 1e-9)]),
)
def test_minimum_does_not_depend_on_partition_order_or_search_path(
    seed: int, scale: int, penalty: Penalty
) -> None:
    rng = np.random.default_rng(seed)
    margins, gains = rng.normal(size=(2, 3, 200))
    gains = np.ldexp(gains - 0.5, scale)
    whole = Shards([Line(margins, gains)])
    expected = whole.minimum(penalty)
    for fetch in (0, 3, 100):
        cuts = sorted(rng.integers(0, 200, 3))
        lines = [
            Line(margins[:, rows].copy(), gains[:, rows].copy())
            for rows in np.split(rng.permutation(200), cuts)
        ]
        assert Shards(lines).minimum(penalty, fetch) == expected


def test_breakpoints_at_one_position_are_not_fetched() -> None:
    line = Line(np.full((1, 30_000), 0.3), np.full((1, 30_000), -1.0))
    shards = Shards([line])
    assert shards.minimum() == LineMinimum(0.3, 30_000)
    assert shards.fetched == []
    assert shards.steps[0] == line_minimum.SECTIONS + 2
    assert len(shards.steps) <= 13
    # The same holds if the minimum is on a parabola between two neighbouring float64 numbers.
    shards = Shards([line])
    assert shards.minimum(Penalty(-1.0, 1.0 / 0.3)).step_size == pytest.approx(0.3, rel=1e-15)
    assert len(shards.steps) <= 13


def test_fetched_breakpoints_stay_below_the_limit() -> None:
    rng = np.random.default_rng(0)
    shards = Shards([Line(*rng.normal(size=(2, 9, 20_000)))])
    shards.minimum(Penalty(-1.0, 0.1))
    (fetched,) = shards.fetched
    assert 0 < fetched <= 20_000
    assert len(shards.steps) <= 3


# Errors.


def test_loss_without_a_minimum_raises_value_error() -> None:
    flat = margins_and_gains((1, 0))
    with pytest.raises(ValueError, match="falls along the whole ray"):
        Shards([flat]).minimum(Penalty(linear=-1e-300))
    with pytest.raises(ValueError, match="falls along the whole ray"):
        Shards([margins_and_gains((1.7e308, -0.5))]).minimum()
    with pytest.raises(ValueError, match="sum at least one row"):
        Shards([margins_and_gains()]).minimum()
    for bad in (math.nan, math.inf, -math.inf, 2.0**80):
        with pytest.raises(ValueError, match=r"^1 margins"):
            Shards([margins_and_gains((1, bad), (1, -1))]).minimum()
    for bad_penalty in (Penalty(0.0, -1.0), Penalty(math.nan, 0.0), Penalty(0.0, math.inf)):
        with pytest.raises(ValueError, match="finite and convex"):
            Shards([flat]).minimum(bad_penalty)


# Images.


class Descent(NamedTuple):
    """Images, and the direction of steepest descent at some weights."""

    line: Line
    W: Floats
    V: Floats
    margins: Floats
    """Computed by NumPy's matrix product, so not bit-identical to the margins of `line`."""
    gains: Floats


@pytest.fixture(scope="module", params=["random", pytest.param("real", marks=pytest.mark.real)])
def descent(request: pytest.FixtureRequest) -> Descent:
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (1_000, 3_072), dtype=np.uint8)
    labels = rng.integers(0, 10, 1_000).astype(np.uint8)
    if request.param == "real":
        directory: Path = request.getfixturevalue("real_cifar10")
        batches = sorted(directory.rglob("data_batch_1.bin"))
        if not batches:
            pytest.skip(f"{directory} does not contain the binary version of CIFAR-10")
        records = np.fromfile(batches[0], np.uint8, 1_000 * 3_073).reshape(1_000, 3_073)
        images, labels = np.ascontiguousarray(records[:, 1:]), records[:, 0].copy()
    mean = images.mean(0)
    W = rng.uniform(0, 1e-3, (10, 3_073))
    V = -loss_and_gradient(W, images, labels, mean=mean)[1]
    scorer, direction = fold(W, mean, np.float64), fold(V, mean, np.float64)
    centred = np.column_stack([images - mean, np.ones(1_000)])
    wrong = np.arange(10) != labels[:, None]
    margins, gains = (
        (scores - scores[~wrong][:, None])[wrong] for scores in (centred @ W.T, centred @ V.T)
    )
    return Descent(margins_along_line(scorer, direction, images, labels), W, V, margins + 1, gains)


@pytest.mark.parametrize("reg", [0.0, 1e4])
def test_no_step_size_on_the_ray_has_a_lower_loss(descent: Descent, reg: float) -> None:
    line, W, V, margins, gains = descent
    along_line = penalty(W, V, reg)
    shards = Shards([line])
    found = shards.minimum(along_line, fetch=500)
    positions = np.sort(-margins / gains)
    positions = positions[positions > 0]
    assert found.breakpoints == len(positions)

    def phi(steps: Floats) -> Floats:
        hinges = np.array([np.maximum(0, margins + a * gains).sum() for a in steps]) / 1_000
        total: Floats = hinges + along_line.linear * steps + along_line.quadratic * steps**2
        return total

    values = phi(positions)
    at, value = found.step_size, phi(np.array([found.step_size]))[0]
    assert value <= values.min() * (1 + 1e-14)
    best = positions[values.argmin()]
    if reg == 0:
        assert at == pytest.approx(best, rel=1e-10)
    i = np.searchsorted(positions, at * (1 - 1e-10))  # the loss at its neighbours must be higher
    for neighbour in (i - 1, i + 1):
        assert values[neighbour] > value * (1 + 1e-14)

    grid = np.concatenate([np.linspace(0, 4 * at, 5_000), np.geomspace(at / 1e6, at * 1e6, 5_000)])
    steps = np.append(at, grid)
    lost = np.array([total.mean for total in losses(line, steps)])
    lost += along_line.linear * steps + along_line.quadratic * steps**2
    assert lost[0] <= lost.min() + 1e-14 * abs(lost[0])
    rising = [total.slope for total in slopes(line, np.sort(grid))]
    assert rising == sorted(rising)


def test_penalty_is_the_change_of_the_regulariser() -> None:
    W, V = np.random.default_rng(1).normal(size=(2, 4, 6))
    for reg_bias, columns in ((False, 5), (True, 6)):
        linear, quadratic = penalty(W, V, 0.7, reg_bias=reg_bias)
        at_0, at_2 = (0.7 * ((W + a * V)[:, :columns] ** 2).sum() for a in (0, 2))
        assert at_0 + 2 * linear + 4 * quadratic == pytest.approx(at_2, rel=1e-14)
