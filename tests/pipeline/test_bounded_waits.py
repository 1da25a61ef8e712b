"""Waits on a cluster that loses its last worker, or whose scheduler hangs, end in bounded time."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from distributed import Client, LocalCluster, as_completed

from pipeline.cluster import waiting
from pipeline.cluster.placement import ShardAssignment, place_shards, workers_of
from pipeline.cluster.tasks import map_in_tasks
from pipeline.cluster.waiting import error_of, gather_results, next_completed, wait_for
from pipeline.inputs.errors import PipelineError
from pipeline.objective import Objective
from tests.dask_processes import WITHOUT_HINGE, dask_scheduler, dask_worker
from tests.pipeline.conftest import Store
from tests.pipeline.workers import until


@pytest.fixture(scope="module")
def scheduler() -> Iterator[LocalCluster]:
    """A scheduler without workers."""
    with LocalCluster(
        n_workers=0, protocol="tcp://", host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


@pytest.fixture
def lonely(scheduler: LocalCluster) -> Iterator[Client]:
    """A client of the scheduler without workers."""
    with Client(scheduler.scheduler_address) as client:
        yield client


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let waits look often and give up soon."""
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(waiting, "NOTE_SECONDS", 0.2)
    monkeypatch.setattr(waiting, "GIVE_UP_SECONDS", 0.6)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("wait", ["gather", "one", "error", "next"])
def test_wait_without_workers_says_so_and_then_fails(
    lonely: Client, wait: str, caplog: pytest.LogCaptureFixture
) -> None:
    future = lonely.submit(abs, -1)
    waits: dict[str, Callable[[], object]] = {
        "gather": lambda: gather_results(lonely, [future]),
        "one": lambda: wait_for(future),
        "error": lambda: error_of(future),
        "next": lambda: next_completed(lonely, as_completed([future], loop=lonely.loop)),
    }
    start = time.monotonic()
    with (
        caplog.at_level(logging.WARNING, logger=waiting.__name__),
        pytest.raises(PipelineError, match=r"^waited 0.6 s for the cluster: .* has no workers; "),
    ):
        waits[wait]()
    assert 0.6 <= time.monotonic() - start < 5
    assert [
        record.getMessage().startswith("waiting: the scheduler") for record in caplog.records
    ] == [True]


@pytest.mark.usefixtures("soon")
def test_wait_goes_on_when_a_worker_comes(
    scheduler: LocalCluster, lonely: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "GIVE_UP_SECONDS", 120.0)
    future = lonely.submit(abs, -1)
    with dask_worker(scheduler.scheduler_address):
        assert wait_for(future) == 1


@pytest.mark.usefixtures("soon")
def test_long_task_with_a_worker_is_waited_for(client: Client) -> None:
    assert wait_for(client.submit(_sleep, 1.5)) == 1.5


def _sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@pytest.mark.slow
@pytest.mark.usefixtures("soon")
def test_wait_for_a_scheduler_that_hangs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 0.5)
    monkeypatch.setattr(waiting, "GIVE_UP_SECONDS", 3.0)
    with dask_scheduler() as (address, process), Client(address, timeout=10) as client:
        future = client.submit(abs, -1)
        os.kill(process.pid, signal.SIGSTOP)
        waits: list[Callable[[], object]] = [lambda: wait_for(future), lambda: workers_of(client)]
        try:
            for wait in waits:
                with pytest.raises(PipelineError, match="does not answer; restart it, and resume"):
                    wait()
        finally:
            os.kill(process.pid, signal.SIGCONT)


@pytest.mark.slow
def test_worker_without_hinge_that_joins_in_mid_run_does_no_harm(
    scheduler: LocalCluster, lonely: Client, store: Store
) -> None:
    """It ends itself at its first task, which another worker then takes."""
    dataset = store()
    address = scheduler.scheduler_address
    with dask_worker(address):
        until(lambda: len(lonely.nthreads()) == 1)
        with dask_worker(address, WITHOUT_HINGE) as bad:
            until(lambda: len(lonely.nthreads()) == 2)
            assignments = [
                ShardAssignment(None, row, row + 100, True) for row in range(0, 2000, 100)
            ]
            placed = place_shards(lonely, dataset, "train", assignments)
            value = Objective(map_in_tasks(lonely, placed), dataset.mean)(np.zeros((10, 3073)))
            assert value.loss == 9.0
            assert bad.wait(timeout=30) is not None


@pytest.mark.slow
def test_only_workers_without_hinge_end_a_wait_in_one_line(
    scheduler: LocalCluster, lonely: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "GIVE_UP_SECONDS", 5.0)
    with dask_worker(scheduler.scheduler_address, WITHOUT_HINGE):
        until(lambda: len(lonely.nthreads()) == 1)
        with pytest.raises(PipelineError, match="has no workers; start some"):
            gather_results(lonely, [lonely.submit(_sleep, 0.1)])
