"""The objective is bit-identical to the kernel's result, wherever its rows are summed."""

from collections.abc import Iterator

import numpy as np
import pytest
from distributed import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.hinge import loss_and_gradient
from kernels.partial import Evaluation
from pipeline.cluster.actors import Actors
from pipeline.cluster.map_shards import MapShards, run_in_process
from pipeline.cluster.placement import PlacedDataset, assign_shards, place_shards, workers_of
from pipeline.cluster.shards import Shard, StreamedShard, load_shard
from pipeline.cluster.tasks import map_in_tasks
from pipeline.objective import Objective
from storage.dataset import Dataset
from storage.schema import Split
from tests.bits import bits
from tests.pipeline.conftest import Store
from tests.pipeline.workers import kill, process_ids, removals

REG = 12.5
ROWS = {
    "all": None,
    "one": np.array([1999]),
    "across shards": np.array([700, 701, 702, 1401, 1402, 1403]),
    "within one shard": np.arange(800, 900),
    "backwards": np.arange(1999, -1, -3),
    "repeated": np.array([5, 5, 5, 1500, 5, 1500, 0]),
}
EACH_ROWS = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
BOTH_TYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture(scope="module", name="W")
def some_weights() -> NDArray[np.float64]:
    return np.random.default_rng(4).normal(0, 1e-3, (10, 3073))


def loss_and_bits(evaluation: Evaluation) -> tuple[float, str]:
    return evaluation.loss, bits(evaluation.gradient)


def kernel_result(
    dataset: Dataset, W: NDArray[np.float64], rows: NDArray[np.int64] | None, dtype: str
) -> tuple[float, str]:
    images, labels = dataset.read("train", 0, dataset.rows("train"))
    picked = slice(None) if rows is None else rows
    loss, gradient = loss_and_gradient(
        W, images[picked], labels[picked], mean=dataset.mean, reg=REG, dtype=dtype
    )
    return loss, bits(gradient)


def resident(dataset: Dataset, split: Split = "train") -> list[Shard]:
    return [load_shard(dataset, split, run.start, run.stop) for run in dataset.shards(split)]


def streamed(dataset: Dataset) -> list[Shard]:
    return [StreamedShard(dataset, "train", run.start, run.stop) for run in dataset.shards("train")]


@pytest.mark.parametrize("shards", [resident, streamed])
@BOTH_TYPES
@EACH_ROWS
def test_objective_in_one_process_matches_the_kernel(
    store: Store, W: NDArray[np.float64], rows: NDArray[np.int64] | None, dtype: str, shards: object
) -> None:
    dataset = store()
    held = resident(dataset) if shards is resident else streamed(dataset)
    objective = Objective(run_in_process(held), dataset.mean, REG, dtype)
    value = objective(W, rows)
    assert loss_and_bits(value) == kernel_result(dataset, W, rows, dtype)
    assert value.rows == (2000 if rows is None else len(rows))


@pytest.fixture(scope="module")
def cluster_maps(cluster: Client, store: Store) -> Iterator[dict[str, MapShards]]:
    dataset = store()
    homes = assign_shards(dataset.rows("train"), workers_of(cluster))
    placed = place_shards(cluster, dataset, "train", homes)
    with Actors(PlacedDataset(cluster, dataset)) as actors:
        yield {"tasks": map_in_tasks(cluster, placed), "actors": actors}


@pytest.mark.parametrize("kind", ["tasks", "actors"])
@BOTH_TYPES
@EACH_ROWS
def test_objective_on_the_cluster_matches_the_kernel(
    cluster_maps: dict[str, MapShards],
    store: Store,
    W: NDArray[np.float64],
    rows: NDArray[np.int64] | None,
    dtype: str,
    kind: str,
) -> None:
    dataset = store()
    objective = Objective(cluster_maps[kind], dataset.mean, REG, dtype)
    assert loss_and_bits(objective(W, rows)) == kernel_result(dataset, W, rows, dtype)


@settings(
    max_examples=25,
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.function_scoped_fixture],
)
@given(rows=st.lists(st.integers(0, 1999), min_size=1, max_size=40))
def test_any_rows_in_any_order_match_the_kernel(
    store: Store, W: NDArray[np.float64], rows: list[int]
) -> None:
    dataset, picked = store(), np.array(rows)
    for held in (resident(dataset), streamed(dataset)):
        value = Objective(run_in_process(held), dataset.mean, REG)(W, picked)
        assert loss_and_bits(value) == kernel_result(dataset, W, picked, "float32")


def test_block_size_of_streaming_does_not_change_the_result(
    store: Store, W: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = store()
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 37)
    for rows in ROWS.values():
        value = Objective(run_in_process(streamed(dataset)), dataset.mean, REG)(W, rows)
        assert loss_and_bits(value) == kernel_result(dataset, W, rows, "float32")


def test_accuracy_is_the_fraction_of_rows_whose_label_scores_highest(
    store: Store, W: NDArray[np.float64]
) -> None:
    dataset = store()
    images, labels = dataset.read("test", 0, dataset.rows("test"))
    scores = (images - dataset.mean) @ W[:, :-1].T + W[:, -1]
    value = Objective(run_in_process(resident(dataset, "test")), dataset.mean, dtype="float64")(W)
    assert value.accuracy == np.mean(scores.argmax(axis=1) == labels)
    assert value.rows == dataset.rows("test") == 400


def test_worker_killed_after_loading_does_not_change_the_result(
    client: Client, store: Store, W: NDArray[np.float64]
) -> None:
    dataset = store(100)
    placed = place_shards(
        client, dataset, "train", assign_shards(dataset.rows("train"), workers_of(client))
    )
    (address, pid), *_ = process_ids(client).items()
    kill(pid)
    value = Objective(map_in_tasks(client, placed), dataset.mean, REG)(W)
    assert loss_and_bits(value) == kernel_result(dataset, W, None, "float32")
    assert removals(client, address)
