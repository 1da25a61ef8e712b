"""Tasks that show the steps of the actors on the dashboard."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from dask.utils import key_split
from distributed import Client, LocalCluster, Worker

from pipeline.cluster import stretches
from pipeline.cluster.actors import Actors
from pipeline.cluster.placement import PlacedDataset
from pipeline.cluster.stretches import WorkQueue, run_stretch
from pipeline.ingest.write_shards import ingest
from pipeline.objective import Objective
from storage.dataset import Dataset
from storage.ingest import plan_ingest
from storage.schema import Layout
from storage.sources import open_source
from tests.pipeline.workers import until

NAME = "hinge-test-steps"


@contextmanager
def small_cluster(workers: int, threads: int) -> Iterator[tuple[LocalCluster, Client]]:
    """Run workers in this process."""
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield cluster, client


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    directory = tmp_path_factory.mktemp("store")
    source = open_source("synthetic:2000", workdir=directory)
    with small_cluster(1, 1) as (_, client):
        return ingest(client, plan_ingest(source, str(directory / "data.zarr"), Layout(701)))


def load(client: Client) -> dict[str, Any]:
    """Return what the scheduler knows of the workers' load."""

    def measure(dask_scheduler: Any) -> dict[str, Any]:
        names = [
            {key_split(task.key) for task in worker.processing}
            for worker in dask_scheduler.workers.values()
        ]
        return {
            "names": set().union(*names),
            "fewest": min(len(worker.processing) for worker in dask_scheduler.workers.values()),
            "idle": len(dask_scheduler.idle),
            "target": dask_scheduler.adaptive_target(),
            "closable": list(dask_scheduler.workers_to_close()),
        }

    measured: dict[str, Any] = client.run_on_scheduler(measure)
    return measured


def steps_in_thread(objective: Objective, W: np.ndarray, stop: threading.Event) -> threading.Thread:
    def take_steps() -> None:
        while not stop.is_set():
            objective(W)

    thread = threading.Thread(target=take_steps)
    thread.start()
    return thread


@pytest.mark.parametrize(("workers", "threads"), [(2, 1), (1, 2)])
def test_workers_are_never_idle_during_steps(dataset: Dataset, workers: int, threads: int) -> None:
    W = np.zeros((10, 3073))
    with small_cluster(workers, threads) as (_, client):
        with Actors(PlacedDataset(client, dataset), shown_as=NAME) as actors:
            stop = threading.Event()
            objective = Objective(actors, dataset.mean)
            thread = steps_in_thread(objective, W, stop)
            try:
                until(lambda: load(client)["fewest"] >= threads)
                deadline, loads = time.monotonic() + 3, []
                while time.monotonic() < deadline:  # over two boundaries of stretches
                    loads.append(load(client))
                    time.sleep(0.01)
            finally:
                stop.set()
                thread.join()
            computing = client.run_on_scheduler(compute_seconds, name=NAME)
        for each in loads:
            assert each["names"] == {NAME}
            assert each["fewest"] >= threads
            assert each["idle"] == 0
            assert each["target"] == workers
            assert each["closable"] == []
        assert computing >= workers * threads  # the stretches that have ended took a second each


def compute_seconds(dask_scheduler: Any, name: str) -> float:
    return float(dask_scheduler.task_prefixes[name].all_durations["compute"])


def threads_of(queue: WorkQueue, calls: int) -> set[str]:
    """Return the names of the threads that compute some slow calls."""

    def call() -> str:
        time.sleep(0.02)
        return threading.current_thread().name

    return set(queue.run([call] * calls))


@contextmanager
def serving(queue: WorkQueue, seconds: float, threads: int) -> Iterator[list[threading.Thread]]:
    """Serve the queue in threads named "stretch"."""
    stretches = [
        threading.Thread(target=queue.serve, args=(seconds, lambda: True), name="stretch")
        for _ in range(threads)
    ]
    for stretch in stretches:
        stretch.start()
    time.sleep(0.05)
    yield stretches
    for stretch in stretches:
        stretch.join(5)
        assert not stretch.is_alive()


