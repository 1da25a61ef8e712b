"""The loss over a plane over shards: each point is its own evaluation, however it is asked for."""

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
from tests.pipeline.test_line import in_the_store

Floats = NDArray[np.float64]
Rows = NDArray[np.int64] | None
A, B = np.array([0.0, 1.0, -0.7, 1e-9, 40.0]), np.array([0.0, -1.0, 0.3])
ROWS: dict[str, Rows] = {
    "all": None,
    "some": np.random.default_rng(8).integers(0, 600, 250),  # in no order, and some of them twice
    "one": np.array([411]),
}
EACH = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
REGULARISERS = pytest.mark.parametrize(
    ("reg", "reg_bias"), [(0.0, False), (2e3, False), (2e3, True)]
)


@pytest.fixture(scope="module")
def dataset(store: Store) -> Dataset:
    return store(151, "synthetic:600")


def runs(dataset: Dataset, shards: int) -> list[tuple[int, int]]:
    """Cut the training rows into so many shards, the later the longer."""
    ends = dataset.rows("train") * (np.arange(shards + 1) / shards) ** 2
    return list(pairwise(ends.astype(int).tolist()))


def resident(dataset: Dataset, shards: int = 1) -> list[Shard]:
    return [
        ResidentShard(start, stop, *dataset.read("train", start, stop))
        for start, stop in runs(dataset, shards)
    ]


def stored(dataset: Dataset, shards: int = 1) -> list[Shard]:
    return [StreamedShard(dataset, "train", start, stop) for start, stop in runs(dataset, shards)]


def plane_over(
    over: MapShards, dataset: Dataset, rows: Rows = None, seed: int = 4, **regulariser: Any
) -> LossOverPlane:
    """A plane at random, with biases that count."""
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
        alone = Objective(run_in_process(resident(dataset)), dataset.mean, reg, dtype, reg_bias)
        expected = evaluations(plane, alone)
        assert len(np.unique(expected)) > 10  # or there would be little to tell apart
        np.testing.assert_allclose(found, expected, rtol=tolerance, err_msg=dtype)


@EACH
@REGULARISERS
def test_a_point_of_the_plane_is_an_evaluation_of_its_own(
    dataset: Dataset, rows: Rows, reg: float, reg_bias: bool
) -> None:
    shards = run_in_process(resident(dataset, 2))
    plane = plane_over(shards, dataset, rows, reg=reg, reg_bias=reg_bias)
    assert_evaluations(plane(A, B), plane, dataset)


@pytest.fixture(scope="module")
def ways(cluster: Client, dataset: Dataset) -> Iterator[dict[str, MapShards]]:
    """All there are to go over the same 600 rows with the two workers."""
    placed_dataset = PlacedDataset(cluster, dataset)
    with Actors(placed_dataset) as actors:
        yield {
            "tasks": map_in_tasks(cluster, placed_dataset.shards("train")),
            "tasks of stored shards": map_in_tasks(cluster, in_the_store(cluster, dataset)),
            "actors": actors,
        }


