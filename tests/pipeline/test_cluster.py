"""Connection to a scheduler with a time limit, and local clusters that listen on loopback only."""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import dask.config
import psutil  # type: ignore[import-untyped]
import pytest
from dask.utils import key_split
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster import connect as clusters
from pipeline.cluster.connect import connect, task_group
from pipeline.cluster.placement import workers_of
from pipeline.inputs.errors import PipelineError
from tests.pipeline.workers import address_of, kill, process_ids, until


@contextmanager
def running(workers: int) -> Iterator[LocalCluster]:
    """Run a cluster that the project did not start."""
    with LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster


@contextmanager
def port(*, listening: bool) -> Iterator[int]:
    """Reserve a port that accepts connections without answering, or that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listening:
            taken.listen()
        yield taken.getsockname()[1]


def refusal(address: str) -> tuple[str, float]:
    """Try to connect to an address. Return the error message, and the seconds until the error."""
    start = time.monotonic()
    with pytest.raises(PipelineError) as caught, connect(scheduler=address):
        pytest.fail("connected without a scheduler")
    return str(caught.value), time.monotonic() - start


@pytest.mark.slow
def test_scheduler_that_does_not_answer_raises_pipeline_error() -> None:
    with port(listening=False) as refuses, port(listening=True) as is_silent:
        addresses = [f"tcp://127.0.0.1:{number}" for number in (refuses, is_silent)]
        with ThreadPoolExecutor() as pool:
            refusals = list(pool.map(refusal, addresses))
    for address, (message, seconds) in zip(addresses, refusals, strict=True):
        assert seconds < 10
        assert message == (
            f"no Dask scheduler answers at {address!r} within {clusters.CONNECT_SECONDS:g} s; "
            "start one with `dask scheduler`, or omit --scheduler to use this machine"
        )


@pytest.mark.slow
def test_dashboard_address_as_scheduler_raises_pipeline_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", 2.0)
    with running(workers=1) as cluster:
        assert cluster.scheduler is not None
        dashboard = f"tcp://127.0.0.1:{cluster.scheduler.http_server.port}"
        message, seconds = refusal(dashboard)
    assert message.startswith(f"no Dask scheduler answers at {dashboard!r}")
    assert seconds < 4


@pytest.mark.parametrize(
    "address", ["nonsense", "tcp://", "foo://127.0.0.1:1", "tcp://127.0.0.1:port", "127.0.0.1:"]
)
def test_malformed_address_raises_pipeline_error(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", 1.0)
    with (
        pytest.raises(PipelineError, match=f"no Dask scheduler answers at '{address}'"),
        connect(scheduler=address),
    ):
        pytest.fail("connected without a scheduler")


def test_scheduler_without_workers_raises_pipeline_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", 0.5)
    with running(workers=0) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(PipelineError) as caught, connect(scheduler=address):
            pytest.fail("connected without workers")
    assert str(caught.value) == (
        f"the scheduler at {address} has no workers; start some with `dask worker {address}`"
    )


def test_existing_scheduler_is_used_and_left_running() -> None:
    with running(workers=2) as cluster, Client(cluster) as other:
        with connect(scheduler=cluster.scheduler_address) as client:
            assert client.scheduler_info()["id"] == other.scheduler_info()["id"]
            assert client.submit(sum, [1, 2]).result() == 3
        assert other.submit(sum, [2, 3]).result() == 5
        assert len(other.scheduler_info()["workers"]) == 2


def test_dask_configuration_can_name_the_scheduler() -> None:
    with running(workers=1) as cluster:
        address = cluster.scheduler_address
        with dask.config.set({"scheduler-address": address}):
            with connect() as client:
                assert address_of(client) == address
            with connect(workers=1) as client:  # `workers` asks for a local cluster
                assert address_of(client) != address


def test_environment_variable_can_name_the_scheduler() -> None:
    code = (
        "from pipeline.cluster.connect import connect\n"
        "with connect() as client: print(client.scheduler.address)"
    )
    with running(workers=1) as cluster:
        address = cluster.scheduler_address
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=os.environ | {"DASK_SCHEDULER_ADDRESS": address},
            capture_output=True,
            text=True,
            check=True,
        )
    assert (done.stdout.strip(), done.stderr) == (address, "")


def listeners() -> dict[tuple[int, int], str]:
    """Return the host of each socket on which this process and its children listen.

    The keys are process ids and ports.
    """
    here = psutil.Process()
    return {
        (process.pid, connection.laddr.port): connection.laddr.ip
        for process in [here, *here.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_local_cluster_listens_on_loopback_and_ends_with_its_context() -> None:
    before = listeners()
    with connect(workers=2) as client:
        new = {where: host for where, host in listeners().items() if where not in before}
        assert len(new) >= 5  # the scheduler, its dashboard, one per worker and nanny
        assert set(new.values()) == {"127.0.0.1"}
        pids = process_ids(client).values()
        assert len(set(pids)) == 2
        assert not set(pids) & {os.getpid()}
        workers = client.scheduler_info()["workers"].values()
        assert [worker["nthreads"] for worker in workers] == [1, 1]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert listeners().keys() <= before.keys()


@pytest.mark.slow
def test_worker_that_dies_repeatedly_is_restarted() -> None:
    with connect(workers=2) as client:
        survivor, dying = process_ids(client)
        first = time.monotonic()
        while time.monotonic() < first + 16:  # the worker is also dead when Dask checks after 15 s
            [pid] = client.run(os.getpid, workers=[dying]).values()
            kill(pid)
            known = {survivor, dying}
            [dying] = until(partial(new_workers, client, known))
        client.wait_for_workers(2, timeout=30)
        assert survivor in process_ids(client)


def new_workers(client: Client, known: set[str]) -> set[str]:
    return {worker.address for worker in workers_of(client)} - known


def test_dashboard_uses_another_port_if_the_default_is_taken(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with port(listening=True) as taken, caplog.at_level(logging.WARNING):
        monkeypatch.setattr(clusters, "_DASHBOARD_PORT", taken)
        with connect(workers=1) as client:
            link = client.dashboard_link
    assert f":{taken}/" not in link
    assert link.startswith("http://127.0.0.1:")
    assert not caplog.records


def test_dashboard_uses_the_default_port_if_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with port(listening=False) as number:
        pass
    monkeypatch.setattr(clusters, "_DASHBOARD_PORT", number)
    with connect(workers=1) as client:
        assert client.dashboard_link == f"http://127.0.0.1:{number}/status"


@given(noun=st.sampled_from(["hinge-load", "hinge-evaluation", "hinge-map"]))
def test_task_groups_are_unique_and_shown_by_name(noun: str) -> None:
    groups = {task_group(noun) for _ in range(100)}
    assert len(groups) == 100
    assert {key_split((group, 7)) for group in groups} == {noun}


@pytest.mark.slow
def test_task_groups_of_two_processes_differ() -> None:
    code = "from pipeline.cluster.connect import task_group; print(task_group('a'))"
    made = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(made) == 2
