"""The loss over a plane: every loss matches a separate evaluation, for all placements of shards."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray

from kernels.hinge import fold
from kernels.plane import margins_over_plane
from pipeline.cluster.actors import Actors
from pipeline.cluster.connect import connect
from pipeline.cluster.map_shards import MapShards, run_in_process
from pipeline.cluster.placement import PlacedDataset
from pipeline.cluster.shards import Block, ResidentShard, Shard, ShardMemory, StreamedShard
from pipeline.cluster.tasks import map_in_tasks
from pipeline.objective import Objective
from pipeline.slices.line import LossAlongLine
from pipeline.slices.plane import LossOverPlane
from storage.dataset import Dataset
from tests.bits import bits
from tests.pipeline.conftest import Store
from tests.pipeline.test_line import place_streamed

Floats = NDArray[np.float64]
Rows = NDArray[np.int64] | None
A, B = np.array([0.0, 1.0, -0.7, 1e-9, 40.0]), np.array([0.0, -1.0, 0.3])
ROWS: dict[str, Rows] = {
    "all": None,
    "some": np.random.default_rng(8).integers(0, 600, 250),  # unordered, with duplicates
    "one": np.array([411]),
}
EACH_ROWS = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
REGULARISERS = pytest.mark.parametrize(
    ("reg", "reg_bias"), [(0.0, False), (2e3, False), (2e3, True)]
)


@pytest.fixture(scope="module")
def dataset(store: Store) -> Dataset:
    return store(151, "synthetic:600")


def shard_bounds(dataset: Dataset, shards: int) -> list[tuple[int, int]]:
    """Split the training rows into shards of growing length; return their bounds."""
    ends = dataset.rows("train") * (np.arange(shards + 1) / shards) ** 2
    return list(pairwise(ends.astype(int).tolist()))


def resident_shards(dataset: Dataset, shards: int = 1) -> list[Shard]:
    return [
        ResidentShard(start, stop, *dataset.read("train", start, stop))
        for start, stop in shard_bounds(dataset, shards)
    ]


def streamed_shards(dataset: Dataset, shards: int = 1) -> list[Shard]:
    return [
        StreamedShard(dataset, "train", start, stop)
        for start, stop in shard_bounds(dataset, shards)
    ]


def plane_over(
    over: MapShards, dataset: Dataset, rows: Rows = None, seed: int = 4, **regulariser: Any
) -> LossOverPlane:
    """Return a plane with random weights and directions, and large biases."""
    W, U, V = np.random.default_rng(seed).normal(0, 1e-3, (3, 10, 3073))
    for weights in (W, U, V):
        weights[:, -1] *= 100
    return LossOverPlane(Objective(over, dataset.mean, **regulariser), W, U, V, rows)


def evaluations(plane: LossOverPlane, alone: Objective) -> Floats:
    points = [[plane.W + a * plane.U + b * plane.V for a in A.tolist()] for b in B.tolist()]
    return np.array([[alone(W, plane.rows).loss for W in row] for row in points])


def assert_evaluations(found: Floats, plane: LossOverPlane, dataset: Dataset) -> None:
    reg, reg_bias = plane.objective.reg, plane.objective.reg_bias
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
        alone = Objective(
            run_in_process(resident_shards(dataset)), dataset.mean, reg, dtype, reg_bias
        )
        expected = evaluations(plane, alone)
        assert len(np.unique(expected)) > 10  # the comparison is not vacuous
        np.testing.assert_allclose(found, expected, rtol=tolerance, err_msg=dtype)


@EACH_ROWS
@REGULARISERS
def test_losses_over_the_plane_match_separate_evaluations(
    dataset: Dataset, rows: Rows, reg: float, reg_bias: bool
) -> None:
    shards = run_in_process(resident_shards(dataset, 2))
    plane = plane_over(shards, dataset, rows, reg=reg, reg_bias=reg_bias)
    assert_evaluations(plane(A, B), plane, dataset)


@pytest.fixture(scope="module")
def placements(cluster: Client, dataset: Dataset) -> Iterator[dict[str, MapShards]]:
    """Yield all placements of the same 600 rows on the two workers."""
    placed_dataset = PlacedDataset(cluster, dataset)
    with Actors(placed_dataset) as actors:
        yield {
            "tasks": map_in_tasks(cluster, placed_dataset.shards("train")),
            "tasks of streamed shards": map_in_tasks(cluster, place_streamed(cluster, dataset)),
            "actors": actors,
        }


@EACH_ROWS
def test_losses_are_bit_identical_for_all_placements(
    placements: dict[str, MapShards], dataset: Dataset, monkeypatch: pytest.MonkeyPatch, rows: Rows
) -> None:
    def losses(over: MapShards) -> str:
        return bits(plane_over(over, dataset, rows, reg=2e3, reg_bias=True)(A, B))

    expected = losses(run_in_process(resident_shards(dataset)))
    found = {name: losses(over) for name, over in placements.items()}
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 37)
    for number in (1, 2, 5):
        found[f"{number} in memory"] = losses(run_in_process(resident_shards(dataset, number)))
        found[f"{number} in the store"] = losses(run_in_process(streamed_shards(dataset, number)))
    assert found == dict.fromkeys(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_losses_are_bit_identical_for_any_number_of_workers(dataset: Dataset, workers: int) -> None:
    with connect(workers=workers) as client:
        placed_dataset = PlacedDataset(client, dataset)
        with Actors(placed_dataset) as actors:
            for over in (actors, map_in_tasks(client, placed_dataset.shards("train"))):
                for rows in ROWS.values():
                    expected = plane_over(
                        run_in_process(resident_shards(dataset)), dataset, rows, reg=2e3
                    )(A, B)
                    found = plane_over(over, dataset, rows, reg=2e3)(A, B)
                    assert bits(found) == bits(expected)


@EACH_ROWS
def test_losses_at_b_0_match_the_line(dataset: Dataset, rows: Rows) -> None:
    plane = plane_over(run_in_process(resident_shards(dataset, 2)), dataset, rows)
    line = LossAlongLine(plane.objective, plane.W, plane.U, rows)
    assert plane(A, B)[0].tolist() == line(A)
    # a line computes the regulariser from the moved weights, and a plane from a quadratic form
    plane = replace(plane, objective=replace(plane.objective, reg=2e3, reg_bias=True))
    line = replace(line, objective=plane.objective)
    assert plane(A, B)[0].tolist() == pytest.approx(line(A), rel=1e-14, abs=0)


# Planted faults.


def _fold_changed(change: Callable[[Floats], Floats]) -> Callable[..., Any]:
    """Return a `fold` that changes the weights first."""
    return lambda weights, mean, dtype: fold(change(weights), mean, dtype)


def _without_bias(weights: Floats) -> Floats:
    return np.column_stack([weights[:, :-1], np.zeros(len(weights))])


def _without_last_row(block: Block) -> tuple[Any, Any]:
    images, labels = _chosen(block)
    return images[:-1], labels[:-1]


_chosen: Callable[[Block], tuple[Any, Any]] = Block.chosen.fget  # type: ignore[attr-defined]
FAULTS: dict[str, tuple[str, Any]] = {
    "directions exchanged": (
        "pipeline.slices.plane.margins_over_plane",
        lambda W, U, V, *block: margins_over_plane(W, V, U, *block),
    ),
    "row selection ignored": (
        "pipeline.cluster.shards.Block.chosen",
        property(lambda block: (block.images, block.labels)),
    ),
    "last row left out": ("pipeline.cluster.shards.Block.chosen", property(_without_last_row)),
    "blocks after the first left out": (
        "pipeline.slices.plane.concatenate_blocks",
        lambda parts, **_axis: parts[0],
    ),
    "weights rounded to float32": (
        "pipeline.slices.plane.fold",
        _fold_changed(lambda W: W.astype(np.float32).astype(np.float64)),
    ),
    "biases left out": ("pipeline.slices.plane.fold", _fold_changed(_without_bias)),
    "mean left out": (
        "pipeline.slices.plane.fold",
        lambda weights, _mean, dtype: fold(weights, None, dtype),
    ),
    "directions assumed to be orthogonal": (
        "pipeline.slices.plane.LossOverPlane._coordinates",
        property(lambda plane: np.diag([np.linalg.norm(W) for W in (plane.U, plane.V, plane.W)])),
    ),
}


def plane_over_mixed_shards(dataset: Dataset) -> LossOverPlane:
    """Return a plane over one shard in memory and one streamed shard."""
    shards = [resident_shards(dataset, 2)[0], streamed_shards(dataset, 2)[1]]
    return plane_over(run_in_process(shards), dataset, ROWS["some"], reg=2e3, reg_bias=True)


def test_correct_plane_passes_the_checks(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 37)
    plane = plane_over_mixed_shards(dataset)
    assert_evaluations(plane(A, B), plane, dataset)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_detected(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 37)
    plane = plane_over_mixed_shards(dataset)
    with monkeypatch.context() as patch:
        patch.setattr(*FAULTS[fault])
        found = plane(A, B)
    with pytest.raises(AssertionError):
        assert_evaluations(found, plane, dataset)


# Shard memory.


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the passes over images for planes in this process; return the count as `[n]`."""
    passes = [0]

    def counting(*given: Any) -> Any:
        passes[0] += 1
        return margins_over_plane(*given)

    monkeypatch.setattr("pipeline.slices.plane.margins_over_plane", counting)
    return passes