@EACH
def test_the_ways_differ_in_no_bit(
    ways: dict[str, MapShards], dataset: Dataset, monkeypatch: pytest.MonkeyPatch, rows: Rows
) -> None:
    def losses(over: MapShards) -> str:
        return bits(plane_over(over, dataset, rows, reg=2e3, reg_bias=True)(A, B))

    expected = losses(run_in_process(resident(dataset)))
    found = {name: losses(over) for name, over in ways.items()}
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 37)
    for number in (1, 2, 5):
        found[f"{number} in memory"] = losses(run_in_process(resident(dataset, number)))
        found[f"{number} in the store"] = losses(run_in_process(stored(dataset, number)))
    assert found == dict.fromkeys(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_no_bit(dataset: Dataset, workers: int) -> None:
    with connect(workers=workers) as client:
        placed_dataset = PlacedDataset(client, dataset)
        with Actors(placed_dataset) as actors:
            for over in (actors, map_in_tasks(client, placed_dataset.shards("train"))):
                for rows in ROWS.values():
                    expected = plane_over(
                        run_in_process(resident(dataset)), dataset, rows, reg=2e3
                    )(A, B)
                    found = plane_over(over, dataset, rows, reg=2e3)(A, B)
                    assert bits(found) == bits(expected)


@EACH
def test_where_b_is_0_it_is_the_line_to_the_bit(dataset: Dataset, rows: Rows) -> None:
    plane = plane_over(run_in_process(resident(dataset, 2)), dataset, rows)
    line = LossAlongLine(plane.objective, plane.W, plane.U, rows)
    assert plane(A, B)[0].tolist() == line(A)
    # the regulariser of a line is that of the moved weights, and that of a plane a quadratic form
    plane = replace(plane, objective=replace(plane.objective, reg=2e3, reg_bias=True))
    line = replace(line, objective=plane.objective)
    assert plane(A, B)[0].tolist() == pytest.approx(line(A), rel=1e-14, abs=0)


# Faults.


def _of_others(change: Callable[[Floats], Floats]) -> Callable[..., Any]:
    """Fold other weights than the given."""
    return lambda weights, mean, dtype: fold(change(weights), mean, dtype)


def _without_bias(weights: Floats) -> Floats:
    return np.column_stack([weights[:, :-1], np.zeros(len(weights))])


def _but_the_last(block: Block) -> tuple[Any, Any]:
    images, labels = _chosen(block)
    return images[:-1], labels[:-1]


_chosen: Callable[[Block], tuple[Any, Any]] = Block.chosen.fget  # type: ignore[attr-defined]
FAULTS: dict[str, tuple[str, Any]] = {
    "directions exchanged": (
        "pipeline.slices.plane.margins_over_plane",
        lambda W, U, V, *block: margins_over_plane(W, V, U, *block),
    ),
    "rows forgotten": (
        "pipeline.cluster.shards.Block.chosen",
        property(lambda block: (block.images, block.labels)),
    ),
    "the last row forgotten": ("pipeline.cluster.shards.Block.chosen", property(_but_the_last)),
    "blocks forgotten": (
        "pipeline.slices.plane.concatenate_blocks",
        lambda parts, **_axis: parts[0],
    ),
    "rounded weights": (
        "pipeline.slices.plane.fold",
        _of_others(lambda W: W.astype(np.float32).astype(np.float64)),
    ),
    "biases left out": ("pipeline.slices.plane.fold", _of_others(_without_bias)),
    "the mean left out": (
        "pipeline.slices.plane.fold",
        lambda weights, _mean, dtype: fold(weights, None, dtype),
    ),
    "directions taken for at right angles": (
        "pipeline.slices.plane.LossOverPlane._coordinates",
        property(lambda plane: np.diag([np.linalg.norm(W) for W in (plane.U, plane.V, plane.W)])),
    ),
}


def one_of_each(dataset: Dataset) -> LossOverPlane:
    """A plane over a shard in memory and one in the store, in small blocks."""
    shards = [resident(dataset, 2)[0], stored(dataset, 2)[1]]
    return plane_over(run_in_process(shards), dataset, ROWS["some"], reg=2e3, reg_bias=True)


def test_the_faultless_passes(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 37)
    plane = one_of_each(dataset)
    assert_evaluations(plane(A, B), plane, dataset)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 37)
    plane = one_of_each(dataset)
    with monkeypatch.context() as patch:
        patch.setattr(*FAULTS[fault])
        found = plane(A, B)
    with pytest.raises(AssertionError):
        assert_evaluations(found, plane, dataset)


