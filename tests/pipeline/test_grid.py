"""A grid of trials: each equals a single run, and no trial is left running."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster import placement
from pipeline.cluster.map_shards import run_in_process
from pipeline.cluster.placement import (
    PlacedDataset,
    PlacedShard,
    ShardAssignment,
    Worker,
    place_shards,
)
from pipeline.cluster.shards import load_shard
from pipeline.inputs.errors import PipelineError
from pipeline.objective import Objective
from pipeline.training.descent import Status
from pipeline.training.grid import TrainingGrid, TrialOutcome, choose_slots, run_trials
from pipeline.training.grid_journal import grid_journal
from pipeline.training.parameters import GradientDescent, MiniBatches, StepPlacement
from storage.dataset import Dataset
from storage.errors import DataError
from storage.schema import SPLITS, Split
from tests.conftest import ROOT
from tests.pipeline.conftest import Store
from tests.pipeline.runs import Trained, reference_run, run_on_cluster
from tests.pipeline.workers import (
    address_of,
    busy_with,
    held_keys,
    kill,
    process_ids,
    removals,
    until,
    wait_until_released,
)

GRID = TrainingGrid(
    step_sizes=(1e-8, 1e-7, 1e-2),  # trials with the last step size diverge
    batch_sizes=(64, "all"),
    regs=(0.0, 1e3),
    steps=40,
    seed=3,
)
LONG = TrainingGrid(step_sizes=(1e-2, 1e-9, 1e-8, 1e-7), batch_sizes=(64,), steps=1_000_000)


def ignore_progress(_number: int, _step: int, _loss: float) -> None:
    pass


def outcomes(
    client: Client,
    dataset: Dataset,
    grid: TrainingGrid = GRID,
    report: Callable[[int, int, float], None] = ignore_progress,
) -> list[TrialOutcome]:
    """Return the outcomes of all trials, in the order of their numbers."""
    placed = PlacedDataset(client, dataset)
    return sorted(run_trials(placed, grid.trials(), range(grid.size), report))


def trained(outcome: TrialOutcome) -> Trained:
    return Trained.to(outcome.W, outcome.losses, outcome.steps, outcome.status.value)


def same(some: Iterable[TrialOutcome], others: Iterable[TrialOutcome]) -> bool:
    """Return whether the outcomes are equal, except for the trials' numbers."""
    return [(trained(a), a[5:]) for a in some] == [(trained(b), b[5:]) for b in others]


@pytest.fixture(scope="module")
def grid_outcomes(cluster: Client, store: Store) -> list[TrialOutcome]:
    return outcomes(cluster, store())


def test_grid_combines_all_step_sizes_batch_sizes_and_regularisers() -> None:
    trials = GRID.trials()
    assert len(trials) == GRID.size == 12
    assert GRID.groups() == [(64, 0.0), (64, 1e3), ("all", 0.0), ("all", 1e3)]
    by_group = [[trials[number] for number in GRID.members(group)] for group in range(4)]
    assert [trial for members in by_group for trial in members] == trials
    for (batch_size, reg), members in zip(GRID.groups(), by_group, strict=True):
        assert [trial.step_size for trial in members] == list(GRID.step_sizes)
        assert {trial.reg for trial in members} == {reg}
        if batch_size == "all":
            assert all(isinstance(trial, GradientDescent) for trial in members)
        else:
            assert {isinstance(trial, MiniBatches) and trial.batch_size for trial in members} == {
                64
            }
        assert {(trial.steps, trial.seed, trial.init) for trial in members} == {
            (40, 3, "normal:1e-3")
        }


@pytest.mark.slow
def test_trial_is_bit_identical_to_a_run_with_its_parameters(
    cluster: Client, store: Store, grid_outcomes: list[TrialOutcome]
) -> None:
    for trial, outcome in zip(GRID.trials(), grid_outcomes, strict=True):
        run = run_on_cluster(cluster, store(), trial, StepPlacement.ALL_WORKERS)
        assert trained(outcome) == run


