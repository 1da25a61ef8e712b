"""A scheduler that several clients share: its dashboard, its memory, and separate data."""

import gc
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

from pipeline.cluster.connect import connect
from pipeline.cluster.placement import PlacedDataset, assign_shards, place_shards, workers_of
from pipeline.cluster.tasks import map_in_tasks
from pipeline.cluster.waiting import error_of
from pipeline.ingest.write_shards import ingest
from pipeline.inputs.stopping import SLICE_SECONDS
from pipeline.objective import Objective
from pipeline.training.parameters import StepPlacement
from pipeline.training.steps import prepare_steps
from storage.ingest import plan_ingest
from storage.schema import Layout
from storage.synthetic import Synthetic
from tests.pipeline.conftest import Store
from tests.pipeline.runs import parameters, reference_run, run_on_cluster
from tests.pipeline.workers import address_of, held_keys, prefixes, wait_until_released

BOTH = pytest.mark.parametrize("placement", [StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER])


def test_dashboard_groups_tasks_by_kind_of_work(
    client: Client, store: Store, tmp_path: Path
) -> None:
    before = prefixes(client)
    dataset = ingest(
        client, plan_ingest(Synthetic(500, 100), str(tmp_path / "a.zarr"), Layout(100))
    )
    placed = place_shards(
        client, dataset, "train", assign_shards(dataset.rows("train"), workers_of(client))
    )
    Objective(map_in_tasks(client, placed), dataset.mean)(np.zeros((10, 3073)))
    for placement in StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER:
        run_on_cluster(client, dataset, parameters("samples"), placement)
    nouns = ("ingest", "load", "evaluation", "inputs", "minibatch", "actor")
    rows = {f"hinge-{noun}" for noun in nouns}
    assert rows <= prefixes(client).keys()
    assert prefixes(client).keys() - before.keys() <= rows


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Disable the garbage collector.

    It may not run for minutes, so data must be released without it.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
def test_task_that_was_waited_for_long_is_released_at_once(client: Client) -> None:
    future = client.submit(time.sleep, 5 * SLICE_SECONDS, pure=False)
    assert error_of(future) is None
    released = weakref.ref(future)
    del future
    assert released() is None


@pytest.mark.slow
@pytest.mark.usefixtures("no_collection")
@BOTH
def test_run_leaves_nothing_on_the_workers(
    client: Client, store: Store, placement: StepPlacement
) -> None:
    before = held_keys(client)
    run_on_cluster(client, store(), parameters("samples"), placement)
    wait_until_released(client, before)


def test_failed_run_leaves_nothing_on_the_workers(client: Client, store: Store) -> None:
    class ReportError(Exception):
        pass

    def report(_step: int, _loss: float) -> None:
        raise ReportError

    before = held_keys(client)
    with pytest.raises(ReportError):
        run_on_cluster(client, store(), parameters("gd"), StepPlacement.ALL_WORKERS, report)
    gc.collect()  # the error's traceback and its frames form a cycle
    wait_until_released(client, before)


def test_failed_run_on_one_worker_releases_its_rows(client: Client, store: Store) -> None:
    before, wanted = held_keys(client), parameters("gd", placement=StepPlacement.ONE_WORKER)

    def run() -> None:
        with prepare_steps(PlacedDataset(client, store()), wanted, lambda *_: None) as take_steps:
            take_steps(wanted.start(10), 2)
            assert held_keys(client) - before
            raise InterruptedError

    with pytest.raises(InterruptedError) as caught:
        run()
    wait_until_released(client, before)
    assert caught.traceback  # it refers to the run's frames, not to its rows


@BOTH
def test_progress_reports_are_in_order_and_match_the_losses(
    client: Client, store: Store, placement: StepPlacement
) -> None:
    told: list[tuple[int, float]] = []
    run = run_on_cluster(
        client,
        store(),
        parameters("samples"),
        placement,
        lambda step, loss: told.append((step, loss)),
    )
    losses = run.losses.tolist()
    steps = [step for step, _ in told]
    assert steps == sorted(steps)
    assert all(loss == losses[step - 1] for step, loss in told)
    if placement is StepPlacement.ALL_WORKERS:
        assert steps == list(range(1, 13))


TRAINING_SCRIPT = """
import sys
from pipeline.cluster.connect import connect
from pipeline.training.parameters import StepPlacement
from storage.dataset import open_dataset
from tests.pipeline.runs import reference_run, run_on_cluster, parameters

_, address, url, placement = sys.argv
dataset, wanted = open_dataset(url), parameters("samples", steps=60)
expected = reference_run(dataset, wanted)
with connect(scheduler=address) as client:
    for _ in range(3):
        print(run_on_cluster(client, dataset, wanted, StepPlacement(placement)) == expected)
"""


@pytest.mark.slow
@BOTH
def test_two_drivers_do_not_mix_their_data(
    client: Client, store: Store, placement: StepPlacement
) -> None:
    """Two processes with the same script train on two stores on one machine at the same time."""
    stores = [store(), store(701, "synthetic:1500")]
    assert stores[0].fingerprint != stores[1].fingerprint
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", TRAINING_SCRIPT, address_of(client), dataset.url, placement],
            env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for dataset in stores
    ]
    said = [driver.communicate(timeout=60)[0].split() for driver in drivers]
    assert said == [["True"] * 3] * 2


@pytest.fixture
def newer_client() -> Iterator[Client]:
    """Yield a client of another cluster, which is now Dask's default client."""
    with connect(workers=1) as client:
        yield client


@BOTH
def test_run_uses_its_own_client_instead_of_the_default(
    client: Client, store: Store, newer_client: Client, placement: StepPlacement
) -> None:
    dataset, wanted = store(), parameters("gd")
    assert run_on_cluster(client, dataset, wanted, placement) == reference_run(dataset, wanted)
    assert prefixes(newer_client) == {}
