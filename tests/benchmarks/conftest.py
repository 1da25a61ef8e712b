"""Two BLAS threads, said before anything imports NumPy, and inherited by subprocesses."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "2"

if TYPE_CHECKING:
    from distributed import Client

    from storage.dataset import Dataset

WORKERS = 2
Say = Callable[[str], None]


@pytest.fixture(scope="session")
def client() -> Iterator["Client"]:
    from pipeline.cluster.connect import connect

    with connect(workers=WORKERS) as client:
        yield client


@pytest.fixture(scope="session")
def dataset(client: "Client", tmp_path_factory: pytest.TempPathFactory) -> "Dataset":
    """As many made images as CIFAR-10 has, in a store."""
    from pipeline.ingest.write_shards import ingest
    from storage.ingest import plan_ingest
    from storage.sources import open_source

    directory = tmp_path_factory.mktemp("benchmark")
    source = open_source("synthetic", workdir=Path(directory))
    return ingest(client, plan_ingest(source, str(directory / "synthetic.zarr")))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Print past pytest's capture."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    return say
