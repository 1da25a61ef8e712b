"""Random search: every loss equals a separate evaluation, for all blocks and placements."""

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
from distributed import Client

from pipeline.cluster.connect import connect
from pipeline.cluster.map_shards import run_in_process
from pipeline.cluster.placement import PlacedDataset
from pipeline.cluster.shards import StreamedShard, load_shard
from pipeline.inputs.errors import PipelineError
from pipeline.objective import Objective
from pipeline.search.random_search import RandomSearch, TrialLosses, plan_blocks, random_search
from storage.dataset import Dataset
from tests.bits import bits
from tests.pipeline.conftest import Store
from tests.pipeline.workers import kill, process_ids

PARAMETERS = RandomSearch(trials=37, scale=1e-3, seed=5)


def searched(
    client: Client, dataset: Dataset, blocks: Sequence[tuple[int, ...]]
) -> list[TrialLosses]:
    return list(random_search(PlacedDataset(client, dataset), PARAMETERS, blocks))


def losses_by_trial(blocks: Sequence[TrialLosses]) -> list[float]:
    found = {
        trial: loss
        for block in blocks
        for trial, loss in zip(block.trials, block.losses.tolist(), strict=True)
    }
    return [found[trial] for trial in sorted(found)]


def separate_losses(dataset: Dataset) -> list[float]:
    objective = Objective(
        run_in_process([load_shard(dataset, "train", 0, 2000)]), dataset.mean, 0, "float64"
    )
    return [objective(PARAMETERS.weights(trial, 10)).loss for trial in range(37)]


def test_trial_losses_are_equal_to_separate_evaluations(cluster: Client, store: Store) -> None:
    dataset = store()
    blocks = searched(cluster, dataset, plan_blocks(37, 32))
    assert [block.trials for block in blocks] == [tuple(range(32)), tuple(range(32, 37))]
    assert losses_by_trial(blocks) == separate_losses(dataset)


@pytest.mark.parametrize(
    "size",
    [pytest.param(1, marks=pytest.mark.slow), 5, pytest.param(16, marks=pytest.mark.slow), 100],
)
def test_losses_do_not_depend_on_the_block_size(cluster: Client, store: Store, size: int) -> None:
    got = searched(cluster, store(300), plan_blocks(37, size))
    assert losses_by_trial(got) == separate_losses(store())


@pytest.mark.slow
def test_losses_do_not_depend_on_the_number_of_workers(store: Store) -> None:
    with connect(workers=1) as one:
        got = searched(one, store(), plan_blocks(37, 20))
    assert losses_by_trial(got) == separate_losses(store())


def test_losses_are_the_same_over_streamed_shards(
    cluster: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def streamed(client: Client, dataset: Dataset, split: str, homes: object) -> object:
        return [(None, StreamedShard(dataset, "train", at, at + 500)) for at in range(0, 2000, 500)]

    monkeypatch.setattr("pipeline.cluster.placement.place_shards", streamed)
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 170)
    got = searched(cluster, store(), plan_blocks(37, 20))
    assert losses_by_trial(got) == separate_losses(store())


def test_blocks_leave_out_finished_trials() -> None:
    assert plan_blocks(6, 2, done=[0, 1, 3]) == [(2, 4), (5,)]
    assert plan_blocks(3, 2, done=[0, 1, 2]) == []


@pytest.mark.slow
def test_losses_are_the_same_after_a_worker_is_killed(client: Client, store: Store) -> None:
    dataset = store()
    _, pid = next(iter(process_ids(client).items()))

    def kill_soon() -> None:
        time.sleep(0.05)
        kill(pid)

    killer = threading.Thread(target=kill_soon)
    killer.start()
    got = searched(client, dataset, plan_blocks(37, 1))
    killer.join()
    assert losses_by_trial(got) == separate_losses(dataset)


def test_weights_differ_by_seed_and_trial() -> None:
    drawn = [RandomSearch(9, 1e-3, seed).weights(t, 10) for seed in (0, 1) for t in (0, 1)]
    assert len({bits(W) for W in drawn}) == 4
    assert np.std(drawn[0]) == pytest.approx(1e-3, rel=0.02)
    assert abs(np.mean(drawn[0])) < 3e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "the number of trials must be at least 1, not 0"),
        ({"scale": -1e-4}, "positive number from .*, not -0.0001"),
        ({"scale": float("nan")}, "positive number from .*, not nan"),
        ({"scale": 1e16}, "from 1e-30 to 1e\\+15, not 1e\\+16"),
        ({"scale": 1e-31}, "from 1e-30 to 1e\\+15, not 1e-31"),
        ({"seed": -1}, "from 0 to 2\\^64 - 1, not -1"),
    ],
)
def test_invalid_parameters_raise_pipeline_error(changes: dict[str, float], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        RandomSearch(**({"trials": 3} | changes))  # type: ignore[arg-type]
