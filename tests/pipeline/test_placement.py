"""The plan that assigns rows to workers, and the placed shards, which must follow the plan."""

import asyncio
import pickle
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from distributed import Client, Future, LocalCluster
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.hinge import fold
from pipeline.cluster import placement, shards
from pipeline.cluster.connect import connect
from pipeline.cluster.placement import (
    MAX_SHARD_ROWS,
    PlacedDataset,
    ShardAssignment,
    Worker,
    assign_shards,
    fits_one_worker,
    place_shards,
    workers_of,
)
from pipeline.cluster.shards import ResidentShard, StreamedShard, load_shard
from pipeline.cluster.tasks import map_in_tasks
from pipeline.objective import HingeRequest, Objective, sum_hinge
from pipeline.training.parameters import GradientDescent, MiniBatches, StepPlacement
from pipeline.training.steps import resolve_placement
from storage.dataset import Dataset
from storage.errors import DataError
from storage.schema import PIXELS
from tests.pipeline.conftest import Store
from tests.pipeline.workers import held_keys, kill, process_ids, until, wait_until_released

ROW = PIXELS + 1
MEMORY = {rows: 2 * rows * ROW for rows in (10, 15, 100)}
"""Memory limits of workers, by the number of rows that may be resident there."""


def one(name: str, threads: int = 1, rows: int = 0) -> Worker:
    return Worker(name, threads, MEMORY[rows] if rows else 0)


# fmt: off
PLANS = [
    # rows, workers, each shard's worker (upper case if streamed) and first row
    (10, [one("a")], "a0"),
    (10, [one("a"), one("b")], "a0 b5"),
    (11, [one("a"), one("b")], "a0 b5"),                          # b gets the odd row
    (12, [one("a"), one("b", 3)], "a0 b3 b6 b9"),                 # one range per thread
    (2, [one("a"), one("b"), one("c"), one("d")], "b0 d1"),       # more threads than rows
    (30, [one("a", rows=100)], "a0"),
    (30, [one("a", rows=10)], "a0 A10"),                          # as many rows as fit are resident
    (40, [one("a", rows=10), one("b", rows=100)], "a0 A10 b20"),
    (40, [one("a", 2, rows=15)], "a0 A15 A20"),                   # the threads share the memory
    (40, [one("a", 2, rows=100)], "a0 a20"),
    (120_000, [one("a")], "a0 a50000 a100000"),                   # at most 50,000 rows per task
    (120_000, [one("a", rows=10)], "a0 A10 A50010 A100010"),
]
# fmt: on


@pytest.mark.parametrize(("rows", "workers", "expected"), PLANS)
def test_plan_has_the_expected_shards(rows: int, workers: list[Worker], expected: str) -> None:
    assignments = assign_shards(rows, workers)
    names = [
        assignment.worker if assignment.resident else str(assignment.worker).upper()
        for assignment in assignments
    ]
    starts = [assignment.start for assignment in assignments]
    assert " ".join(f"{name}{row}" for name, row in zip(names, starts, strict=True)) == expected


WORKERS = st.lists(
    st.tuples(st.integers(1, 8), st.sampled_from([0, 1000, 10**6, 10**8])), min_size=1, max_size=9
).map(lambda given: [Worker(f"w{i}", *each) for i, each in enumerate(given)])


@given(rows=st.integers(1, 200_000), workers=WORKERS)
def test_plan_covers_all_rows_evenly_within_the_memory(rows: int, workers: list[Worker]) -> None:
    assignments = assign_shards(rows, workers)
    stops = [assignment.stop for assignment in assignments]
    assert [assignment.start for assignment in assignments] == [
        0,
        *stops[:-1],
    ]  # every row once, in order
    assert stops[-1] == rows
    assert all(
        assignment.start < assignment.stop <= assignment.start + MAX_SHARD_ROWS
        for assignment in assignments
    )
    order = [worker.address for worker in workers]
    places = [order.index(str(assignment.worker)) for assignment in assignments]
    assert places == sorted(places)  # in the workers' order
    threads = sum(worker.threads for worker in workers)
    for worker in workers:
        own = [assignment for assignment in assignments if assignment.worker == worker.address]
        share = sum(assignment.stop - assignment.start for assignment in own)
        assert abs(share - rows * worker.threads / threads) <= 1
        held = sum(assignment.stop - assignment.start for assignment in own if assignment.resident)
        room = worker.memory // 2 // ROW if worker.memory else rows
        assert held == min(share, room)  # as much as fits, and no more


