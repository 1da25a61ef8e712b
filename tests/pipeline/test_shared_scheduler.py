"""A scheduler that others use too: what they see, what they keep, and that nobody's data mix."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

from pipeline.cluster.connect import connect
from pipeline.cluster.placement import PlacedDataset, assign_shards, place_shards, workers_of
from pipeline.cluster.tasks import map_in_tasks
from pipeline.ingest.write_shards import ingest
from pipeline.objective import Objective
from pipeline.training.parameters import StepPlacement
from pipeline.training.steps import prepare_steps
from storage.ingest import plan_ingest
from storage.schema import Layout
from storage.synthetic import Synthetic
from tests.pipeline.conftest import Store
from tests.pipeline.runs import as_written_down, on_the_cluster, parameters
from tests.pipeline.workers import address_of, held, let_go, prefixes

BOTH = pytest.mark.parametrize("placement", [StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER])


def test_the_dashboard_groups_work_by_what_it_is(
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
        on_the_cluster(client, dataset, parameters("samples"), placement)
    nouns = ("ingest", "load", "evaluation", "inputs", "minibatch", "actor")
    rows = {f"hinge-{noun}" for noun in nouns}
    assert rows <= prefixes(client).keys()
    assert prefixes(client).keys() - before.keys() <= rows


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Have nothing let go of by the garbage collector, which may not come for minutes."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
@pytest.mark.usefixtures("no_collection")
@BOTH
def test_nothing_is_left_on_the_workers(
    client: Client, store: Store, placement: StepPlacement
) -> None:
    before = held(client)
    on_the_cluster(client, store(), parameters("samples"), placement)
    let_go(client, before)


def test_an_error_leaves_nothing_on_the_workers(client: Client, store: Store) -> None:
    class ReportError(Exception):
        pass

    def report(_step: int, _loss: float) -> None:
        raise ReportError

    before = held(client)
    with pytest.raises(ReportError):
        on_the_cluster(client, store(), parameters("gd"), StepPlacement.ALL_WORKERS, report)
    gc.collect()  # the error's traceback and its frames hold each other
    let_go(client, before)


def test_a_run_that_ends_in_an_error_lets_go_of_its_one_workers_rows(
    client: Client, store: Store
) -> None:
    before, wanted = held(client), parameters("gd", placement=StepPlacement.ONE_WORKER)

    def run() -> None:
        with prepare_steps(PlacedDataset(client, store()), wanted, lambda *_: None) as take_steps:
            take_steps(wanted.start(10), 2)
            assert held(client) - before
            raise InterruptedError

    with pytest.raises(InterruptedError) as caught:
        run()
    let_go(client, before)
    assert caught.traceback  # which holds the run's frames, but not its rows


@BOTH
def test_reports_come_in_order_and_up_to_the_last_step(
    client: Client, store: Store, placement: StepPlacement
) -> None:
    told: list[tuple[int, float]] = []
    run = on_the_cluster(
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


TRAINS = """
import sys
from pipeline.cluster.connect import connect
from pipeline.training.parameters import StepPlacement
from storage.dataset import open_dataset
from tests.pipeline.runs import as_written_down, on_the_cluster, parameters

_, address, url, placement = sys.argv
dataset, wanted = open_dataset(url), parameters("samples", steps=60)
expected = as_written_down(dataset, wanted)
with connect(scheduler=address) as client:
    for _ in range(3):
        print(on_the_cluster(client, dataset, wanted, StepPlacement(placement)) == expected)
"""


@pytest.mark.slow
@BOTH
def test_two_drivers_do_not_get_each_others_data(
    client: Client, store: Store, placement: StepPlacement
) -> None:
    """Two processes of one machine, which start alike, train on two stores at once."""
    stores = [store(), store(701, "synthetic:1500")]
    assert stores[0].fingerprint != stores[1].fingerprint
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", TRAINS, address_of(client), dataset.url, placement],
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
    """A client of another cluster, which Dask now takes for the process's own."""
    with connect(workers=1) as client:
        yield client


@BOTH
def test_a_run_on_the_older_of_two_clusters(
    client: Client, store: Store, newer_client: Client, placement: StepPlacement
) -> None:
    dataset, wanted = store(), parameters("gd")
    assert on_the_cluster(client, dataset, wanted, placement) == as_written_down(dataset, wanted)
    assert prefixes(newer_client) == {}