@EACH_ROWS
def test_repeated_requests_take_one_pass_per_shard(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, rows: Rows
) -> None:
    passes = count_passes(monkeypatch)
    over = run_in_process(resident_shards(dataset, 5))
    plane = plane_over(over, dataset, rows)
    plane(A, B)
    plane(B, A * 2)
    again = None if rows is None else rows.copy()
    plane_over(over, dataset, again, reg=1.0)(A, B)  # equal weights and rows
    assert passes == [5]


def planes(first: LossOverPlane, second: LossOverPlane) -> dict[str, LossOverPlane]:
    """Return planes that differ from `first` in one respect each."""
    mean = first.objective.mean
    return {
        "first": first,
        "other weights": replace(first, W=second.W),
        "other first direction": replace(first, U=second.U),
        "other second direction": replace(first, V=second.V),
        "directions exchanged": replace(first, U=first.V, V=first.U),
        "other mean": replace(first, objective=replace(first.objective, mean=mean + 1)),
        "some rows": replace(first, rows=np.arange(0, 600, 7)),
        "as many other rows": replace(first, rows=np.arange(1, 600, 7)),
        "one row": replace(first, rows=ROWS["one"]),
    }


def assert_memory_is_not_reused(dataset: Dataset, passes: list[int]) -> None:
    def over(shards: Sequence[Shard]) -> dict[str, LossOverPlane]:
        first, second = (plane_over(run_in_process(shards), dataset, seed=seed) for seed in (1, 2))
        return planes(first, second)

    fresh = {name: over(resident_shards(dataset, 2))[name](A, B).tolist() for name in over([])}
    assert len({str(losses) for losses in fresh.values()}) == len(fresh)
    passes[0], asked = 0, over(resident_shards(dataset, 2))
    for _ in range(2):
        for name, plane in asked.items():
            assert plane(A, B).tolist() == fresh[name], name
    assert passes == [2 * 2 * len(fresh)]  # every request takes a new pass per shard


