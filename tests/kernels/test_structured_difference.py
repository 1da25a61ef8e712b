"""Differences in every weight at once, against black boxes and the reference implementation."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import reference
from kernels.finite_difference import Scheme, numerical_gradient
from kernels.hinge import Scorer, fold
from kernels.structured_difference import (
    Differences,
    Probe,
    differences,
    quotient,
    roundoff,
    slack_of_float32,
    undecided_part,
)
from tests.kernels.cases import Case, cases
from tests.kernels.differences import Checked, assert_same_sums, in_units

Floats = NDArray[np.float64]
schemes = pytest.mark.parametrize("scheme", list(Scheme))

STEPS = st.sampled_from([2.0**-20, 2.0**-9, 2.0**-4, 1.0, 8.0])
"""Exact difference steps. With the first, only margins of `cases` that are exactly 0 cross their
kink. With the last, most margins do."""


def probe_of(case: Case, step: float, scheme: Scheme, slack: float = 0.0) -> Probe:
    return Probe(
        fold(case.W, mean_of(case), np.float64), mean_of(case), step, scheme, case.delta, slack
    )


def mean_of(case: Case) -> Floats:
    return np.zeros(case.images.shape[1]) if case.mean is None else case.mean


def hinge_sum(case: Case, W: Floats) -> float:
    scores = case.centred @ W.T
    own = scores[np.arange(len(scores)), case.labels]
    hinges = np.maximum(0.0, scores - own[:, None] + case.delta)
    return float(hinges.sum()) - len(scores) * case.delta  # the own class's margin is delta


@schemes
@settings(max_examples=60)
@given(case=cases(max_rows=5, max_columns=65, floats=False), step=STEPS)
def test_differences_match_a_black_box_exactly(scheme: Scheme, case: Case, step: float) -> None:
    # All products, sums and moves are multiples of 2^-24 below 2^20, so nothing is rounded.
    probe = probe_of(case, step, scheme)
    total = differences(probe, case.images, case.labels)
    black_box = numerical_gradient(lambda W: hinge_sum(case, W), case.W, scheme=scheme, step=step)
    np.testing.assert_array_equal(
        in_units(total.differences) * probe.unit, black_box * step * scheme.width
    )
    np.testing.assert_allclose(quotient(total, probe), black_box / len(case.labels), rtol=1e-15)


@schemes
@given(case=cases(max_rows=5, max_columns=65, floats=False), step=STEPS)
def test_departures_are_differences_minus_the_subgradient(
    scheme: Scheme, case: Case, step: float
) -> None:
    probe = probe_of(case, step, scheme)
    total = differences(probe, case.images, case.labels)
    slope = np.zeros(case.W.shape)
    for x, y in zip(case.centred.tolist(), case.labels.tolist(), strict=True):
        slope += reference.example_gradient(case.W.tolist(), x, y, case.delta)
    expected = in_units(total.differences) * probe.unit - slope * step * scheme.width
    np.testing.assert_array_equal(in_units(total.departures) * probe.unit, expected)


def crossings_of(case: Case, step: float, scheme: Scheme) -> NDArray[np.int64]:
    """Count the crossings (C, D + 1) by their definition, one margin after another."""
    counts = np.zeros(case.W.shape, np.int64)
    scores = case.centred @ case.W.T
    for x, y, s in zip(case.centred, case.labels, scores, strict=True):
        for j in set(range(len(s))) - {int(y)}:
            margin = s[j] - s[y] + case.delta
            for row, moves in ((j, x * step), (y, -x * step)):
                back = margin - moves if scheme is Scheme.CENTRED else margin
                counts[row] += (margin + moves > 0) != (back > 0)
    return counts


@schemes
@given(case=cases(max_rows=5, floats=False), step=STEPS)
def test_crossings_match_their_definition(scheme: Scheme, case: Case, step: float) -> None:
    total = differences(probe_of(case, step, scheme), case.images, case.labels)
    np.testing.assert_array_equal(total.crossings, crossings_of(case, step, scheme))


@given(case=cases(floats=False), step=STEPS)
def test_active_margins_match_their_definition(case: Case, step: float) -> None:
    probe = probe_of(case, step, Scheme.CENTRED)
    scores = case.centred @ case.W.T
    counts, sizes = np.zeros((2, len(case.W)))
    for y, s in zip(case.labels, scores, strict=True):
        margins = s - s[y] + case.delta
        margins[y] = -math.inf
        active = margins + probe.reach > 0
        counts[active] += 1
        sizes[active] += np.abs(margins[active])
        counts[y] += active.sum()
        sizes[y] += np.abs(margins[active]).sum()
    total = differences(probe, case.images, case.labels)
    assert [each.rows for each in total.active] == counts.tolist()
    assert [each.loss / 2**80 for each in total.active] == sizes.tolist()
    assert total.overflows == 0


@given(case=cases(floats=False), slack=st.sampled_from([2.0**-24, 2.0**-12, 2.0**-5, 1.0]))
def test_undecided_pixels_match_their_definition(case: Case, slack: float) -> None:
    mean, images = mean_of(case), case.images.astype(np.float64)
    offset = case.W[:, -1] - case.W[:, :-1] @ mean
    products = images @ np.abs(case.W[:, :-1]).T + np.abs(offset)
    scores = case.centred @ case.W.T
    expected = np.zeros(case.W.shape)
    for x, y, s, size in zip(case.centred, case.labels, scores, products, strict=True):
        for j in set(range(len(s))) - {int(y)}:
            if abs(s[j] - s[y] + case.delta) <= slack * (size[j] + size[y]):
                expected[[j, y]] += np.abs(x)
    total = differences(probe_of(case, 2.0**-20, Scheme.CENTRED, slack), case.images, case.labels)
    np.testing.assert_array_equal(total.undecided / 2**20, expected)
    np.testing.assert_allclose(undecided_part(total), expected / len(case.labels), rtol=1e-15)
    exact = differences(probe_of(case, 2.0**-20, Scheme.CENTRED), case.images, case.labels)
    assert not exact.undecided.any()


class Rounded(NamedTuple):
    """Rows and weights for which all results are rounded."""

    W: Floats
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    mean: Floats
    rng: np.random.Generator

    def probe(self, step: float, scheme: Scheme, slack: float = 0.0) -> Probe:
        return Probe(fold(self.W, self.mean, np.float64), self.mean, step, scheme, slack=slack)


@st.composite
def rounded(draw: st.DrawFn, max_rows: int = 300) -> Rounded:
    """Draw up to `max_rows` rows, with classes and columns that need not fill whole tiles.

    A block of the compiled loops has 256 rows.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    classes = draw(st.integers(2, 13), label="classes")
    columns = draw(st.sampled_from([1, 3, 7, 17, 63, 65, 100]), label="columns")
    rows = draw(st.integers(1, max_rows), label="rows")
    images = rng.integers(0, 256, (rows, columns), dtype=np.uint8)
    W = rng.normal(scale=draw(st.sampled_from([1e-6, 1e-3, 0.1])), size=(classes, columns + 1))
    labels = rng.integers(0, classes, rows).astype(np.uint8)
    return Rounded(W, images, labels, rng.uniform(0, 255, columns), rng)