def test_trial_is_bit_identical_to_the_reference_run(
    store: Store, grid_outcomes: list[TrialOutcome]
) -> None:
    checked = 0
    for trial, outcome in zip(GRID.trials(), grid_outcomes, strict=True):
        if outcome.status is Status.DONE:
            assert trained(outcome) == reference_run(store(), trial)
            checked += 1
    assert checked == 8


def test_trials_with_the_largest_step_size_diverge(grid_outcomes: list[TrialOutcome]) -> None:
    for trial, outcome in zip(GRID.trials(), grid_outcomes, strict=True):
        assert outcome.diverged is (trial.step_size == 1e-2)
        if outcome.diverged:
            assert outcome.steps == len(outcome.losses) - 1 < 40
            assert not outcome.losses[-1] <= 100 * outcome.losses[0]
        else:
            assert outcome.steps == len(outcome.losses) == 40


def test_trial_is_evaluated_on_all_images_of_both_splits(
    store: Store, grid_outcomes: list[TrialOutcome]
) -> None:
    dataset = store()
    for trial, outcome in zip(GRID.trials(), grid_outcomes, strict=True):
        on_train, on_test = (
            Objective(
                run_in_process([load_shard(dataset, split, 0, dataset.rows(split))]),
                dataset.mean,
                trial.reg,
            )(outcome.W)
            for split in SPLITS
        )
        assert (outcome.loss, outcome.test_loss) == (on_train.loss, on_test.loss)
        assert outcome.train_accuracy == on_train.accuracy
        assert outcome.test_accuracy == on_test.accuracy