def test_calls_run_in_the_threads_of_the_stretches() -> None:
    queue = WorkQueue("two", 2)
    with serving(queue, 0.5, 2):
        assert threads_of(queue, 4) == {"stretch"}


def test_calls_use_the_queues_own_threads_beside_and_without_stretches() -> None:
    queue = WorkQueue("beside", 2)
    with serving(queue, 0.5, 1):
        names = threads_of(queue, 4)
    assert "stretch" in names
    assert len(names) == 2
    alone = threads_of(queue, 4)
    assert "stretch" not in alone
    assert len(alone) == 2


def test_no_call_is_lost_at_the_end_of_a_stretch() -> None:
    queue = WorkQueue("end", 1)
    for _ in range(200):
        stretch = threading.Thread(target=queue.serve, args=(0.001, lambda: True))
        stretch.start()
        for number in range(10):
            assert queue.run([lambda number=number: number]) == [number]  # type: ignore[misc]
        stretch.join(5)
        assert not stretch.is_alive()


def test_error_of_a_call_is_raised_and_the_stretch_goes_on() -> None:
    queue = WorkQueue("error", 1)
    with serving(queue, 0.5, 1):
        with pytest.raises(ZeroDivisionError):
            queue.run([lambda: 1 // 0])
        assert threads_of(queue, 1) == {"stretch"}


@pytest.mark.parametrize("end", ["closed", "cancelled"])
def test_closed_queue_or_cancelled_task_ends_a_stretch_at_once(end: str) -> None:
    queue, cancelled = WorkQueue(end, 1), threading.Event()
    stretch = threading.Thread(target=queue.serve, args=(30, lambda: not cancelled.is_set()))
    stretch.start()
    time.sleep(0.02)
    if end == "closed":
        queue.close()
    else:
        cancelled.set()
    stretch.join(0.5)
    assert not stretch.is_alive()


def test_stretch_of_an_actor_elsewhere_ends_at_once() -> None:
    start = time.monotonic()
    run_stretch("no actor has this name", 30, 0)
    assert time.monotonic() - start < 1


def test_stretches_end_with_the_run(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "STRETCH_SECONDS", 300.0)
    with small_cluster(2, 1) as (_, client):
        with Actors(PlacedDataset(client, dataset), shown_as=NAME) as actors:
            objective = Objective(actors, dataset.mean)
            objective(np.zeros((10, 3073)))
            until(lambda: load(client)["fewest"] == 2)
        until(lambda: load(client)["fewest"] == 0)
        until(lambda: all(count == 0 for count in client.run(executing).values()))


def test_stretches_end_when_their_client_dies(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "STRETCH_SECONDS", 300.0)
    with small_cluster(2, 1) as (cluster, client):
        dead = Client(cluster)
        actors = Actors(PlacedDataset(dead, dataset), shown_as=NAME)
        Objective(actors, dataset.mean)(np.zeros((10, 3073)))
        until(lambda: load(client)["fewest"] == 2)
        dead.close()
        until(lambda: load(client)["fewest"] == 0)
        until(lambda: all(count == 0 for count in client.run(executing).values()))


def executing(dask_worker: Worker) -> int:
    return len(dask_worker.state.executing)


def test_worker_that_joins_is_used_and_changes_nothing(dataset: Dataset) -> None:
    W = np.random.default_rng(0).normal(0, 1e-3, (10, 3073))
    with small_cluster(1, 1) as (cluster, client):
        placed_dataset = PlacedDataset(client, dataset)
        with Actors(placed_dataset, shown_as=NAME) as actors:
            objective = Objective(actors, dataset.mean)
            before = objective(W)
            cluster.scale(2)
            client.wait_for_workers(2, timeout=30)

            def both_used() -> bool:
                after = objective(W)
                assert after.loss == before.loss
                assert np.array_equal(after.gradient, before.gradient)
                return bool(client.run_on_scheduler(actors_per_worker) == [1, 1])

            until(both_used)
            rows = {each.worker for each, _ in placed_dataset.shards("train")}
            assert len(rows) == 2


def actors_per_worker(dask_scheduler: Any) -> list[int]:
    return [len(worker.actors) for worker in dask_scheduler.workers.values()]