step_sizes = st.floats(-9, 1).map(lambda power: 10.0**power)


@schemes
@settings(max_examples=60)
@given(drawn=rounded(), step=step_sizes)
def test_correct_gradient_is_within_the_rounding_bound(
    scheme: Scheme, drawn: Rounded, step: float
) -> None:
    W, images, labels, mean, _ = drawn
    checked = Checked.at(W, images, labels, mean, step=step, scheme=scheme)
    compared = checked.compare(checked.gradient())
    assert (compared.error_after_kinks <= compared.bound).all()
    # The bound is tight enough: 2^-44 of the largest margin and move, per class.
    scores = np.abs(images - mean) @ np.abs(W[:, :-1]).T + np.abs(W[:, -1])
    largest = 1 + 2 * scores.max() + checked.probe.reach
    assert (roundoff(checked.sums, checked.probe) <= len(W) * 2.0**-44 * largest / step).all()


@schemes
@settings(max_examples=10)
@given(drawn=rounded(max_rows=4), power=st.integers(-8, 3))
def test_quotient_matches_the_reference_loss_up_to_rounding(
    scheme: Scheme, drawn: Rounded, power: int
) -> None:
    W, images, labels, mean, _ = drawn
    W, images, mean = W[:, -8:], images[:, -7:], mean[-7:]
    step = 2.0**power
    checked = Checked.at(W, images, labels, mean, step=step, scheme=scheme)
    X = np.column_stack([images - mean, np.ones(len(images))]).tolist()
    black_box = numerical_gradient(
        lambda W: reference.loss(W.tolist(), X, labels.tolist()), W, scheme=scheme, step=step
    )
    # Each loss is a sum of about 12 hinges of 8 products. It is rounded about 100 times, each time
    # by 2^-53 of the size of the moved scores. A quotient has two losses, divided by h or 2 h.
    size = 13 * (1 + 2 * 255 * 8 * (np.abs(W).max() + step))
    np.testing.assert_allclose(
        quotient(checked.sums, checked.probe), black_box, rtol=0, atol=200 * 2**-53 * size / step
    )


