"""The tile's sums: those of the plain loop and of exact fractions, to the last bit."""

from fractions import Fraction
from math import floor, inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from kernels import line
from kernels.compiled import lines as line_loops
from kernels.compiled.lines import BLOCK_ROWS, LIMBS
from kernels.exact_sum import LossSum
from kernels.line import Line
from kernels.simd import line_tiles as line_lanes
from kernels.simd.line_tiles import COARSE_BITS, FINE_BITS, LARGEST, MOST_VECTORS, ROWS, STEPS

Floats = NDArray[np.float64]
UNIT = 2**FINE_BITS
LARGEST_FITTING = LARGEST * (1 - 2.0**-53)


class Limbs:
    """Sums at each step size (K, LIMBS), and how many rows overflow (K,)."""

    def __init__(self, steps: Floats) -> None:
        self.limbs = np.zeros((len(steps), LIMBS), np.int64)
        self.overflows = np.zeros(len(steps), np.int64)


def fast(along: Line, steps: Floats) -> Limbs:
    """As `kernels.line.losses` does it: blocks of rows, and tiles of step sizes."""
    found = Limbs(steps)
    line_loops.losses(along.margins, along.slopes, steps, found.limbs, found.overflows)
    return found


def plain(along: Line, steps: Floats) -> Limbs:
    found = Limbs(steps)
    for k, step in enumerate(steps.tolist()):
        found.overflows[k] = line_loops.add_plainly(
            along.margins, along.slopes, step, found.limbs[k]
        )
    return found


def assert_same(along: Line, steps: Floats) -> None:
    found, expected = fast(along, steps), plain(along, steps)
    np.testing.assert_array_equal(found.limbs, expected.limbs)
    np.testing.assert_array_equal(found.overflows, expected.overflows)
    pairs = zip(expected.limbs, expected.overflows.tolist(), strict=True)
    expected_sums = tuple(LossSum.of_limbs(*pair, along.rows) for pair in pairs)
    assert line.losses(along, steps) == expected_sums


def at_0(losses: Floats) -> Line:
    """Rows that lose these at step 0, and nothing at step 1."""
    return Line(losses[None].copy(), -losses[None])


def exact(losses: Floats) -> int:
    """The sum in units of 2^-80, each loss cut downwards."""
    return sum(floor(Fraction(loss) * UNIT) for loss in losses.tolist())


# Against the plain loop.

FULL = 2**53 - 1
DIGITS = st.sampled_from([2**52, 2**52 + 1, FULL, FULL - 1, 2**52 + 2**30, 2**53 - 2**22])
EXPONENTS = st.integers(-90, 16)
FITTING = st.builds(
    lambda digits, exponent: float(np.ldexp(digits, exponent - 52)),
    DIGITS | st.integers(2**52, FULL),
    EXPONENTS,
)
"""From 2^-90 up to the very edge of 2^17."""
HALVES = st.builds(  # about the middle of two multiples of 2^-31 or of 2^-80, and of 2^-79
    lambda odd, exponent, step: float(np.nextafter(np.ldexp(odd, exponent), step)),
    st.sampled_from([1, 3, 5, 2**20 + 1, 2**40 + 1]),
    st.sampled_from([-32, -31, -80, -81]),
    st.sampled_from([0.0, 1e9]),
)
EDGES = st.sampled_from([0.0, 2.0**-81, 2.0**-80, 2.0**-31, 2.0**-32, 2.0**16.99, LARGEST_FITTING])
ROW_COUNTS = st.sampled_from([1, 7, 8, 9, 255, BLOCK_ROWS, BLOCK_ROWS + 1, 600])


