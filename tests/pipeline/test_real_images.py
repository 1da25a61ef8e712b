"""Bit-identical runs, and the results of the notes, on the real CIFAR-10 images."""

from pathlib import Path

import numpy as np
import pytest
from distributed import Client

from pipeline.cluster.actors import Actors
from pipeline.cluster.connect import connect
from pipeline.cluster.placement import PlacedDataset, assign_shards, place_shards, workers_of
from pipeline.cluster.tasks import map_in_tasks
from pipeline.objective import Objective
from pipeline.search.local_search import LocalSearch, SearchState, local_search
from pipeline.search.random_search import RandomSearch, plan_blocks, random_search
from pipeline.training.parameters import GradientDescent, MiniBatches, StepPlacement
from storage.dataset import Dataset
from storage.schema import Split
from tests.pipeline.conftest import Store
from tests.pipeline.runs import Trained, parameters, reference_run, run_on_cluster
from tests.pipeline.workers import kill, process_ids, removals

pytestmark = pytest.mark.real
PLACEMENTS = [StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER]


def runs(client: Client, dataset: Dataset) -> dict[tuple[str, StepPlacement], Trained]:
    return {
        (kind, placement): run_on_cluster(client, dataset, parameters(kind, **few), placement)
        for kind, few in FEW.items()
        for placement in PLACEMENTS
    }


FEW = {"gd": {"steps": 2}, "samples": {"steps": 20, "batch_size": 256}}


def expected(dataset: Dataset) -> dict[tuple[str, StepPlacement], Trained]:
    written = {kind: reference_run(dataset, parameters(kind, **few)) for kind, few in FEW.items()}
    return {(kind, placement): written[kind] for kind in FEW for placement in PLACEMENTS}


@pytest.mark.slow
def test_runs_on_two_workers_match_the_reference_run(
    client: Client, store: Store, real_cifar10: Path
) -> None:
    dataset = store(7001, real_cifar10)
    assert (dataset.name, dataset.rows("train")) == ("cifar10", 50_000)
    assert runs(client, dataset) == expected(dataset)


@pytest.mark.slow
@pytest.mark.parametrize("shard_rows", [500, 50_000])
def test_shard_size_does_not_change_the_runs(
    client: Client, store: Store, real_cifar10: Path, shard_rows: int
) -> None:
    dataset = store(shard_rows, real_cifar10)
    assert runs(client, dataset) == expected(store(7001, real_cifar10))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_number_of_workers_does_not_change_the_runs(
    store: Store, real_cifar10: Path, workers: int
) -> None:
    dataset = store(7001, real_cifar10)
    with connect(workers=workers) as client:
        assert runs(client, dataset) == expected(dataset)


@pytest.mark.slow
def test_gradient_descent_with_a_killed_worker_reaches_the_notes_results(
    client: Client, store: Store, real_cifar10: Path
) -> None:
    dataset = store(7001, real_cifar10)
    (address, pid), *_ = process_ids(client).items()

    def report(step: int, _loss: float) -> None:
        if step == 100:
            kill(pid)

    wanted = GradientDescent(steps=200, step_size=1e-7)
    run = run_on_cluster(client, dataset, wanted, StepPlacement.ALL_WORKERS, report)
    assert removals(client, address)
    assert evaluate(client, dataset, "train", run.W)[0] == pytest.approx(4.69, abs=0.05)
    assert evaluate(client, dataset, "test", run.W)[1] == pytest.approx(0.37, abs=0.01)


@pytest.mark.slow
def test_mini_batches_reach_36_percent_test_accuracy(
    client: Client, store: Store, real_cifar10: Path
) -> None:
    dataset = store(7001, real_cifar10)
    wanted = MiniBatches(steps=3000, step_size=1e-7, reg=2.5e4, init="normal:1e-3")
    run = run_on_cluster(client, dataset, wanted, StepPlacement.ONE_WORKER)
    assert evaluate(client, dataset, "test", run.W)[1] >= 0.36


def evaluate(client: Client, dataset: Dataset, split: Split, W: object) -> tuple[float, float]:
    homes = assign_shards(dataset.rows(split), workers_of(client))
    partials = map_in_tasks(client, place_shards(client, dataset, split, homes))
    value = Objective(partials, dataset.mean)(np.asarray(W))
    return value.loss, value.accuracy


@pytest.mark.slow
def test_random_search_losses_match_single_evaluations(
    client: Client, store: Store, real_cifar10: Path
) -> None:
    dataset, wanted = store(7001, real_cifar10), RandomSearch(trials=70)
    placed_dataset = PlacedDataset(client, dataset)
    blocks = list(random_search(placed_dataset, wanted, plan_blocks(wanted.trials, 32)))
    losses = np.concatenate([block.losses for block in blocks])
    map_shards = map_in_tasks(client, placed_dataset.shards("train"))
    for trial in (0, 31, 32, 69, int(losses.argmin())):
        W = wanted.weights(trial, 10)
        assert Objective(map_shards, dataset.mean, dtype="float64")(W).loss == losses[trial]
        assert Objective(map_shards, dataset.mean)(W).loss == pytest.approx(losses[trial], rel=1e-5)


@pytest.mark.slow
def test_local_search_reaches_the_accuracy_of_the_notes(
    client: Client, store: Store, real_cifar10: Path
) -> None:
    dataset, wanted = store(7001, real_cifar10), LocalSearch(trials=1000)
    with Actors(PlacedDataset(client, dataset)) as actors:
        start = SearchState.start(wanted, 10)
        *_, state = local_search(actors, dataset.mean, wanted, start)
    assert 100 <= len(state.accepted) <= 180
    assert 0.19 <= evaluate(client, dataset, "test", state.W)[1] <= 0.24
