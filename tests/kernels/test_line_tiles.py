"""The loss sums of the vector tile are bit-identical to those of the plain loop and fractions."""

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
from kernels.simd import line_tiles
from kernels.simd.line_tiles import COARSE_BITS, FINE_BITS, LARGEST, MOST_VECTORS, ROWS, STEPS

Floats = NDArray[np.float64]
UNIT = 2**FINE_BITS
LARGEST_FITTING = LARGEST * (1 - 2.0**-53)


class Limbs:
    """Sums at each step size (K, LIMBS), and the number of rows that overflow (K,)."""

    def __init__(self, steps: Floats) -> None:
        self.limbs = np.zeros((len(steps), LIMBS), np.int64)
        self.overflows = np.zeros(len(steps), np.int64)


def tiled(along: Line, steps: Floats) -> Limbs:
    """Sum as `kernels.line.losses` does: in blocks of rows and tiles of step sizes."""
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
    found, expected = tiled(along, steps), plain(along, steps)
    np.testing.assert_array_equal(found.limbs, expected.limbs)
    np.testing.assert_array_equal(found.overflows, expected.overflows)
    pairs = zip(expected.limbs, expected.overflows.tolist(), strict=True)
    expected_sums = tuple(LossSum.of_limbs(*pair, along.rows) for pair in pairs)
    assert line.losses(along, steps) == expected_sums


def line_of_losses(losses: Floats) -> Line:
    """Return rows with these losses at step size 0 and no loss at step size 1."""
    return Line(losses[None].copy(), -losses[None])


def exact(losses: Floats) -> int:
    """Return the sum in units of 2^-80, with each loss rounded down."""
    return sum(floor(Fraction(loss) * UNIT) for loss in losses.tolist())


# Comparison with the plain loop.

FULL = 2**53 - 1
DIGITS = st.sampled_from([2**52, 2**52 + 1, FULL, FULL - 1, 2**52 + 2**30, 2**53 - 2**22])
EXPONENTS = st.integers(-90, 16)
FITTING = st.builds(
    lambda digits, exponent: float(np.ldexp(digits, exponent - 52)),
    DIGITS | st.integers(2**52, FULL),
    EXPONENTS,
)
"""From 2^-90 up to the largest number below 2^17."""
HALVES = st.builds(  # near the middle of two multiples of 2^-30, 2^-31, 2^-79 or 2^-80
    lambda odd, exponent, step: float(np.nextafter(np.ldexp(odd, exponent), step)),
    st.sampled_from([1, 3, 5, 2**20 + 1, 2**40 + 1]),
    st.sampled_from([-32, -31, -80, -81]),
    st.sampled_from([0.0, 1e9]),
)
EDGES = st.sampled_from([0.0, 2.0**-81, 2.0**-80, 2.0**-31, 2.0**-32, 2.0**16.99, LARGEST_FITTING])
ROW_COUNTS = st.sampled_from([1, 7, 8, 9, 255, BLOCK_ROWS, BLOCK_ROWS + 1, 600])


@given(drawn=st.lists(FITTING | HALVES | EDGES, min_size=1, max_size=40), rows=ROW_COUNTS)
@example([LARGEST_FITTING], BLOCK_ROWS)
def test_losses_below_the_limit_are_summed_exactly(drawn: list[float], rows: int) -> None:
    losses = np.resize(drawn, rows)
    along = line_of_losses(losses)
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
def test_random_margins_match_the_plain_loop(
    seed: int, rows: int, classes: int, points: int, large: float
) -> None:
    rng = np.random.default_rng(seed)
    margins, gains = rng.normal(size=(2, classes, rows)) * 2.0 ** rng.integers(
        -90, 12, (2, classes, rows)
    )
    some = rng.random((classes, rows)) < large
    margins[some] = rng.choice([LARGEST, -LARGEST, 2.0**60, 2.0**80, inf, -inf, nan], some.sum())
    assert_same(Line(margins, gains), rng.normal(size=points) * 2.0 ** rng.integers(-60, 4, points))


# A full block loses no bit.


