"""A run's result is bit-identical for any shards, memory, placement, workers and failures."""

import logging
import threading
from dataclasses import replace
from itertools import pairwise

import pytest
from distributed import Client

from pipeline.cluster import placement as placing
from pipeline.cluster.connect import connect
from pipeline.cluster.placement import assign_shards, workers_of
from pipeline.training.parameters import GradientDescent, StepPlacement
from storage.dataset import Dataset
from storage.schema import PIXELS
from tests.bits import bits
from tests.pipeline.conftest import Store
from tests.pipeline.runs import (
    KINDS,
    WITH_MOMENTUM,
    Trained,
    parameters,
    reference_run,
    run_on_cluster,
)
from tests.pipeline.workers import busy_with, kill, process_ids, removals, until

PLACEMENTS = [StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER]
BOTH = pytest.mark.parametrize("placement", PLACEMENTS)
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="session")
def expected(store: Store) -> dict[tuple[str, str], Trained]:
    """Return the reference run of every kind, for both types of scores."""
    return {
        (kind, dtype): reference_run(store(), parameters(kind, dtype=dtype))
        for kind in KINDS
        for dtype in ("float32", "float64")
    }


def test_different_kinds_of_runs_give_different_results(
    expected: dict[tuple[str, str], Trained],
) -> None:
    # the type affects a gradient only through the signs of margins, so W may be equal for both
    assert len({bits(run.W) for run in expected.values()}) >= len(KINDS)
    assert len({bits(run.losses) for run in expected.values()}) == len(expected)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["resident", "streamed"])
@pytest.mark.parametrize(
    ("shard_rows", "dtype"),
    [
        pytest.param(100, "float32", marks=pytest.mark.slow),
        (701, "float32"),
        pytest.param(2000, "float32", marks=pytest.mark.slow),
        (701, "float64"),
    ],
)
@BOTH
@EACH_KIND
def test_shards_memory_and_placement_do_not_change_a_run(
    client: Client,
    store: Store,
    expected: dict[tuple[str, str], Trained],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    placement: StepPlacement,
    shard_rows: int,
    dtype: str,
    memory: str,
) -> None:
    dataset = store(shard_rows)
    # the shards on the workers are at most as large as those of the store
    monkeypatch.setattr(placing, "MAX_SHARD_ROWS", shard_rows)
    if memory == "streamed":
        keep_only(600, dataset, client, monkeypatch)
    run = run_on_cluster(client, dataset, parameters(kind, dtype=dtype), placement)
    assert run == expected[kind, dtype]


def keep_only(rows: int, dataset: Dataset, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit each worker to `rows` resident rows, so that some or all rows are streamed."""
    workers = workers_of(client)
    budget = rows * (PIXELS + 1) / workers[0].memory
    monkeypatch.setattr(placing, "RESIDENT_FRACTION", budget)
    homes = assign_shards(dataset.rows("train"), workers)
    assert sum(home.stop - home.start for home in homes if home.resident) <= 2 * rows
    assert not all(home.resident for home in homes)
    assert not placing.fits_one_worker(dataset.rows("train"), workers)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_number_of_workers_does_not_change_a_run(
    store: Store, expected: dict[tuple[str, str], Trained], workers: int
) -> None:
    dataset = store(100)
    with connect(workers=workers) as client:
        assert len(workers_of(client)) == workers
        runs = {
            (kind, placement): run_on_cluster(client, dataset, parameters(kind), placement)
            for kind in KINDS
            for placement in PLACEMENTS
        }
    assert runs == {(kind, way): expected[kind, "float32"] for kind in KINDS for way in PLACEMENTS}


@pytest.mark.slow
@EACH_KIND
def test_worker_killed_between_steps_does_not_change_a_run(
    client: Client,
    store: Store,
    expected: dict[tuple[str, str], Trained],
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    (address, pid), *_ = process_ids(client).items()

    def report(step: int, _loss: float) -> None:
        if step == 3:
            kill(pid)

    with caplog.at_level(logging.WARNING, "pipeline.cluster.actors"):
        run = run_on_cluster(client, store(), parameters(kind), StepPlacement.ALL_WORKERS, report)
    assert run == expected[kind, "float32"]
    assert "a worker was lost" in caplog.text
    assert removals(client, address)


@pytest.mark.slow
def test_worker_killed_during_a_step_does_not_change_a_run(
    client: Client, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = parameters("gd", steps=150)
    expected = reference_run(store(), wanted)
    (address, pid), *_ = process_ids(client).items()
    timer = threading.Timer(0.0, kill, [pid])  # its thread runs while the driver waits for the step

    def report(step: int, _loss: float) -> None:
        if step == 20:
            timer.start()

    with caplog.at_level(logging.WARNING, "pipeline.cluster.actors"):
        run = run_on_cluster(client, store(), wanted, StepPlacement.ALL_WORKERS, report)
    assert run == expected
    assert "a worker was lost" in caplog.text
    assert removals(client, address)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "steps"), [("gd", 600), ("samples", 3000)])
def test_killing_the_worker_of_a_one_worker_run_does_not_change_it(
    client: Client, store: Store, kind: str, steps: int
) -> None:
    wanted = parameters(kind, steps=steps)
    expected = reference_run(store(), wanted)
    runs: list[Trained] = []
    under_way = threading.Event()

    def run() -> None:
        runs.append(
            run_on_cluster(
                client, store(), wanted, StepPlacement.ONE_WORKER, lambda *_: under_way.set()
            )
        )

    driver = threading.Thread(target=run)
    driver.start()
    assert under_way.wait(30)
    pids = process_ids(client)
    shown_as = f"hinge-{wanted.method}"
    [address] = until(lambda: busy_with(client, shown_as))  # none between two tasks
    kill(pids[address])
    driver.join(60)
    [removal] = until(lambda: removals(client, address))
    assert shown_as in str(removal["processing-tasks"])
    assert runs == [expected]


@BOTH
@pytest.mark.parametrize("kind", WITH_MOMENTUM)
def test_momentum_and_schedules_match_the_reference_run(
    client: Client, store: Store, kind: str, placement: StepPlacement
) -> None:
    wanted = parameters(kind)
    assert run_on_cluster(client, store(), wanted, placement) == reference_run(store(), wanted)


def test_exact_step_size_is_bit_identical_and_lowers_the_loss(client: Client, store: Store) -> None:
    wanted = GradientDescent(steps=5, step_size="exact", init="normal:1e-3", reg=10.0)
    runs = [
        run_on_cluster(client, store(rows), wanted, placement)
        for rows, placement in ((100, StepPlacement.ALL_WORKERS), (701, StepPlacement.ONE_WORKER))
    ]
    assert runs[0] == runs[1]
    losses = runs[0].losses
    assert all(b < a for a, b in pairwise(losses.tolist()))
    for step_size in (1e-8, 1e-7, 1e-6, 1e-5):
        fixed = replace(wanted, steps=2, step_size=step_size)
        _, second = reference_run(store(), fixed).losses
        assert losses[1] <= second
