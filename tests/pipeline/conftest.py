"""One cluster of two workers for all tests of the pipeline, and small stores on disk."""

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
def no_fight_for_the_dashboards_port() -> Iterator[None]:
    """Take any port: test runs beside this one want the usual one too.

    Where another process takes it between Dask's look and its listening, Tornado leaves a
    socket to the garbage collector, which is a warning, and so an error, in some later test.
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
    """The cluster with both of its workers, however the test leaves them."""
    yield cluster
    cluster.wait_for_workers(2, timeout=60)


@pytest.fixture(scope="session")
def store(cluster: Client, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Ingest a source, once a session, into a store of shards of so many rows."""
    stores: dict[tuple[str, int], Dataset] = {}
    directory = tmp_path_factory.mktemp("stores")

    def made(shard_rows: int = 701, source: str | Path = "synthetic:2000") -> Dataset:
        key = str(source), shard_rows
        if key not in stores:
            opened = open_source(str(source), workdir=directory)
            plan = plan_ingest(opened, str(directory / f"{len(stores)}.zarr"), Layout(shard_rows))
            stores[key] = ingest(cluster, plan)
        return stores[key]

    return made