@pytest.mark.parametrize(
    "loss",
    [
        LARGEST_FITTING,
        2.0**16.99,
        LARGEST - 2.0**-COARSE_BITS,  # an odd number of coarse units
        LARGEST - 2.0**-32,  # the remainder is half a coarse unit
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
def test_block_of_equal_losses_is_summed_exactly(loss: float, rows: int) -> None:
    losses = np.full(rows, loss)
    assert_same(line_of_losses(losses), np.zeros(1))
    for steps in range(1, STEPS + 2):
        expected = LossSum(rows * floor(Fraction(loss) * UNIT), 0, rows)
        assert line.losses(line_of_losses(losses), np.zeros(steps)) == (expected,) * steps


def test_sums_of_a_lane_fit_in_53_bits() -> None:
    # The extremes: every loss is rounded to 2^17, or every remainder is half a coarse unit.
    assert LARGEST * MOST_VECTORS * 2**COARSE_BITS == 2**53
    assert 2.0 ** -(COARSE_BITS + 1) * MOST_VECTORS * 2**FINE_BITS == 2**53


# The choice between tile and plain loop.

tile: Any = line_tiles.sum_losses_tile


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
def test_tile_flags_losses_that_are_too_large_or_not_finite(
    loss: float, fits: bool, place: int
) -> None:
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


def test_tile_ignores_rows_beyond_its_vectors() -> None:
    margins = np.full((2, BLOCK_ROWS), nan)
    margins[:, : 3 * ROWS] = 0.5
    sums = tile_sums(Line(margins, np.zeros_like(margins)), np.zeros(STEPS), vectors=3)
    assert sums == [3 * ROWS << COARSE_BITS, 0] * STEPS + [0]


# The splitting of losses, and planted faults in it.


def split_and_summed(losses: Floats, fault: str = "") -> int:
    """Sum a block's losses in NumPy as a tile does, with an optional fault."""
    coarse_bits = COARSE_BITS + (fault == "a coarse unit of 2^-32")
    coarse = rounded(losses, coarse_bits)
    rest = losses - coarse
    fine = rounded(rest, FINE_BITS)
    if fault != "rounded to the nearest unit":
        fine -= np.where(fine > rest, 2.0**-FINE_BITS, 0.0)
    if fault == "remainders dropped":
        fine[:] = 0
    if fault == "losses not split":
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


REVEALING = np.full(BLOCK_ROWS, LARGEST_FITTING)
"""A block of losses at the limit of the tile, and of losses with bits below the unit 2^-80."""
REVEALING[::3] = LARGEST - 2.0**-32  # half a coarse unit
REVEALING[::5] = (2**53 - 1) * 2.0**-100


def test_correct_splitting_gives_the_exact_sum() -> None:
    assert split_and_summed(REVEALING) == exact(REVEALING)
    assert line.losses(line_of_losses(REVEALING), [0.0])[0].loss == exact(REVEALING)


@pytest.mark.parametrize(
    "fault",
    [
        "a coarse unit of 2^-32",
        "rounded to the nearest unit",
        "remainders dropped",
        "losses not split",
    ],
)
def test_every_planted_fault_is_detected(fault: str) -> None:
    assert split_and_summed(REVEALING, fault) != exact(REVEALING)


def test_losses_beyond_the_limits_of_a_lane_lose_bits() -> None:
    # Losses twice as large, or twice as many, lose the last bits of the sums.
    odd = np.full(BLOCK_ROWS, 2 * LARGEST - 2.0**-COARSE_BITS)
    assert split_and_summed(odd) != exact(odd)
    many = np.full(2 * BLOCK_ROWS, LARGEST - 2.0**-COARSE_BITS)
    assert split_and_summed(many) != exact(many)


@pytest.mark.parametrize("fault", ["wrong limb", "missing row", "missing overflow"])
def test_comparison_with_the_plain_loop_detects_faults(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(along: Line, steps: Floats) -> Limbs:
        if fault == "missing row":
            along = Line(along.margins[:, 1:].copy(), along.slopes[:, 1:].copy())
        found = plain(along, steps)
        found.limbs[0, 0] ^= fault == "wrong limb"
        found.overflows[0] -= fault == "missing overflow"
        return found

    along = line_of_losses(np.array([0.5, 3.0, inf]))
    assert_same(along, np.zeros(1))
    monkeypatch.setitem(globals(), "tiled", faulty)
    with pytest.raises(AssertionError):
        assert_same(along, np.zeros(1))