@given(drawn=st.lists(FITTING | HALVES | EDGES, min_size=1, max_size=40), rows=ROW_COUNTS)
@example([LARGEST_FITTING], BLOCK_ROWS)
def test_losses_that_fit(drawn: list[float], rows: int) -> None:
    losses = np.resize(drawn, rows)
    along = at_0(losses)
    assert_same(along, np.array([0.0, 1.0, 0.5]))
    [found] = line.losses(along, [0.0])
    assert found == LossSum(exact(losses), 0, rows)


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 600),
    classes=st.integers(1, 9),
    points=st.integers(0, 9),
    large=st.sampled_from([0.0, 0.001, 0.2]),
)
def test_margins_at_random(seed: int, rows: int, classes: int, points: int, large: float) -> None:
    rng = np.random.default_rng(seed)
    margins, gains = rng.normal(size=(2, classes, rows)) * 2.0 ** rng.integers(
        -90, 12, (2, classes, rows)
    )
    some = rng.random((classes, rows)) < large
    margins[some] = rng.choice([LARGEST, -LARGEST, 2.0**60, 2.0**80, inf, -inf, nan], some.sum())
    assert_same(Line(margins, gains), rng.normal(size=points) * 2.0 ** rng.integers(-60, 4, points))


# No bit is lost of as much as a block can hold.


@pytest.mark.parametrize(
    "loss",
    [
        LARGEST_FITTING,
        2.0**16.99,
        LARGEST - 2.0**-COARSE_BITS,  # an odd number of coarse units
        LARGEST - 2.0**-32,  # the rest is half a coarse unit
        LARGEST / 2 - 2.0**-32 - 2.0**-36,
        float(np.nextafter(2.0**-32, 0)),
        float(np.nextafter(3 * 2.0**-32, 1)),
        2.0**-80,
        float(np.nextafter(2.0**-80, 0)),
        float(np.nextafter(2.0**-79, 0)),
        2.0**-90,
    ],
)
@pytest.mark.parametrize("rows", [BLOCK_ROWS, 3 * BLOCK_ROWS, BLOCK_ROWS - 1, 1])
def test_as_many_equal_losses_as_a_block_holds(loss: float, rows: int) -> None:
    losses = np.full(rows, loss)
    assert_same(at_0(losses), np.zeros(1))
    for steps in range(1, STEPS + 2):
        expected = LossSum(rows * floor(Fraction(loss) * UNIT), 0, rows)
        assert line.losses(at_0(losses), np.zeros(steps)) == (expected,) * steps


def test_the_sums_of_a_lane_are_whole_numbers() -> None:
    # Every loss rounded up to 2^17 in coarse units, and every rest as far below it as can be.
    assert LARGEST * MOST_VECTORS * 2**COARSE_BITS == 2**53
    assert 2.0 ** -(COARSE_BITS + 1) * MOST_VECTORS * 2**FINE_BITS == 2**53


# Which way was taken.

tile: Any = line_lanes.sum_losses_tile


@njit
def tile_of(margins: Any, slopes: Any, vectors: int, steps: Any, sums: Any) -> None:
    tile(
        margins.ctypes.data,
        slopes.ctypes.data,
        BLOCK_ROWS * 8,
        len(margins),
        vectors,
        steps.ctypes.data,
        sums.ctypes.data,
    )


def tile_sums(along: Line, steps: Floats, vectors: int = MOST_VECTORS) -> list[int]:
    sums = np.full(2 * STEPS + 1, -1, np.int64)
    tile_of(along.margins, along.slopes, vectors, steps, sums)
    found: list[int] = sums.tolist()
    return found


@pytest.mark.parametrize("place", [0, 7, 8, BLOCK_ROWS - 1])
@pytest.mark.parametrize(
    ("loss", "fits"),
    [
        (LARGEST_FITTING, True),
        (2.0**-90, True),
        (LARGEST, False),
        (2.0**80, False),
        (inf, False),
        (nan, False),
    ],
)
def test_the_tile_says_which_losses_it_cannot_add(loss: float, fits: bool, place: int) -> None:
    margins = np.ones((1, BLOCK_ROWS))
    margins[0, place] = loss
    along = Line(margins, np.zeros_like(margins))
    *sums, large = tile_sums(along, np.zeros(STEPS))
    assert (large == 0) == fits
    if fits:
        whole = (BLOCK_ROWS - 1) * UNIT + floor(Fraction(loss) * UNIT)
        pairs = zip(sums[::2], sums[1::2], strict=True)
        assert [(c << (FINE_BITS - COARSE_BITS)) + f for c, f in pairs] == [whole] * STEPS
    assert_same(along, np.zeros(1))