@schemes
@settings(max_examples=40)
@given(drawn=rounded(), step=step_sizes, data=st.data())
def test_sums_do_not_depend_on_tiles_partition_and_order(
    scheme: Scheme, drawn: Rounded, step: float, data: st.DataObject
) -> None:
    _, images, labels, _, rng = drawn
    probe = drawn.probe(step, scheme, slack_of_float32(images.shape[1]))
    rows = rng.integers(0, len(images), rng.integers(1, 2 * len(images) + 1))
    whole = differences(probe, images, labels, rows=rows)
    assert_same_sums(differences(probe, images, labels, rows=rows, tiles=False), whole)
    assert whole.rows == len(rows)
    cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=4), label="cuts")
    parts = [
        differences(probe, images[some], labels[some])
        if data.draw(st.booleans(), label="copied")
        else differences(probe, images, labels, rows=some)
        for some in np.split(rng.permutation(rows), sorted(cuts))
    ]
    while len(parts) > 1:  # combine any two until one is left
        i, j = rng.choice(len(parts), 2, replace=False)
        both = parts[i].combine(parts[j])
        parts = [part for k, part in enumerate(parts) if k not in {i, j}] + [both]
    assert_same_sums(parts[0], whole)
    np.testing.assert_array_equal(quotient(parts[0], probe), quotient(whole, probe))


@schemes
def test_quotient_is_exact_for_128_classes_and_700_rows_of_one_label(scheme: Scheme) -> None:
    # 128 classes and zero weights: every margin is delta, and the own class has the largest sums.
    images = np.full((700, 3), 255, np.uint8)
    labels = np.full(700, 127, np.uint8)
    probe = Probe(Scorer(np.zeros((128, 3)), np.zeros(128)), np.zeros(3), 2.0**-9, scheme)
    total: Differences = differences(probe, images, labels)
    expected = np.tile([255.0, 255.0, 255.0, 1.0], (128, 1))
    expected[127] *= -127
    np.testing.assert_array_equal(quotient(total, probe), expected)
    assert_same_sums(differences(probe, images, labels, tiles=False), total)


