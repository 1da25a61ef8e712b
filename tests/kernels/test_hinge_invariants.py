"""Invariants of the objective for any weights: position, order, grouping, scale, convexity."""

from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.compiled import gradient as loops
from kernels.exact_sum import LossSum
from kernels.hinge import Scorer, fold, loss_and_gradient, scores, sum_rows
from kernels.partial import Partial
from kernels.simd import tiles as vector
from tests.bits import bits
from tests.kernels.cases import Case, cases

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Block(NamedTuple):
    """Rows whose scores are rounded, so that a change of order would change the result."""

    scorer: Scorer
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    rng: np.random.Generator
    """For anything else that a test draws."""


@st.composite
def blocks(draw: st.DrawFn, dtype: type = np.float32, max_classes: int = 12) -> Block:
    """Draw up to about three blocks of the compiled loops."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    classes = draw(st.integers(2, max_classes), label="classes")
    rows = draw(st.integers(1, 3 * loops.BLOCK_ROWS + 5), label="rows")
    columns = draw(st.sampled_from([5, 64, 100, 192]), label="columns")
    images = rng.integers(0, 256, (rows, columns), dtype=np.uint8)
    W = rng.normal(scale=0.01, size=(classes, columns + 1))
    labels = rng.integers(0, classes, rows).astype(np.uint8)
    return Block(fold(W, rng.random(columns) * 255, dtype), images, labels, rng)


def assert_same(a: Partial, b: Partial) -> None:
    """Assert that every field of two sums contains the same integers."""
    np.testing.assert_array_equal(a.gradient, b.gradient)
    np.testing.assert_array_equal(a.indicators, b.indicators)
    assert (a.losses, a.correct) == (b.losses, b.correct)


@dtypes
@given(data=st.data())
def test_partial_does_not_depend_on_partition_and_order(dtype: type, data: st.DataObject) -> None:
    scorer, images, labels, rng = data.draw(blocks(dtype))
    whole = sum_rows(scorer, images, labels)
    cuts = data.draw(st.lists(st.integers(0, len(images)), max_size=6), label="cuts")
    parts = [
        sum_rows(scorer, images[rows], labels[rows])
        if data.draw(st.booleans(), label="copied")
        else sum_rows(scorer, images, labels, rows=rows)
        for rows in np.split(rng.permutation(len(images)), sorted(cuts))
    ]
    parts.append(Partial.zero(*scorer.weights.shape))
    while len(parts) > 1:  # combine any two until one is left
        i, j = rng.choice(len(parts), 2, replace=False)
        both = parts[i].combine(parts[j])
        parts = [part for k, part in enumerate(parts) if k not in {i, j}] + [both]
    assert_same(parts[0], whole)


@dtypes
@given(data=st.data())
def test_scores_of_a_row_do_not_depend_on_its_position(dtype: type, data: st.DataObject) -> None:
    scorer, images, _, rng = data.draw(blocks(dtype))
    whole = scores(scorer, images)
    rows = rng.integers(0, len(images), rng.integers(1, 2 * len(images) + 1))
    assert bits(scores(scorer, images[rows])) == bits(whole[rows])
    start = data.draw(st.integers(0, len(images) - 1), label="start")
    assert bits(scores(scorer, images[start:])) == bits(whole[start:])
    for i in rng.integers(0, len(images), 3):
        assert bits(scores(scorer, images[i : i + 1])) == bits(whole[i : i + 1])


@dtypes
@given(data=st.data())
def test_scores_of_a_class_do_not_depend_on_other_classes(dtype: type, data: st.DataObject) -> None:
    scorer, images, _, rng = data.draw(blocks(dtype))
    some = rng.permutation(len(scorer.offset))[: rng.integers(1, len(scorer.offset) + 1)]
    fewer = Scorer(scorer.weights[some], scorer.offset[some])
    assert bits(scores(fewer, images)) == bits(
        np.ascontiguousarray(scores(scorer, images)[:, some])
    )


@dtypes
@pytest.mark.parametrize("as_bytes", [True, False])
@given(data=st.data())
def test_tiled_scores_match_plain_scores_bit_for_bit(
    dtype: type, as_bytes: bool, data: st.DataObject
) -> None:
    scorer, pixels, _, _ = data.draw(blocks(dtype))
    images: NDArray[Any] = pixels if as_bytes else (pixels / 7).astype(dtype)
    columns = -images.shape[1] % vector.VECTOR_BYTES
    padded = np.pad(images, ((0, 0), (0, columns)))
    weights = np.pad(scorer.weights, ((0, 0), (0, columns)))
    plain = np.empty((len(images), len(scorer.offset)), scorer.weights.dtype)
    loops.plain_scores(padded, np.arange(len(images)), weights, scorer.offset, plain)
    assert bits(scores(scorer, images)) == bits(plain)
    # They match NumPy's scores, up to the rounding of up to 192 products in any order.
    exact = images.astype(np.float64) @ scorer.weights.T.astype(np.float64) + scorer.offset
    size = np.abs(images).astype(np.float64) @ np.abs(scorer.weights.T) + np.abs(scorer.offset)
    assert np.all(np.abs(plain - exact) <= 200 * np.finfo(dtype).eps * size)


@given(data=st.data())
def test_sums_with_tiles_match_sums_without(data: st.DataObject) -> None:
    block = data.draw(blocks(max_classes=128))
    scorer, images, labels, _ = block
    assert_same(
        sum_rows(scorer, images, labels, tiles=True),
        sum_rows(scorer, images, labels, tiles=False),
    )


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("classes", [2, 9, 10, 11, 125, 126, 127, 128])
def test_gradient_is_exact_at_the_largest_factors(classes: int, tiles: bool) -> None:
    # Zero weights and delta 1: every margin is 1, so k is -(C - 1) at the label, else 1.
    images = np.full((131, 64), 255, np.uint8)
    labels = np.full(131, classes - 1, np.uint8)
    scorer = Scorer(np.zeros((classes, 64), np.float32), np.zeros(classes, np.float32))
    total = sum_rows(scorer, images, labels, tiles=tiles)
    factors = np.ones((131, classes), np.int64)
    factors[:, -1] = 1 - classes
    np.testing.assert_array_equal(total.gradient, factors.T @ images.astype(np.int64))
    np.testing.assert_array_equal(total.indicators, factors.sum(0))


@pytest.mark.parametrize("tiles", [True, False])
@given(data=st.data())
def test_sums_match_sums_computed_from_the_scores(tiles: bool, data: st.DataObject) -> None:
    scorer, images, labels, _ = data.draw(blocks())
    s = scores(scorer, images)
    own = s[np.arange(len(s)), labels]
    factors = (s - own[:, None] + np.float32(1) > 0).astype(np.int64)
    factors[np.arange(len(s)), labels] = 0
    factors[np.arange(len(s)), labels] = -factors.sum(1)
    predictions = np.zeros(len(s), np.uint8)
    total = sum_rows(scorer, images, labels, predictions=predictions, tiles=tiles)
    np.testing.assert_array_equal(total.gradient, factors.T @ images.astype(np.int64))
    np.testing.assert_array_equal(total.indicators, factors.sum(0))
    np.testing.assert_array_equal(predictions, s.argmax(1))
    assert total.correct == np.sum(s.argmax(1) == labels)
    assert total.losses.rows == len(images)


@given(data=st.data())
def test_memory_layout_does_not_change_sums_and_scores(data: st.DataObject) -> None:
    scorer, images, labels, _ = data.draw(blocks())
    expected = sum_rows(scorer, images, labels)
    read_only = images.copy()
    read_only.flags.writeable = False
    spread = np.repeat(np.repeat(images, 2, axis=0), 3, axis=1)[::2, ::3]
    for other in (np.asfortranarray(images), spread, images[::-1].copy()[::-1], read_only):
        assert_same(sum_rows(scorer, other, labels), expected)
        assert bits(scores(scorer, other)) == bits(scores(scorer, images))


def objective(case: Case, W: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    _, images, labels, mean, delta, reg = case
    return loss_and_gradient(W, images, labels, mean=mean, delta=delta, reg=reg)


@given(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_shifting_all_classes_does_not_change_the_loss(case: Case, seed: int) -> None:
    case = case._replace(reg=0.0)
    shift = np.random.default_rng(seed).integers(-16, 17, case.W.shape[1]) / 8
    loss, gradient = objective(case, case.W)
    shifted_loss, shifted_gradient = objective(case, case.W + shift)
    assert shifted_loss == loss  # because all margins are exact
    np.testing.assert_array_equal(shifted_gradient, gradient)
    # The gradient along such a shift is 0, up to one rounding per entry from the division by N.
    np.testing.assert_allclose(gradient.sum(0), 0, atol=1e-10)


@given(case=cases(), power=st.integers(-6, 6))
def test_loss_scales_with_weights_and_delta(case: Case, power: int) -> None:
    factor = 2.0**power
    loss, gradient = objective(case._replace(reg=0.0), case.W)
    scaled = case._replace(delta=case.delta * factor, reg=0.0)
    scaled_loss, scaled_gradient = objective(scaled, case.W * factor)
    assert scaled_loss == loss * factor
    np.testing.assert_array_equal(scaled_gradient, gradient)


@given(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_permuting_classes_permutes_the_gradient(case: Case, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(case.W))
    renamed = case._replace(labels=np.argsort(order)[case.labels].astype(np.uint8), reg=0.0)
    loss, gradient = objective(case._replace(reg=0.0), case.W)
    renamed_loss, renamed_gradient = objective(renamed, case.W[order])
    assert renamed_loss == loss
    np.testing.assert_array_equal(renamed_gradient, gradient[order])


@given(case=cases(max_rows=30), seed=st.integers(0, 2**32 - 1))
def test_loss_is_convex_along_lines(case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=case.W.shape)
    points = [case.W + t * direction for t in np.sort(rng.normal(size=5))]
    values = [objective(case, W) for W in points]
    size = max(1.0, *(loss for loss, _ in values))
    assume(np.isfinite(size))
    # The plane of every subgradient is below the loss at all points, up to rounding.
    for W, (loss, gradient) in zip(points, values, strict=True):
        for other, (other_loss, _) in zip(points, values, strict=True):
            rise = float(np.sum(gradient * (other - W)))
            assert other_loss >= loss + rise - 1e-11 * (size + abs(rise))
    # The slopes along the line never decrease.
    slopes = [float(np.sum(gradient * direction)) for _, gradient in values]
    tolerance = 1e-11 * max(1.0, *map(abs, slopes))
    assert all(b >= a - tolerance for a, b in pairwise(slopes))


def test_partials_form_a_commutative_monoid() -> None:
    rng = np.random.default_rng(0)
    parts = [
        Partial(
            rng.integers(-9, 9, (2, 3)),
            rng.integers(-9, 9, 2),
            LossSum(*map(int, rng.integers(9, size=3))),
            int(rng.integers(9)),
        )
        for _ in range(3)
    ]
    a, b, c = parts
    assert_same(a.combine(b).combine(c), a.combine(b.combine(c)))
    assert_same(a.combine(b), b.combine(a))
    assert_same(Partial.zero(2, 3).combine(a), a)
    assert_same(reduce(Partial.combine, parts, Partial.zero(2, 3)), a.combine(b).combine(c))


def test_combine_does_not_overflow_int32() -> None:
    block = Partial(np.full((2, 3), 2**31 - 1, np.int32), np.zeros(2, np.int64), LossSum(rows=1), 0)
    np.testing.assert_array_equal(block.combine(block).gradient, 2**32 - 2)
