"""Verdicts worked by hand, and findings that do not depend on how a comparison is cut."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.gradient_verdict import (
    ERROR_DECADES,
    WORST,
    Comparison,
    Findings,
    Named,
    Verdict,
    relative,
)

PASS, KINK, ROUNDOFF, WRONG = Verdict


class Row(NamedTuple):
    analytic: float
    numerical: float
    kink: float
    bound: float
    undecided: float
    verdict: Verdict


TABLE = [
    Row(2, 2, 0, 0, 0, PASS),  # equal
    Row(0, 0, 0, 0, 0, PASS),  # both are 0
    Row(2, 2.0000001, 0, 1e-6, 0, PASS),  # relative error 5e-8, within the bound
    Row(2, 2.0000001, 0, 1e-8, 0, WRONG),  # relative error 5e-8, beyond the bound
    Row(-3, -3.5, -0.5, 1e-9, 0, KINK),  # the kinks explain the error
    Row(2, 2.5, 0.5, 0, 0, KINK),  # the kinks explain it exactly
    Row(2, 2.5, 0.25, 1e-9, 0, WRONG),  # the kinks explain half of it
    Row(2, 2.5, -0.5, 1e-9, 0, WRONG),  # the kinks have the opposite sign
    Row(2, 2, 0.5, 1e-9, 0, WRONG),  # equal only because of the kinks
    Row(0, 1e-12, 0, 1e-11, 0, ROUNDOFF),  # relative error 1, within the bound
    Row(0, 1e-12, 0, 1e-13, 0, WRONG),  # relative error 1, beyond the bound
    Row(0, 1e-11, 0, 1e-11, 0, ROUNDOFF),  # exactly at the bound
    Row(0, 1e-11, 9e-12, 1.5e-11, 0, ROUNDOFF),  # the bound explains it without the kinks
    Row(2, 2.25, 0, 1e-9, 0.25, ROUNDOFF),  # explained by margins of undecided sign
    Row(2, 2.75, 0.5, 1e-9, 0.25, ROUNDOFF),  # explained by kinks and undecided margins together
    Row(2, 2.75, 0.25, 1e-9, 0.25, WRONG),  # more than both explain
    Row(math.nan, 1, 0, 1, 0, WRONG),  # nan is within no bound
    Row(1, math.nan, 0, 1, 0, WRONG),
    Row(1, 1, math.nan, 1, 0, WRONG),
    Row(1, 1, 0, math.nan, 0, WRONG),
    Row(math.nan, math.nan, 0, 1, 0, WRONG),  # nan is not equal to nan
]


@pytest.mark.parametrize("row", TABLE)
def test_verdict_of_one_coordinate_matches_the_table(row: Row) -> None:
    *numbers, verdict = row
    analytic, numerical, kink, bound, undecided = np.array(numbers, float)[:, None]
    compared = Comparison(analytic, numerical, kink, np.zeros(1, np.int64), bound, undecided)
    assert Verdict(compared.verdicts.item()) is verdict


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("where", ["analytic", "numerical"])
def test_infinite_values_are_wrong(sign: int, where: str) -> None:
    values = {"analytic": np.ones(1), "numerical": np.ones(1)} | {
        where: np.full(1, sign * math.inf)
    }
    compared = Comparison(
        **values, kinks=np.zeros(1), crossings=np.zeros(1, np.int64), bound=np.ones(1)
    )
    with np.errstate(invalid="ignore"):
        assert compared.verdicts.tolist() == [WRONG]


def test_one_comparison_of_the_whole_table_gives_the_same_verdicts() -> None:
    numbers = np.array([row[:-1] for row in TABLE], float).T
    analytic, numerical, kinks, bound, undecided = numbers
    crossings = (kinks != 0).astype(np.int64)
    compared = Comparison(analytic, numerical, kinks, crossings, bound, undecided)
    assert compared.verdicts.tolist() == [row.verdict for row in TABLE]
    found = Findings.of(compared)
    assert found.verdicts.tolist() == [
        sum(row.verdict is verdict for row in TABLE) for verdict in Verdict
    ]
    assert found.wrong == sum(row.verdict is WRONG for row in TABLE)
    assert found.crossings == 9
    assert all(named.verdict is WRONG for named in found.worst)
    assert math.isnan(found.largest.error)  # the maximum keeps nan


@pytest.mark.parametrize(
    ("analytic", "numerical", "expected"),
    [
        (0, 0, 0),
        (0, 5e-324, 1),  # the smallest positive number
        (-7, 0, 1),
        (1, -1, 2),  # the largest possible error
        (3, 4, 0.25),
        (-4, -3, 0.25),
        (1e300, 0.5e300, 0.5),  # no overflow
    ],
)
def test_relative_error_is_relative_to_the_larger_value(
    analytic: float, numerical: float, expected: float
) -> None:
    a, n = np.array([analytic], float), np.array([numerical], float)
    assert relative(np.abs(a - n), a, n).tolist() == [expected]
    zero = np.zeros(1)
    compared = Comparison(a, n, zero, np.zeros(1, np.int64), zero)
    assert compared.relative_error.tolist() == [expected]
    # Kinks of n - a explain the error exactly, because n - a is not rounded in these cases.
    explained = Comparison(a, n, n - a, np.ones(1, np.int64), zero)
    assert explained.relative_error_after_kinks.tolist() == [0]


def cut(compared: Comparison, rows: slice) -> Comparison:
    return Comparison(
        compared.analytic[rows],
        compared.numerical[rows],
        compared.kinks[rows],
        compared.crossings[rows],
        compared.bound[rows],
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(0, 20), st.integers(1, 5)),
    cuts=st.lists(st.integers(0, 20), max_size=4),
    faults=st.floats(0, 1),
    broken=st.booleans(),
)
def test_findings_do_not_depend_on_how_a_comparison_is_cut(
    seed: int, shape: tuple[int, int], cuts: list[int], faults: float, broken: bool
) -> None:
    rng = np.random.default_rng(seed)
    numerical, kinks = rng.integers(-9, 10, (2, *shape)).astype(float)
    # All errors differ, so their order is unique.
    off = (1 + rng.permutation(math.prod(shape)).reshape(shape)) * 2.0**-20
    bound = np.where(rng.random(shape) < faults, 2.0**-21, 1.0)
    compared = Comparison(
        numerical - kinks + off, numerical, kinks, rng.integers(0, 9, shape), bound
    )
    if shape[0] and broken:
        compared.analytic[rng.integers(shape[0])] = math.nan
    numbers = 100 + rng.permutation(shape[0])
    whole = Findings.of(compared, numbers)

    edges = sorted({0, shape[0], *(min(c, shape[0]) for c in cuts)})
    pieces = [slice(*edge) for edge in zip(edges, [*edges[1:], shape[0]], strict=True)]
    parts = [Findings.of(cut(compared, rows), numbers[rows]) for rows in pieces]
    while len(parts) > 1:
        i, j = rng.choice(len(parts), 2, replace=False)
        both = parts[i].combine(parts[j])
        parts = [part for k, part in enumerate(parts) if k not in {i, j}] + [both]

    np.testing.assert_array_equal(parts[0].verdicts, whole.verdicts)
    np.testing.assert_array_equal(parts[0].histograms, whole.histograms)
    np.testing.assert_array_equal(parts[0].largest, whole.largest)  # nan equals nan here
    assert parts[0].crossings == whole.crossings == compared.crossings.sum()
    assert [each.place for each in parts[0].worst] == [each.place for each in whole.worst]
    assert whole.verdicts.sum() == compared.analytic.size
    assert (whole.histograms.sum(1) == compared.analytic.size).all()


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(0, 40), wrong=st.integers(0, 40))
def test_worst_are_wrong_coordinates_then_largest_errors(seed: int, size: int, wrong: int) -> None:
    rng = np.random.default_rng(seed)
    off = rng.permutation(size).astype(np.float64) + 1
    bound = np.full(size, 100.0)
    bound[rng.permutation(size)[:wrong]] = 0.5  # these are wrong, even with a small error
    zeros = np.zeros(size)
    compared = Comparison(off, zeros, zeros, rng.integers(0, 5, size), bound)
    found = Findings.of(compared)
    order = sorted(range(size), key=lambda i: (bound[i] != 0.5, -off[i]))
    assert [each.place for each in found.worst] == [(i,) for i in order[:WORST]]
    for each in found.worst:
        [i] = each.place
        verdict = WRONG if bound[i] == 0.5 else ROUNDOFF
        assert each == Named((i,), verdict, off[i], 0, off[i], off[i], compared.crossings[i])


def test_coordinate_with_a_nan_error_is_the_first_of_the_worst() -> None:
    analytic = np.arange(24.0).reshape(4, 6)
    analytic[2, 5] = math.nan
    zeros = np.zeros((4, 6))
    compared = Comparison(analytic, zeros, zeros, np.zeros((4, 6), np.int64), zeros)
    assert Findings.of(compared).worst[0].place == (2, 5)
    assert Findings.of(compared, np.array([7, 5, 9, 1])).worst[0].place == (9, 5)


def test_places_use_the_given_row_numbers() -> None:
    # The two wrong coordinates are in rows 1 and 2, whose numbers are 30 and 20.
    analytic = np.zeros((3, 2))
    analytic[1, 0], analytic[2, 1] = 5, 6
    zeros = np.zeros((3, 2))
    compared = Comparison(analytic, zeros, zeros, np.zeros((3, 2), np.int64), zeros)
    found = Findings.of(compared, np.array([40, 30, 20]))
    assert [each.place for each in found.worst[:2]] == [(20, 1), (30, 0)]


@pytest.mark.parametrize(
    ("analytic", "numerical", "decade"),
    [
        (1, 1, -18),  # 0 has no power of 10: counted in the lowest bin
        (1 + 2.0**-52, 1, -16),
        (1 + 2.0**-38, 1, -12),
        (1, 0.98, -2),
        (1, 0, 0),
        (1, -1, 0),  # 2, the largest possible error
        (math.nan, 1, 1),  # nan: counted in the highest bin
    ],
)
def test_relative_errors_are_counted_by_power_of_ten(
    analytic: float, numerical: float, decade: int
) -> None:
    a, n, zero = np.array([analytic], float), np.array([numerical], float), np.zeros(1)
    found = Findings.of(Comparison(a, n, zero, np.zeros(1, np.int64), zero))
    expected = [int(power == decade) for power in ERROR_DECADES][:-1]
    assert found.histograms.tolist() == [expected, expected]