def test_sums_do_not_depend_on_the_length_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (100, 9), dtype=np.uint8)
    labels = rng.integers(0, 3, 100).astype(np.uint8)
    probe = Probe(Scorer(rng.normal(size=(3, 9)), np.zeros(3)), np.full(9, 128.0), 0.1)
    whole = differences(probe, images, labels)
    monkeypatch.setattr("kernels.structured_difference.LIMB_ROWS", 3 * 17)
    assert_same_sums(differences(probe, images, labels), whole)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_non_finite_and_huge_margins_are_counted_as_overflows(value: float) -> None:
    images, labels = np.array([[1], [0]], np.uint8), np.array([0, 0], np.uint8)
    finite = Probe(Scorer(np.array([[0.0], [1.0]]), np.zeros(2)), np.zeros(1), 1e-5)
    assert differences(finite, images, labels).overflows == 0
    broken = finite._replace(scorer=Scorer(np.array([[0.0], [value]]), np.zeros(2)))
    assert differences(broken, images, labels).overflows > 0
    assert differences(broken, images, labels, tiles=False).overflows > 0


def test_quotient_of_no_rows_raises_value_error() -> None:
    probe = Probe(Scorer(np.zeros((2, 3)), np.zeros(2)), np.zeros(3), 1e-5)
    none = differences(probe, np.zeros((0, 3), np.uint8), np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="no rows"):
        quotient(none, probe)
    images, labels = np.full((2, 3), 9, np.uint8), np.array([0, 1], np.uint8)
    some = differences(probe, images, labels)
    assert_same_sums(none.combine(some), some)


@pytest.mark.parametrize(
    ("change", "images", "labels", "message"),
    [
        (
            {"step": 0.0},
            np.zeros((2, 3), np.uint8),
            np.zeros(2, np.uint8),
            "be from 1e-200 to .*, not 0",
        ),
        ({"step": -1.0}, np.zeros((2, 3), np.uint8), np.zeros(2, np.uint8), "not -1"),
        ({"step": math.nan}, np.zeros((2, 3), np.uint8), np.zeros(2, np.uint8), "not nan"),
        ({"step": math.inf}, np.zeros((2, 3), np.uint8), np.zeros(2, np.uint8), "not inf"),
        (
            {"mean": np.zeros(2)},
            np.zeros((2, 3), np.uint8),
            np.zeros(2, np.uint8),
            r"need a mean of shape \(3,\), not \(2,\)",
        ),
        (
            {"scorer": Scorer(np.zeros((4, 3), np.float32), np.zeros(4, np.float32))},
            np.zeros((2, 3), np.uint8),
            np.zeros(2, np.uint8),
            "need float64 scores, not float32",
        ),
        ({}, np.zeros((2, 3)), np.zeros(2, np.uint8), "uint8, not float64"),
        ({}, np.zeros((2, 3), np.uint8), np.zeros(2, int), "uint8, not uint8, int64"),
        ({}, np.zeros((2, 4), np.uint8), np.zeros(2, np.uint8), r"of shape \(2, 3\)"),
        ({}, np.zeros((3, 3), np.uint8), np.zeros(2, np.uint8), r"of shape \(2, 3\)"),
        ({}, np.zeros((2, 3), np.uint8), np.full(2, 4, np.uint8), r"in 0\.\.3, not 4"),
    ],
)
def test_bad_step_or_mismatched_arrays_raise_value_error(
    change: dict[str, Any], images: Any, labels: Any, message: str
) -> None:
    probe = Probe(Scorer(np.zeros((4, 3)), np.zeros(4)), np.zeros(3), 1e-5)._replace(**change)
    with pytest.raises(ValueError, match=message):
        differences(probe, images, labels)


@pytest.mark.parametrize("rows", [[0, 2], [-1], [50]])
def test_rows_that_do_not_exist_raise_value_error(rows: list[int]) -> None:
    probe = Probe(Scorer(np.zeros((4, 3)), np.zeros(4)), np.zeros(3), 1e-5)
    images, labels = np.zeros((2, 3), np.uint8), np.zeros(2, np.uint8)
    with pytest.raises(ValueError, match=r"rows must be in 0\.\.1"):
        differences(probe, images, labels, rows=np.array(rows))
