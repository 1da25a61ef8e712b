"""The request to stop, and the waits for the cluster that it ends."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from distributed import Client, as_completed

from pipeline.cluster.dask_map import dask_map
from pipeline.cluster.waiting import (
    completed,
    error_of,
    gather_results,
    in_slices,
    next_completed,
    wait_for,
    wait_for_worker,
)
from pipeline.cluster.wanted import UnwantedTaskError, check_wanted
from pipeline.inputs.stopping import (
    Interrupted,
    check_stop,
    pause,
    request_stop,
    stop_requested,
    withdraw_stop,
)
from tests.pipeline.conftest import Store
from tests.pipeline.workers import address_of, held_keys, until, wait_until_released

FREE_SECONDS = float(os.environ.get("HINGE_INTERRUPTION_SECONDS", "5"))
"""Time limit for workers to be free after their driver has died, on an idle machine."""


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    yield
    withdraw_stop()


def interrupted_after(wait: Callable[[], object]) -> float:
    """Request a stop 0.1 s after `wait` has begun. Return how long it then took to raise."""
    requested = list[float]()

    def request() -> None:
        requested.append(time.monotonic())
        request_stop()

    timer = threading.Timer(0.1, request)
    timer.start()
    try:
        with pytest.raises(Interrupted):
            wait()
        return time.monotonic() - requested[0]
    finally:
        timer.join()
        withdraw_stop()


def test_request_is_seen_until_it_is_withdrawn() -> None:
    check_stop()
    assert not stop_requested()
    request_stop()
    assert stop_requested()
    with pytest.raises(KeyboardInterrupt):
        check_stop()
    with pytest.raises(Interrupted):
        pause(0.0)
    withdraw_stop()
    check_stop()


def test_pause_takes_its_time() -> None:
    start = time.monotonic()
    pause(0.12)
    assert 0.12 <= time.monotonic() - start < 1.0


def test_request_ends_every_wait(client: Client) -> None:
    slow = client.submit(time.sleep, 3, pure=False)
    waits: dict[str, Callable[[], object]] = {
        "pause": lambda: pause(10),
        "one result": lambda: wait_for(slow),
        "results": lambda: gather_results(client, [slow]),
        "error": lambda: error_of(slow),
        "completed": lambda: next(completed(client, [slow])),
        "next completed": lambda: next_completed(client, as_completed([slow], loop=client.loop)),
        "map": lambda: list(dask_map(client)(time.sleep, [3.1])),
    }
    took = {name: interrupted_after(wait) for name, wait in waits.items()}
    assert max(took.values()) < 0.5, took


def test_waits_return_results_and_raise_errors(client: Client) -> None:
    results = client.map(divmod, [7, 8, 9], [2, 2, 2], pure=False)
    assert gather_results(client, results) == [(3, 1), (4, 0), (4, 1)]
    assert wait_for(results[1]) == (4, 0)
    assert error_of(results[0]) is None
    assert {future.key for future in completed(client, results)} == {each.key for each in results}
    assert gather_results(client, []) == []
    wait_for_worker(client, 5)

    failed, late = client.submit(divmod, 1, 0), client.submit(_fail_late)
    with pytest.raises(ZeroDivisionError):
        gather_results(client, [results[0], failed])
    assert isinstance(error_of(failed), ZeroDivisionError)
    with pytest.raises(TimeoutError, match="of the task itself"):
        wait_for(late)
    assert "of the task itself" in str(error_of(late))


def _fail_late() -> None:
    time.sleep(0.3)
    raise TimeoutError("of the task itself")


def test_slices_end_at_the_time_limit() -> None:
    waited = list[float | None]()

    def wait(seconds: float | None) -> None:
        waited.append(seconds)
        time.sleep(seconds or 0)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        in_slices(wait, lambda: False, 0.2)
    assert 3 <= len(waited) <= 6
    assert None not in waited


def count_until_unwanted(path: str) -> None:
    """Write to a file until the task is cancelled, then write the last line."""
    with open(path, "a", buffering=1) as file:  # noqa: PTH123
        try:
            while True:
                file.write(f"{os.getpid()}\n")
                time.sleep(0.02)
                check_wanted()
        except UnwantedTaskError:
            file.write("unwanted\n")
            raise


@pytest.mark.parametrize("end", ["cancel", "release", "close"])
def test_running_task_notices_that_its_result_is_no_longer_needed(
    client: Client, tmp_path: Any, end: str
) -> None:
    path = tmp_path / "lines"
    with Client(address_of(client), set_as_default=False) as other:
        future = other.submit(count_until_unwanted, str(path), pure=False)
        until(lambda: path.exists() and path.read_text())
        assert "unwanted" not in path.read_text()
        if end == "cancel":
            other.cancel([future])
        elif end == "release":
            del future
        else:
            other.close()
        until(lambda: path.read_text().endswith("unwanted\n"), 5)
        until(lambda: not _executing(client), 5)


def _executing(client: Client) -> list[str]:
    def keys(dask_worker: Any) -> list[str]:
        return [str(key) for key in dask_worker.active_threads.values()]

    return [key for own in client.run(keys).values() for key in own]


def test_outside_of_tasks_the_work_is_wanted() -> None:
    check_wanted()


LONG_WORK = """
import sys
import numpy as np
from pipeline.check.black_box import BlackBoxInputs, difference_quotients, plan_blocks
from pipeline.cluster.connect import connect
from pipeline.cluster.placement import PlacedDataset
from pipeline.inputs.weights import InitialWeights
from pipeline.search.random_search import RandomSearch, plan_blocks as plan_trials, random_search
from pipeline.training.parameters import MiniBatches, StepPlacement
from kernels.finite_difference import Scheme
from storage.dataset import open_dataset
from tests.pipeline.runs import run_on_cluster

_, address, url, kind = sys.argv
dataset = open_dataset(url)
with connect(scheduler=address) as client:
    placed = PlacedDataset(client, dataset)
    if kind == "mini-batches":
        run_on_cluster(client, dataset, MiniBatches(steps=10**6), StepPlacement.ONE_WORKER)
    elif kind == "random search":
        search = RandomSearch(trials=10**5)
        list(random_search(placed, search, plan_trials(search.trials, 512)))
    else:
        W = InitialWeights.parse("normal:1e-3").weights(10, 0)
        inputs = BlackBoxInputs(W, dataset.mean, 1e-5, Scheme.CENTRED)
        list(difference_quotients(client, placed.shards("train"), inputs,
                                  plan_blocks(np.arange(W.size))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mini-batches", "random search", "black box"])
def test_killed_driver_frees_the_workers(client: Client, store: Store, kind: str) -> None:
    dataset, before = store(5000, "synthetic:20000"), held_keys(client)
    driver = subprocess.Popen(
        [sys.executable, "-c", LONG_WORK, address_of(client), dataset.url, kind],
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    prefix = {
        "mini-batches": "hinge-minibatch",
        "random search": "hinge-random-search",
        "black box": "hinge-black-box",
    }[kind]
    try:
        until(lambda: any(prefix in key for key in _executing(client)), 180)
    finally:
        driver.kill()
        driver.wait()
    killed = time.monotonic()
    until(lambda: not _executing(client) and not any(client.processing().values()), 60)
    assert time.monotonic() - killed < FREE_SECONDS
    wait_until_released(client, before, FREE_SECONDS)