# fmt: off
FITS = [
    # rows, workers, whether all rows fit one worker
    (10, [one("a", rows=10)], True),
    (11, [one("a", rows=10)], False),
    (11, [one("a", rows=10), one("b", rows=15)], True),
    (10**9, [one("a", rows=10), one("b")], True),  # b has no limit
]
# fmt: on


@pytest.mark.parametrize(("rows", "workers", "fits"), FITS)
def test_fits_one_worker_needs_one_worker_with_room_for_all_rows(
    rows: int, workers: list[Worker], fits: bool
) -> None:
    assert fits_one_worker(rows, workers) is fits


def test_auto_placement_runs_resident_mini_batches_on_one_worker(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_workers, one_worker = StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER

    def chosen(parameters: GradientDescent | MiniBatches) -> StepPlacement:
        return resolve_placement(parameters, 1000, client)

    assert chosen(GradientDescent()) is all_workers
    assert chosen(MiniBatches()) is one_worker
    assert chosen(MiniBatches(placement=all_workers)) is all_workers
    assert chosen(GradientDescent(placement=one_worker)) is one_worker
    monkeypatch.setattr(placement, "RESIDENT_FRACTION", 1e-6)
    assert chosen(MiniBatches()) is all_workers


def test_workers_of_returns_addresses_threads_and_memory(client: Client) -> None:
    workers = workers_of(client)
    assert [worker.address for worker in workers] == sorted(process_ids(client))
    assert [worker.threads for worker in workers] == [1, 1]
    assert all(worker.memory > 2**27 for worker in workers)


def test_workers_of_returns_more_than_five_workers() -> None:
    with (
        LocalCluster(
            n_workers=7, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as many,
        Client(many) as client,
    ):
        assert len(workers_of(client)) == 7  # some versions of Dask report only five


def test_shards_are_loaded_on_their_planned_workers(client: Client, store: Store) -> None:
    dataset = store(100)
    assignments = assign_shards(dataset.rows("train"), workers_of(client))
    placed = place_shards(client, dataset, "train", assignments)
    assert {assignment.worker for assignment in assignments} == set(process_ids(client))
    where = client.who_has([future for _, future in placed])
    for assignment, future in placed:
        assert not isinstance(future, StreamedShard)
        assert list(where[future.key]) == [assignment.worker]


def test_shards_are_released_with_their_futures(client: Client, store: Store) -> None:
    dataset, before = store(100), held_keys(client)
    placed = place_shards(
        client, dataset, "train", assign_shards(dataset.rows("train"), workers_of(client))
    )
    keys = {future.key for _, future in placed if isinstance(future, Future)}
    map_in_tasks(client, placed)(sum_hinge, HingeRequest(fold(np.zeros((10, 3073)))))
    assert keys <= held_keys(client)
    placed.clear()
    wait_until_released(client, before)


def test_shards_of_a_killed_worker_are_loaded_on_another(client: Client, store: Store) -> None:
    dataset = store(100)
    (gone, pid), *_ = process_ids(client).items()
    assignments = assign_shards(dataset.rows("train"), workers_of(client))
    kill(pid)  # the plan names a worker that no longer exists when its shards are loaded
    placed = place_shards(client, dataset, "train", assignments)
    assert any(assignment.worker == gone for assignment, _ in placed)
    value = Objective(map_in_tasks(client, placed), dataset.mean)(np.zeros((10, 3073)))
    assert (value.loss, value.rows) == (9.0, 2000)


def test_split_loaded_ahead_is_loaded_once_and_without_waiting(
    client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = store()
    before, placed = held_keys(client), PlacedDataset(client, dataset)
    with monkeypatch.context() as patch:
        patch.setattr(placement, "error_of", pytest.fail)  # called only to wait
        placed.load_ahead("train")
        loading = until(lambda: len(keys := held_keys(client) - before) == 2 and keys)
    shards = placed.shards("train")
    assert {shard.key for _, shard in shards if isinstance(shard, Future)} == loading
    placed.load_ahead("train")
    assert placed.shards("train") is shards
    del shards
    placed.close()
    wait_until_released(client, before)


def test_error_of_a_split_loaded_ahead_is_raised_at_its_use(client: Client, store: Store) -> None:
    gone = replace(store(), url=store().url + ".gone", fingerprint="0" * 64)
    placed = PlacedDataset(client, gone)
    placed.load_ahead("train")
    with pytest.raises(DataError, match="cannot open train/images"):
        placed.shards("train")


def test_rows_out_of_range_raise_index_error(client: Client, store: Store) -> None:
    dataset = store(500)
    assignments = [ShardAssignment(None, 0, 500, True), ShardAssignment(None, 500, 2001, True)]
    with pytest.raises(IndexError, match="rows 500 to 2001 requested from a split of 2000 rows"):
        place_shards(client, dataset, "train", assignments)


@pytest.mark.slow
def test_two_clusters_in_one_process_do_not_mix(client: Client, store: Store) -> None:
    dataset = store()
    assignments = assign_shards(dataset.rows("train"), workers_of(client))
    with connect(workers=1) as newer:  # now Dask's default client
        placed = place_shards(client, dataset, "train", assignments)
        value = Objective(map_in_tasks(client, placed), dataset.mean)(np.zeros((10, 3073)))
        assert (value.loss, value.rows) == (9.0, 2000)
        assert newer.who_has() == {}


def test_pickled_shard_has_an_empty_memory(store: Store) -> None:
    shard = load_shard(store(), "train", 10, 30)
    shard.memory["something"] = object()
    sent = pickle.loads(pickle.dumps(shard))
    assert (sent.memory, len(shard.memory)) == ({}, 1)
    sent.memory["more"] = 1
    np.testing.assert_array_equal(sent.images, shard.images)


def test_size_of_a_resident_shard_is_its_bytes(store: Store) -> None:
    shard = load_shard(store(), "train", 10, 30)
    assert isinstance(shard, ResidentShard)
    assert shard.__sizeof__() == 20 * ROW


def peak_of_streaming(dataset: Dataset, rows: NDArray[np.int64] | None) -> int:
    """Return the peak memory in bytes while a streamed shard of all rows is summed."""
    shard = StreamedShard(dataset, "train", 0, dataset.rows("train"))
    scorer = fold(np.zeros((10, 3073)), dataset.mean)
    sum_hinge(
        shard, HingeRequest(scorer, None if rows is None else rows[:10])
    )  # compile the kernel and open the store before measuring
    tracemalloc.start()
    try:
        summed = sum_hinge(shard, HingeRequest(scorer, rows)).losses.rows
        assert summed == (len(rows) if rows is not None else shard.stop)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_streamed_shard_needs_memory_for_a_few_blocks_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = store(8000, "synthetic:8000")
    monkeypatch.setattr(shards, "STREAM_ROWS", 250)
    block = 250 * ROW
    partial = 10 * PIXELS * 8
    # Zarr needs memory for the block as read, for its parts while they are checked, and for the
    # result. Two sums and the total need additional memory.
    bound = 4 * block + 6 * partial
    assert bound < 8000 * ROW / 4  # a whole shard in memory would exceed it
    assert peak_of_streaming(dataset, None) < bound


@pytest.mark.slow
def test_chosen_rows_are_streamed_in_blocks_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = store(8000, "synthetic:8000")
    rows = np.random.default_rng(0).integers(0, 8000, 8000)
    monkeypatch.setattr(shards, "STREAM_ROWS", 250)
    small = peak_of_streaming(dataset, rows[:500])
    assert peak_of_streaming(dataset, rows) < 1.5 * small + 2**20


def test_missing_store_raises_data_error(client: Client, store: Store) -> None:
    dataset = replace(store(), url=store().url + ".gone", fingerprint="0" * 64)
    with pytest.raises(DataError, match="cannot open train/images"):
        place_shards(
            client, dataset, "train", assign_shards(dataset.rows("train"), workers_of(client))
        )


def test_workers_of_returns_all_workers_while_the_client_updates(client: Client) -> None:
    """Dask's client periodically fetches scheduler information that lists no workers."""
    loop: Any = client.loop
    asked = asyncio.run_coroutine_threadsafe(_update_for_ever(client), loop.asyncio_loop)
    try:
        assert [len(workers_of(client)) for _ in range(200)] == [2] * 200
    finally:
        asked.cancel()


async def _update_for_ever(client: Client) -> None:
    while True:
        await client._update_scheduler_info()
