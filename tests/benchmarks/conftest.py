"""Fixtures of the benchmarks: a cluster and a data set. BLAS uses two threads.

The number of threads is set before any module imports NumPy. Subprocesses inherit it.
"""

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
Report = Callable[[str], None]


@pytest.fixture(scope="session")
def client() -> Iterator["Client"]:
    from pipeline.cluster.connect import connect

    with connect(workers=WORKERS) as client:
        yield client


@pytest.fixture(scope="session")
def dataset(client: "Client", tmp_path_factory: pytest.TempPathFactory) -> "Dataset":
    """Return a data set of synthetic images, as many as CIFAR-10 contains."""
    from pipeline.ingest.write_shards import ingest
    from storage.ingest import plan_ingest
    from storage.sources import open_source

    directory = tmp_path_factory.mktemp("benchmark")
    source = open_source("synthetic", workdir=Path(directory))
    return ingest(client, plan_ingest(source, str(directory / "synthetic.zarr")))


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Return a function that prints a line to the terminal, past pytest's capture."""

    def report(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    return report
