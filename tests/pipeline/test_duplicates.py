"""Many copies of a few images have a loss and gradient bit-identical to those of the images."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray

from kernels.partial import Evaluation, Partial
from pipeline import objective
from pipeline.cluster.map_shards import run_in_process
from pipeline.cluster.placement import PlacedDataset
from pipeline.cluster.shards import ResidentShard
from pipeline.cluster.tasks import map_in_tasks
from pipeline.objective import Objective
from pipeline.reproduce.duplicates import (
    COPIES,
    ORIGINALS,
    OriginalsAndCopies,
    evaluate_copies,
)
from storage.dataset import Dataset
from tests.bits import bits
from tests.pipeline.conftest import Store
from tests.pipeline.test_line import resident_shards, streamed_shards

Floats = NDArray[np.float64]
COPIED = 7
"""Copies per original. The number is not a power of two, so the significands of 1/N differ."""


@pytest.fixture(scope="module", name="W")
def weights() -> Floats:
    W = np.random.default_rng(4).normal(0, 1e-3, (10, 3073))
    W[:, -1] *= 100
    return W


def loss_and_bits(value: Evaluation) -> tuple[float, str, float]:
    return value.loss, bits(value.gradient), value.accuracy


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reg", [0.0, 12.5])
def test_copies_and_originals_are_bit_identical(
    store: Store, W: Floats, dtype: str, reg: float
) -> None:
    dataset = store()
    found = [
        evaluate_copies(
            Objective(run_in_process(shards), dataset.mean, reg, dtype), W, 2000, 3, COPIED
        )
        for shards in (resident_shards(dataset), streamed_shards(dataset))
    ]
    for each in found:
        assert each.same_bits
        assert (each.originals.rows, each.copies.rows) == (ORIGINALS, COPIED * ORIGINALS)
        assert (
            loss_and_bits(each.originals)
            == loss_and_bits(each.copies)
            == loss_and_bits(found[0].originals)
        )
        assert min(each.seconds_originals, each.seconds_copies) > 0


def evaluate_in_numpy(dataset: Dataset, W: Floats, rows: NDArray[np.int64]) -> tuple[float, Floats]:
    """Return the mean hinge loss and its gradient."""
    images, labels = (array[rows] for array in dataset.read("train", 0, 2000))
    X, own = np.column_stack([images - dataset.mean, np.ones(len(rows))]), np.eye(10)[labels]
    scores = X @ W.T
    margins = np.where(own, 0.0, scores - (scores * own).sum(1, keepdims=True) + 1)
    counts = (margins > 0).astype(float)
    counts -= own * counts.sum(1, keepdims=True)
    return float(np.maximum(margins, 0).sum() / len(rows)), counts.T @ X / len(rows)


def test_copies_match_the_originals_in_numpy(store: Store, W: Floats) -> None:
    dataset = store()
    map_shards = Objective(run_in_process(resident_shards(dataset)), dataset.mean, dtype="float64")
    found = evaluate_copies(map_shards, W, 2000, 3, COPIED)
    sequence = np.random.SeedSequence(3, spawn_key=(6, 0))
    generator = np.random.Generator(np.random.Philox(sequence))
    few = generator.choice(2000, 1000, replace=False, shuffle=False)
    loss, gradient = evaluate_in_numpy(dataset, W, few)
    assert found.copies.loss == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(found.copies.gradient, gradient, rtol=1e-9, atol=1e-12)


def test_fewer_rows_than_originals_are_all_copied(store: Store, W: Floats) -> None:
    dataset = store()
    found = evaluate_copies(
        Objective(run_in_process(resident_shards(dataset)), dataset.mean), W, 30, 3, COPIED
    )
    assert (found.originals.rows, found.copies.rows, found.same_bits) == (30, 30 * COPIED, True)
    assert loss_and_bits(found.originals) == loss_and_bits(
        Objective(run_in_process(resident_shards(dataset)), dataset.mean)(W, _30)
    )


_30 = np.arange(30)


def test_results_on_the_cluster_are_bit_identical(client: Client, store: Store, W: Floats) -> None:
    dataset = store()
    map_shards = map_in_tasks(client, PlacedDataset(client, dataset).shards("train"))
    found = evaluate_copies(Objective(map_shards, dataset.mean), W, 2000, 3, COPIED)
    alone = evaluate_copies(
        Objective(run_in_process(resident_shards(dataset)), dataset.mean), W, 2000, 3, 1
    )
    assert found.same_bits
    assert loss_and_bits(found.copies) == loss_and_bits(alone.originals)


@pytest.mark.slow
def test_as_many_copies_as_in_the_notes_are_bit_identical(store: Store, W: Floats) -> None:
    dataset = store()
    found = evaluate_copies(
        Objective(run_in_process(resident_shards(dataset)), dataset.mean), W, 2000, 0
    )
    assert found.copies.rows == ORIGINALS * COPIES == 1_200_000
    assert found.same_bits


@pytest.mark.slow
def test_sums_beyond_32_bits_are_exact(W: Floats) -> None:
    """One white image, with all nine margins active, adds 9 x 255 for each of a million copies."""
    white = ResidentShard(0, 1, np.full((1, 3072), 255, np.uint8), np.zeros(1, np.uint8))
    found = evaluate_copies(
        Objective(run_in_process([white]), np.zeros(3072)), np.zeros_like(W), 1, 0, 1_000_001
    )
    assert found.same_bits
    assert found.copies.loss == 9.0
    assert (found.copies.gradient[0, :-1] == -9 * 255).all()


# Planted faults.


class Faulty(Objective):
    """An objective with a fault in evaluations over many rows."""

    def __call__(self, W: Floats, rows: NDArray[np.int64] | None = None) -> Evaluation:
        assert rows is not None
        if len(rows) <= ORIGINALS:
            return super().__call__(W, rows)
        return self.of_many(W, rows)

    def of_many(self, W: Floats, rows: NDArray[np.int64]) -> Evaluation:
        raise NotImplementedError


class OneRowMissing(Faulty):
    def of_many(self, W: Floats, rows: NDArray[np.int64]) -> Evaluation:
        return Objective.__call__(self, W, rows[:-1])


class AnotherRow(Faulty):
    def of_many(self, W: Floats, rows: NDArray[np.int64]) -> Evaluation:
        return Objective.__call__(self, W, np.append(rows[:-1], rows[0]))


class FloatsAdded(Faulty):
    """A running mean over batches, in floating point."""

    def of_many(self, W: Floats, rows: NDArray[np.int64]) -> Evaluation:
        loss, seen = 0.0, 0
        for some in np.array_split(rows, 61):
            part = Objective.__call__(self, W, some)
            seen += part.rows
            loss += (part.loss - loss) * part.rows / seen
        return replace(Objective.__call__(self, W, rows), loss=loss)


@pytest.mark.parametrize("faulty", [OneRowMissing, AnotherRow, FloatsAdded])
def test_planted_faults_are_detected(store: Store, W: Floats, faulty: type[Faulty]) -> None:
    dataset = store()
    found = evaluate_copies(
        faulty(run_in_process(resident_shards(dataset)), dataset.mean), W, 2000, 3, COPIED
    )
    assert found.copies.loss == pytest.approx(found.originals.loss, rel=0.01)  # a small fault
    assert not found.same_bits


def test_multiplying_by_a_rounded_1_over_n_is_detected(
    store: Store, W: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If 1/N is rounded before the product, the bits depend on the number of copies."""

    def finalized(total: Partial, W: Floats, mean: Floats, **_: Any) -> Evaluation:
        part = 1 / total.losses.rows
        bias = total.indicators[:, None] * part
        gradient = np.column_stack([total.gradient * part - bias * mean, bias])
        return Evaluation(total.losses.mean, gradient, 0.0, total.losses.rows)

    monkeypatch.setattr(objective, "finalize", finalized)
    dataset = store()
    found = evaluate_copies(
        Objective(run_in_process(resident_shards(dataset)), dataset.mean), W, 2000, 3, COPIED
    )
    assert found.originals.loss == found.copies.loss
    np.testing.assert_allclose(found.copies.gradient, found.originals.gradient, atol=1e-9)
    assert not found.same_bits


