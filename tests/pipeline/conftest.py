"""Fixtures: one cluster of two workers for all tests of the pipeline, and small stores on disk."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import Client

from pipeline.cluster import connect as clusters
from pipeline.cluster.connect import connect
from pipeline.ingest.write_shards import ingest
from storage.dataset import Dataset
from storage.ingest import plan_ingest
from storage.schema import Layout
from storage.sources import open_source

Store = Callable[..., Dataset]


@pytest.fixture(scope="session", autouse=True)
def any_dashboard_port() -> Iterator[None]:
    """Let dashboards use any free port, because parallel test runs want the default port too.

    If another process takes the port after Dask has found it free, Tornado leaves a socket to the
    garbage collector. The resulting warning is an error in some later test.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "_DASHBOARD_PORT", 0)
        yield


@pytest.fixture(scope="session")
def cluster() -> Iterator[Client]:
    with connect(workers=2) as client:
        yield client


@pytest.fixture
def client(cluster: Client) -> Iterator[Client]:
    """Yield the cluster. After the test, wait until both workers are running again."""
    yield cluster
    cluster.wait_for_workers(2, timeout=60)


@pytest.fixture(scope="session")
def store(cluster: Client, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a function that ingests a source into a store, once per session and shard size."""
    stores: dict[tuple[str, int], Dataset] = {}
    directory = tmp_path_factory.mktemp("stores")

    def open_store(shard_rows: int = 701, source: str | Path = "synthetic:2000") -> Dataset:
        key = str(source), shard_rows
        if key not in stores:
            opened = open_source(str(source), workdir=directory)
            plan = plan_ingest(opened, str(directory / f"{len(stores)}.zarr"), Layout(shard_rows))
            stores[key] = ingest(cluster, plan)
        return stores[key]

    return open_store