# What shards remember.


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the planes of this process are taken from images."""
    passes = [0]

    def counting(*given: Any) -> Any:
        passes[0] += 1
        return margins_over_plane(*given)

    monkeypatch.setattr("pipeline.slices.plane.margins_over_plane", counting)
    return passes


@EACH
def test_a_plane_is_taken_once_however_often_it_is_asked(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, rows: Rows
) -> None:
    passes = counted(monkeypatch)
    over = run_in_process(resident(dataset, 5))
    plane = plane_over(over, dataset, rows)
    plane(A, B)
    plane(B, A * 2)
    again = None if rows is None else rows.copy()
    plane_over(over, dataset, again, reg=1.0)(A, B)  # the same weights and rows again
    assert passes == [5]


def planes(first: LossOverPlane, second: LossOverPlane) -> dict[str, LossOverPlane]:
    """Pairs of planes that differ in one thing."""
    mean = first.objective.mean
    return {
        "first": first,
        "other weights": replace(first, W=second.W),
        "other first direction": replace(first, U=second.U),
        "other second direction": replace(first, V=second.V),
        "directions exchanged": replace(first, U=first.V, V=first.U),
        "other mean": replace(first, objective=replace(first.objective, mean=mean + 1)),
        "some rows": replace(first, rows=np.arange(0, 600, 7)),
        "as many others": replace(first, rows=np.arange(1, 600, 7)),
        "one row": replace(first, rows=ROWS["one"]),
    }


def assert_not_taken_for_another(dataset: Dataset, passes: list[int]) -> None:
    def over(shards: Sequence[Shard]) -> dict[str, LossOverPlane]:
        first, second = (plane_over(run_in_process(shards), dataset, seed=seed) for seed in (1, 2))
        return planes(first, second)

    fresh = {name: over(resident(dataset, 2))[name](A, B).tolist() for name in over([])}
    assert len({str(losses) for losses in fresh.values()}) == len(fresh)
    passes[0], asked = 0, over(resident(dataset, 2))
    for _ in range(2):
        for name, plane in asked.items():
            assert plane(A, B).tolist() == fresh[name], name
    assert passes == [2 * 2 * len(fresh)]  # each of two shards takes each anew, and keeps one


def test_what_a_shard_remembers_is_not_taken_for_another_planes(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_not_taken_for_another(dataset, counted(monkeypatch))


def test_what_is_remembered_whatever_is_asked_fails(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recall_whatever(
        memory: ShardMemory, name: str, inputs: Sequence[Any], find: Callable[[], Any]
    ) -> Any:
        return memory.setdefault(name, find())

    monkeypatch.setattr(ShardMemory, "recall", recall_whatever)
    with pytest.raises(AssertionError, match="other weights"):
        assert_not_taken_for_another(dataset, counted(monkeypatch))


def test_a_plane_and_a_line_are_remembered_side_by_side(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = counted(monkeypatch)
    plane = plane_over(run_in_process(resident(dataset)), dataset)
    line = LossAlongLine(plane.objective, plane.W, plane.U)
    for _ in range(2):
        assert plane(A, B)[0].tolist() == line(A)
    assert passes == [1]


def test_weights_changed_in_place_are_other_weights(dataset: Dataset) -> None:
    plane = plane_over(run_in_process(resident(dataset)), dataset)
    before = plane(A, B)
    moved = replace(plane, W=plane.W)  # the same array
    plane.W[3, 5] += 0.01
    after = moved(A, B)
    alone = Objective(run_in_process(resident(dataset)), dataset.mean, dtype="float64")
    assert (after != before).all()
    np.testing.assert_allclose(after, evaluations(moved, alone), rtol=1e-12)


# Refusals.


@pytest.mark.parametrize("a", [np.nan, np.inf])
def test_points_that_are_no_numbers_are_refused(dataset: Dataset, a: float) -> None:
    plane = plane_over(run_in_process(resident(dataset)), dataset, ROWS["one"])
    for given in ((np.array([a]), B), (A, np.array([a]))):
        with pytest.raises(ValueError, match="finite numbers"):
            plane(*given)


def test_no_rows_are_refused(dataset: Dataset) -> None:
    plane = plane_over(run_in_process(resident(dataset, 2)), dataset, np.array([], np.int64))
    with pytest.raises(ValueError, match="over no rows"):
        plane(A, B)