def test_copies_are_evaluated_as_additional_rows(
    store: Store, W: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the copies were not evaluated, the results would be bit-identical in any case."""
    asked = list[int]()

    class Counting(Objective):
        def __call__(self, W: Floats, rows: NDArray[np.int64] | None = None) -> Evaluation:
            assert rows is not None
            asked.append(len(rows))
            return super().__call__(W, rows)

    dataset = store()
    evaluate_copies(
        Counting(run_in_process(resident_shards(dataset)), dataset.mean), W, 2000, 3, COPIED
    )
    assert asked == [ORIGINALS, ORIGINALS, COPIED * ORIGINALS]


Change = Callable[[Evaluation], Evaluation]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda value: value, True),
        # the number of rows may differ: copies have more rows than originals
        (lambda value: replace(value, rows=2000), True),
        # the last bit of the loss, and of one element of the gradient
        (lambda value: replace(value, loss=float(np.nextafter(value.loss, 9))), False),
        (lambda value: replace(value, gradient=_moved(value.gradient)), False),
    ],
)
def test_same_bits_compares_loss_and_gradient_exactly(change: Change, same: bool) -> None:
    value = Evaluation(1.5, np.full((10, 3073), 0.1), 0.5, 1000)
    assert OriginalsAndCopies(value, change(value), 0.0, 0.0).same_bits is same


def _moved(gradient: Floats) -> Floats:
    moved = gradient.copy()
    moved[-1, -1] = np.nextafter(moved[-1, -1], 1)
    return moved