def test_the_tile_looks_at_no_row_beyond_its_vectors() -> None:
    margins = np.full((2, BLOCK_ROWS), nan)
    margins[:, : 3 * ROWS] = 0.5
    sums = tile_sums(Line(margins, np.zeros_like(margins)), np.zeros(STEPS), vectors=3)
    assert sums == [3 * ROWS << COARSE_BITS, 0] * STEPS + [0]


# The cutting, and faults in it.


def cut_and_summed(losses: Floats, fault: str = "") -> int:
    """What a tile does with a block's losses, in NumPy; with a mistake if `fault` names one."""
    coarse_bits = COARSE_BITS + (fault == "a coarse unit of 2^-32")
    coarse = rounded(losses, coarse_bits)
    rest = losses - coarse
    fine = rounded(rest, FINE_BITS)
    if fault != "rounded to the nearest unit":
        fine -= np.where(fine > rest, 2.0**-FINE_BITS, 0.0)
    if fault == "nothing below a coarse unit":
        fine[:] = 0
    if fault == "sums in one part":
        coarse, fine = losses, np.zeros_like(losses)
    total = 0
    for part, bits in (coarse, coarse_bits), (fine, FINE_BITS):
        lanes = np.zeros(ROWS)
        for vector in part.reshape(-1, ROWS):
            lanes += vector
        total += sum(int(Fraction(lane) * 2**bits) << (FINE_BITS - bits) for lane in lanes.tolist())
    return total


def rounded(numbers: Floats, bits: int) -> Floats:
    large = 1.5 * 2.0 ** (52 - bits)
    near: Floats = (numbers + large) - large
    return near


TELLING = np.full(BLOCK_ROWS, LARGEST_FITTING)
"""A block at the edge of what fits, with losses to the last bit and below."""
TELLING[::3] = LARGEST - 2.0**-32  # half a coarse unit
TELLING[::5] = (2**53 - 1) * 2.0**-100


def test_the_faultless_cutting_passes() -> None:
    assert cut_and_summed(TELLING) == exact(TELLING)
    assert line.losses(at_0(TELLING), [0.0])[0].loss == exact(TELLING)


@pytest.mark.parametrize(
    "fault",
    [
        "a coarse unit of 2^-32",
        "rounded to the nearest unit",
        "nothing below a coarse unit",
        "sums in one part",
    ],
)
def test_a_fault_fails(fault: str) -> None:
    assert cut_and_summed(TELLING, fault) != exact(TELLING)


def test_more_than_a_lane_holds_fails() -> None:
    # Twice as much, in size or in number: the last bits of the sums are lost.
    odd = np.full(BLOCK_ROWS, 2 * LARGEST - 2.0**-COARSE_BITS)
    assert cut_and_summed(odd) != exact(odd)
    many = np.full(2 * BLOCK_ROWS, LARGEST - 2.0**-COARSE_BITS)
    assert cut_and_summed(many) != exact(many)


@pytest.mark.parametrize("fault", ["a limb", "a row", "an overflow"])
def test_the_comparison_with_the_plain_loop_fails(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(along: Line, steps: Floats) -> Limbs:
        if fault == "a row":
            along = Line(along.margins[:, 1:].copy(), along.slopes[:, 1:].copy())
        found = plain(along, steps)
        found.limbs[0, 0] ^= fault == "a limb"
        found.overflows[0] -= fault == "an overflow"
        return found

    along = at_0(np.array([0.5, 3.0, inf]))
    assert_same(along, np.zeros(1))
    monkeypatch.setitem(globals(), "fast", faulty)
    with pytest.raises(AssertionError):
        assert_same(along, np.zeros(1))