def test_shard_memory_is_not_reused_for_another_plane(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_memory_is_not_reused(dataset, count_passes(monkeypatch))


def test_reusing_shard_memory_for_any_plane_is_detected(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recall_whatever(
        memory: ShardMemory, name: str, inputs: Sequence[Any], find: Callable[[], Any]
    ) -> Any:
        return memory.setdefault(name, find())

    monkeypatch.setattr(ShardMemory, "recall", recall_whatever)
    with pytest.raises(AssertionError, match="other weights"):
        assert_memory_is_not_reused(dataset, count_passes(monkeypatch))


def test_shard_memory_keeps_a_line_and_a_plane(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = count_passes(monkeypatch)
    plane = plane_over(run_in_process(resident_shards(dataset)), dataset)
    line = LossAlongLine(plane.objective, plane.W, plane.U)
    for _ in range(2):
        assert plane(A, B)[0].tolist() == line(A)
    assert passes == [1]


def test_weights_changed_in_place_are_evaluated_again(dataset: Dataset) -> None:
    plane = plane_over(run_in_process(resident_shards(dataset)), dataset)
    before = plane(A, B)
    moved = replace(plane, W=plane.W)  # the same array
    plane.W[3, 5] += 0.01
    after = moved(A, B)
    alone = Objective(run_in_process(resident_shards(dataset)), dataset.mean, dtype="float64")
    assert (after != before).all()
    np.testing.assert_allclose(after, evaluations(moved, alone), rtol=1e-12)


# Errors.


@pytest.mark.parametrize("a", [np.nan, np.inf])
def test_non_finite_points_raise_value_error(dataset: Dataset, a: float) -> None:
    plane = plane_over(run_in_process(resident_shards(dataset)), dataset, ROWS["one"])
    for given in ((np.array([a]), B), (A, np.array([a]))):
        with pytest.raises(ValueError, match="finite numbers"):
            plane(*given)


def test_empty_rows_raise_value_error(dataset: Dataset) -> None:
    plane = plane_over(run_in_process(resident_shards(dataset, 2)), dataset, np.array([], np.int64))
    with pytest.raises(ValueError, match="over no rows"):
        plane(A, B)
