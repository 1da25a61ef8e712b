"""The checks of a cluster before work goes to it: installed packages, versions, the store."""

import dataclasses
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from distributed.versions import VersionMismatchWarning

from pipeline.cluster import preflight
from pipeline.cluster.connect import connect
from pipeline.cluster.preflight import (
    DISTRIBUTIONS,
    PACKAGES,
    check_members,
    check_store,
    find_problem,
    installation_here,
    worker_versions,
)
from pipeline.inputs.errors import PipelineError
from storage.dataset import open_dataset
from tests.dask_processes import WITHOUT_HINGE, dask_scheduler, dask_worker
from tests.pipeline.conftest import Store
from tests.pipeline.workers import process_ids

OWN = installation_here()

PROBLEMS: list[tuple[dict[str, Any], list[str]]] = [
    # what differs there, and what the message contains
    ({"python": "3.99.1"}, ["Python 3.99 (here", "install the same versions"]),
    ({"versions": {**OWN.versions, "numpy": "1.0"}}, ["numpy 1.0 (here"]),
    ({"versions": {**OWN.versions, "zarr": None}}, ["zarr none (here"]),
    ({"packages": {**OWN.packages, "kernels": None}}, ["no package 'kernels'", "install hinge"]),
    ({"packages": {**OWN.packages, "storage": "/x/storage"}}, ["'storage' at /x/storage before"]),
    ({"sources": "0"}, ["other source files"]),
]


@pytest.mark.parametrize(("differs", "words"), PROBLEMS)
def test_difference_is_a_problem(differs: dict[str, Any], words: list[str]) -> None:
    problem = find_problem(OWN, dataclasses.replace(OWN, **differs))
    assert problem is not None
    assert [word for word in words if word not in problem] == []


@pytest.mark.parametrize(
    "differs",
    [
        {},
        {"python": f"{OWN.python.rpartition('.')[0]}.99"},  # another patch of the same minor
        {"executable": "/elsewhere/python"},
        {"versions": {**OWN.versions, "hinge": None}, "home": None},  # not installed, on the path
    ],
)
def test_other_differences_are_no_problem(differs: dict[str, Any]) -> None:
    assert find_problem(OWN, dataclasses.replace(OWN, **differs)) is None


def test_installation_here_describes_this_process() -> None:
    assert set(OWN.packages) == set(PACKAGES)
    assert OWN.packages["pipeline"] == str(Path(preflight.__file__).parents[1])
    assert set(OWN.versions) == set(DISTRIBUTIONS)
    assert None not in OWN.versions.values()


def test_good_cluster_passes(client: Client, store: Store) -> None:
    check_members(client)
    check_store(client, store())
    assert worker_versions(client) == {"python": OWN.python, **OWN.versions}


# -- workers and schedulers in processes of their own