@pytest.mark.slow
def test_store_shards_and_streaming_do_not_change_outcomes(
    client: Client, store: Store, grid_outcomes: list[TrialOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert same(outcomes(client, store(300)), grid_outcomes)
    assignments = record_assignments(monkeypatch)
    monkeypatch.setattr(placement, "RESIDENT_FRACTION", 1e-6)
    few = replace(GRID, step_sizes=GRID.step_sizes[:1])
    streamed = outcomes(client, store(), few)
    assert {assignment.resident for assignment in assignments} == {False}
    assert same(streamed, grid_outcomes[:: len(GRID.step_sizes)])


def record_assignments(monkeypatch: pytest.MonkeyPatch) -> list[ShardAssignment]:
    """Return a list that collects the shard assignments of all grids from now on."""
    assignments: list[ShardAssignment] = []

    def record(
        client: Client, dataset: Dataset, split: Split, wanted: list[ShardAssignment]
    ) -> list[PlacedShard]:
        assignments.extend(wanted)
        return place_shards(client, dataset, split, wanted)

    monkeypatch.setattr("pipeline.cluster.placement.place_shards", record)
    return assignments


@pytest.mark.slow
def test_every_worker_loads_all_rows_once_and_runs_trials(
    client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assignments, who = record_assignments(monkeypatch), set[str]()
    many = replace(LONG, steps=2000)  # long enough to be observed
    placed = PlacedDataset(client, store())
    for _ in run_trials(placed, many.trials(), range(many.size), ignore_progress):
        who |= set(busy_with(client, "hinge-grid-run"))
    assert who == set(process_ids(client))
    assert sorted(assignments, key=str) == sorted(
        (ShardAssignment(worker, 0, rows, True) for worker in who for rows in (2000, 400)), key=str
    )


def test_few_trials_load_rows_only_where_they_run(
    client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assignments = record_assignments(monkeypatch)
    placed = PlacedDataset(client, store())
    [outcome] = run_trials(placed, GRID.trials(), [4], ignore_progress)
    assert outcome.number == 4
    assert len(assignments) == len(SPLITS)
    assert list(run_trials(placed, GRID.trials(), [], ignore_progress)) == []
    assert len(assignments) == len(SPLITS)


WORKERS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([0, 2 * 3073 * 9, 2 * 3073 * 11])),
    min_size=1,
    max_size=5,
).map(lambda given: [Worker(f"w{i}", *each) for i, each in enumerate(given)])


@given(workers=WORKERS, trials=st.integers(0, 25))
def test_slots_are_spread_evenly_over_workers_that_fit_all_rows(
    workers: list[Worker], trials: int
) -> None:
    places, resident = choose_slots(10, workers, trials)
    holding = [worker for worker in workers if worker.memory in {0, 2 * 3073 * 11}]
    assert resident is bool(holding)
    threads = {worker.address: worker.threads for worker in holding or workers}
    assert len(places) == min(trials, sum(threads.values()))
    for address in places:
        assert places.count(address) <= threads[address]
    for address, most in threads.items():  # evenly, up to each worker's threads
        assert places.count(address) >= min(most, max(map(places.count, threads)) - 1)


def test_progress_reports_match_the_losses_of_their_trial(client: Client, store: Store) -> None:
    told: list[tuple[int, int, float]] = []
    grid = replace(GRID, batch_sizes=(64,), step_sizes=(1e-8, 1e-7))
    finished = outcomes(client, store(), grid, lambda *event: told.append(event))
    assert told
    for number, step, loss in told:
        assert loss == finished[number].losses[step - 1]


@pytest.mark.slow
def test_killed_worker_does_not_change_outcomes(client: Client, store: Store) -> None:
    dataset, grid = store(), replace(LONG, steps=600)
    expected = outcomes(client, dataset, grid)
    (address, pid), *_ = process_ids(client).items()
    killed = threading.Event()

    def report(_number: int, _step: int, _loss: float) -> None:
        if not killed.is_set():
            killed.set()
            kill(pid)

    assert same(outcomes(client, dataset, grid, report), expected)
    assert removals(client, address)


@pytest.mark.slow
def test_trial_that_loses_every_worker_raises_pipeline_error(client: Client, store: Store) -> None:
    def allow(failures: int) -> int:
        def set_on(dask_scheduler: Any) -> int:
            before = int(dask_scheduler.allowed_failures)
            dask_scheduler.allowed_failures = failures
            return before

        return int(client.run_on_scheduler(set_on))

    pids = list(process_ids(client).values())

    def report(_number: int, _step: int, _loss: float) -> None:
        while pids:
            kill(pids.pop())

    endless = replace(LONG, step_sizes=(1e-9,))
    allowed = allow(0)
    try:
        with pytest.raises(PipelineError, match="one trial lost its worker several times"):
            outcomes(client, store(), endless, report)
    finally:
        allow(allowed)


def running(client: Client) -> list[str]:
    """Return the keys of the trials that workers' threads are running, cancelled or not."""

    def keys(dask_worker: Any) -> list[str]:
        return [str(key) for key in dask_worker.active_threads.values()]

    return [key for own in client.run(keys).values() for key in own if "hinge-grid-run" in key]


@pytest.mark.slow
def test_closing_the_generator_stops_trials_and_releases_data(client: Client, store: Store) -> None:
    before = held_keys(client)
    placed = PlacedDataset(client, store())
    finished = run_trials(placed, LONG.trials(), range(LONG.size), ignore_progress)
    assert next(finished).diverged
    assert len(until(lambda: len(keys := running(client)) == 2 and keys)) == 2
    finished.close()
    until(lambda: not running(client))
    wait_until_released(client, before, seconds=0)


@pytest.fixture
def keyboard_interrupt() -> Iterator[None]:
    """Make SIGINT raise KeyboardInterrupt, even if the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keyboard_interrupt")
def test_keyboard_interrupt_stops_trials_and_releases_data(client: Client, store: Store) -> None:
    before, interrupted = held_keys(client), threading.Event()

    def report(_number: int, step: int, _loss: float) -> None:
        if step > 100 and not interrupted.is_set():
            interrupted.set()
            # like Ctrl-C, this wakes a waiting thread; `interrupt_main` does not
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    endless = replace(LONG, step_sizes=LONG.step_sizes[1:])
    with pytest.raises(KeyboardInterrupt):
        outcomes(client, store(), endless, report)
    until(lambda: not running(client))
    wait_until_released(client, before, seconds=0)


DRIVER = """
import sys
from pipeline.cluster.connect import connect
from pipeline.training.grid import run_trials
from pipeline.cluster.placement import PlacedDataset
from storage.dataset import open_dataset
from tests.pipeline.test_grid import LONG

_, address, url = sys.argv
with connect(scheduler=address) as client:
    placed = PlacedDataset(client, open_dataset(url))
    outcomes = run_trials(placed, LONG.trials(), range(4), lambda *_: None)
    print(next(outcomes).number, flush=True)
    next(outcomes)
"""


@pytest.mark.slow
def test_killed_driver_leaves_no_trial_running(client: Client, store: Store) -> None:
    before, given = held_keys(client), [address_of(client), store().url]
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, *given], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as driver:
        try:
            assert driver.stdout
            assert driver.stdout.readline() == "0\n"
            until(lambda: running(client))
        finally:
            driver.kill()
    until(lambda: not running(client))
    wait_until_released(client, before)


def test_missing_store_raises_data_error(client: Client, store: Store) -> None:
    gone = replace(store(), url=store().url + ".gone", fingerprint="0" * 64)
    with pytest.raises(DataError, match="cannot open train/images"):
        outcomes(client, gone)


def test_journal_returns_the_outcomes_added_to_it(
    tmp_path: Path, grid_outcomes: list[TrialOutcome]
) -> None:
    path = tmp_path / "journal"
    with grid_journal(path, GRID.trials()) as journal:
        assert journal.remaining == list(range(GRID.size))
        for outcome in grid_outcomes[:1:-1]:
            journal.add(outcome)
        assert journal.remaining == [0, 1]
    with grid_journal(path, GRID.trials()) as journal:
        assert journal.remaining == [0, 1]
        back = [journal.outcomes[number] for number in range(2, GRID.size)]
    assert same(back, grid_outcomes[2:])
    assert [outcome.number for outcome in back] == list(range(2, GRID.size))
    assert [type(value) for value in back[0]] == [type(value) for value in grid_outcomes[2]]


@pytest.mark.parametrize(
    "other", [replace(GRID, seed=4), replace(GRID, steps=41), replace(GRID, regs=(1e3, 0.0))]
)
def test_journal_of_another_grid_raises_pipeline_error(
    tmp_path: Path, grid_outcomes: list[TrialOutcome], other: TrainingGrid
) -> None:
    with grid_journal(tmp_path / "journal", other.trials()) as journal:
        journal.add(grid_outcomes[0])
    with (
        pytest.raises(PipelineError, match="another grid's trials"),
        grid_journal(tmp_path / "journal", GRID.trials()),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_sizes": ()}, "step sizes must be one or more different values, not \\[\\]"),
        (
            {"step_sizes": (1e-7, 1e-8, 0.0000001)},
            "step sizes must be one or more different values",
        ),
        ({"batch_sizes": (64, 64)}, "batch sizes must be one or more different values"),
        ({"regs": ()}, "regularisers must be one or more different values"),
        ({"step_sizes": (1e-7, -1e-8)}, "step size must be .*, not -1e-08"),
        ({"step_sizes": (float("nan"),)}, "step size must be .*, not nan"),
        ({"batch_sizes": (0,)}, "batch size must be at least 1, not 0"),
        ({"regs": (-1.0,)}, "regulariser must be .*, not -1.0"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"init": "ones"}, "ones"),
        ({"seed": -1}, "seed must be .*, not -1"),
        ({"regs": tuple(range(201))}, "grid of 1,005 trials is too large; take at most 1,000"),
    ],
)
def test_invalid_grid_raises_pipeline_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        TrainingGrid(**changes)