@pytest.fixture(scope="module")
def scheduler() -> Iterator[LocalCluster]:
    """A scheduler without workers, which the project did not start."""
    with LocalCluster(
        n_workers=0, protocol="tcp://", host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


def refusal(address: str) -> str:
    """Return the message of the error of `connect`, which must come within seconds."""
    start = time.monotonic()
    with pytest.raises(PipelineError) as caught, connect(scheduler=address):
        pytest.fail("connected to a cluster that cannot be used")
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unharmed(worker: "subprocess.Popen[str]", address: str) -> bool:
    """Return whether the worker's process still answers its scheduler, as the same process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VersionMismatchWarning)
        client = Client(address)
    with client:
        return worker.poll() is None and [*process_ids(client).values()] == [worker.pid]


def other_numpy(directory: Path) -> Path:
    """Write what an installation of NumPy 1.0 tells about itself."""
    about = directory / "numpy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    return directory


def other_package(directory: Path, name: str) -> Path:
    """Write a package that ends any process that imports it."""
    (directory / name).mkdir()
    (directory / name / "__init__.py").write_text("raise SystemExit")
    return directory


def test_worker_without_hinge_is_refused_and_unharmed(scheduler: LocalCluster) -> None:
    address = scheduler.scheduler_address
    with dask_worker(address, WITHOUT_HINGE) as worker:
        message = refusal(address)
        assert message.startswith(f"1 of 1 workers of {address} cannot be used (tcp://127.0.0.1:")
        assert "finds no package 'pipeline' of hinge; install hinge 0.1.0 there" in message
        assert unharmed(worker, address)


def test_worker_with_another_numpy_is_refused_and_unharmed(
    scheduler: LocalCluster, tmp_path: Path
) -> None:
    address = scheduler.scheduler_address
    with dask_worker(address, path=other_numpy(tmp_path)) as worker:
        here = OWN.versions["numpy"]
        assert f"it has numpy 1.0 (here {here}); install the same" in refusal(address)
        assert unharmed(worker, address)


@pytest.mark.parametrize("name", ["storage", "flows"])
def test_worker_with_a_shadowing_package_is_refused_and_unharmed(
    scheduler: LocalCluster, tmp_path: Path, name: str
) -> None:
    address = scheduler.scheduler_address
    with dask_worker(address, path=other_package(tmp_path, name)) as worker:
        assert f"another package {name!r} at {tmp_path}/{name} before" in refusal(address)
        assert unharmed(worker, address)


@pytest.mark.slow
def test_one_bad_worker_among_good_ones_is_named(scheduler: LocalCluster) -> None:
    address = scheduler.scheduler_address
    with dask_worker(address), dask_worker(address, WITHOUT_HINGE):
        assert refusal(address).startswith(f"1 of 2 workers of {address} cannot be used (tcp://")


@pytest.mark.slow
def test_scheduler_without_hinge_is_refused() -> None:
    """A scheduler reads the tasks, and with them the names of their functions."""
    with dask_scheduler(WITHOUT_HINGE) as (address, _), dask_worker(address) as worker:
        assert refusal(address).startswith(f"the scheduler at {address} cannot be used: its Python")
        assert unharmed(worker, address)


def test_worker_that_hangs_is_refused(
    scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "CHECK_SECONDS", 0.5)
    address = scheduler.scheduler_address
    with dask_worker(address) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        assert refusal(address).startswith(f"the cluster of {address} did not answer in 0.5 s")


# -- the store


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for workers that import packages for the first time, on a busy machine."""
    monkeypatch.setattr(preflight, "CHECK_SECONDS", 120.0)


@pytest.mark.usefixtures("patient")
def test_store_that_workers_do_not_find_is_refused(
    client: Client, store: Store, tmp_path: Path
) -> None:
    dataset = dataclasses.replace(store(), url=str(tmp_path / "elsewhere.zarr"))
    found = r"worker tcp://\S+ cannot read the store: no store at \S+; give all workers access"
    with pytest.raises(PipelineError, match=found):
        check_store(client, dataset)


@pytest.mark.usefixtures("patient")
def test_store_with_other_data_is_refused(client: Client, store: Store) -> None:
    dataset = dataclasses.replace(store(), fingerprint="0" * 64)
    found = store().fingerprint[:12]
    with pytest.raises(PipelineError, match=rf"finds other data .*{found}, not 000000000000"):
        check_store(client, dataset)


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_store_that_only_some_workers_see_is_refused(
    scheduler: LocalCluster, store: Store, tmp_path: Path
) -> None:
    """The second worker sees an empty directory in place of the store's."""
    dataset = store()
    hidden = Path(dataset.url).parent
    mount = f'mount -t tmpfs none "{hidden}" && exec "$0" "$@"'
    hide = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount]
    if subprocess.run([*hide, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system does not let users make a mount namespace")
    address = scheduler.scheduler_address
    with dask_worker(address), dask_worker(address, before=hide), connect(scheduler=address) as c:
        with pytest.raises(PipelineError, match=f"cannot read the store: no store at {hidden}"):
            check_store(c, open_dataset(dataset.url))
        assert len(process_ids(c)) == 2
