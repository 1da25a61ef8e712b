"""Random local search: its decisions, losses and weights equal those of the plain loop."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from distributed import Client

from pipeline.cluster.actors import Actors
from pipeline.cluster.map_shards import MapShards, run_in_process
from pipeline.cluster.placement import PlacedDataset
from pipeline.cluster.shards import StreamedShard, load_shard
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.random_streams import Purpose
from pipeline.inputs.weights import draw_weights
from pipeline.objective import Objective
from pipeline.search.local_search import GROUP_SIZE, LocalSearch, SearchState, local_search
from storage.dataset import Dataset
from tests.bits import bits
from tests.pipeline.conftest import Store
from tests.pipeline.workers import kill, process_ids

PARAMETERS = LocalSearch(trials=3 * GROUP_SIZE + 5, init_scale=1e-3, step_scale=1e-4, seed=2)


class Searched(NamedTuple):
    W: str
    losses: list[float]
    accepted: list[int]

    @classmethod
    def of(cls, state: SearchState) -> "Searched":
        return cls(bits(state.W), state.losses.tolist(), state.accepted.tolist())


def plain_loop(dataset: Dataset, wanted: LocalSearch) -> Searched:
    """Search with the notes' loop, which evaluates the loss once per trial."""
    rows = dataset.rows("train")
    objective = Objective(
        run_in_process([load_shard(dataset, "train", 0, rows)]), dataset.mean, 0, "float64"
    )
    W, best = wanted.start(10), np.inf
    losses, accepted = [], []
    for number in range(wanted.trials):
        step = draw_weights(wanted.seed, Purpose.PERTURBATION, [number], wanted.step_scale, 10)
        candidate = W + step.weights[0]
        losses.append(objective(candidate).loss)
        if losses[-1] < best:
            W, best = candidate, losses[-1]
            accepted.append(number)
    return Searched(bits(W), losses, accepted)


def searched(map_shards: MapShards, dataset: Dataset, wanted: LocalSearch) -> Searched:
    state = SearchState.start(wanted, 10)
    for after in local_search(map_shards, dataset.mean, wanted, state):
        state = after
    return Searched.of(state)


def test_search_is_bit_identical_to_the_plain_loop(cluster: Client, store: Store) -> None:
    dataset = store()
    expected = plain_loop(dataset, PARAMETERS)
    assert len(expected.accepted) >= 8
    with Actors(PlacedDataset(cluster, dataset)) as actors:
        assert searched(actors, dataset, PARAMETERS) == expected
        # the actors keep scores, which another search must not use
        other = replace(PARAMETERS, seed=3)
        assert searched(actors, dataset, other) == plain_loop(dataset, other)
        assert searched(actors, dataset, PARAMETERS) == expected


@pytest.mark.slow
def test_search_over_streamed_shards_matches_the_plain_loop(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = store()
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 170)
    shards = [StreamedShard(dataset, "train", start, start + 400) for start in range(0, 2000, 400)]
    assert searched(run_in_process(shards), dataset, PARAMETERS) == plain_loop(dataset, PARAMETERS)


def test_search_resumes_from_any_group(store: Store) -> None:
    dataset = store()
    map_shards = run_in_process([load_shard(dataset, "train", 0, 2000)])
    states = list(
        local_search(map_shards, dataset.mean, PARAMETERS, SearchState.start(PARAMETERS, 10))
    )
    for state in states[:-1]:
        fresh = run_in_process([load_shard(dataset, "train", 0, 2000)])
        *_, last = local_search(fresh, dataset.mean, PARAMETERS, state)
        assert Searched.of(last) == Searched.of(states[-1])


def test_state_is_restored_from_the_losses(store: Store) -> None:
    dataset = store()
    map_shards = run_in_process([load_shard(dataset, "train", 0, 2000)])
    for state in local_search(
        map_shards, dataset.mean, PARAMETERS, SearchState.start(PARAMETERS, 10)
    ):
        again = SearchState.after_losses(PARAMETERS, 10, state.losses)
        assert Searched.of(again) == Searched.of(state)


@pytest.mark.parametrize("trials", [10, GROUP_SIZE + 3])
def test_search_repeated_on_the_same_shards_gives_the_same_result(
    store: Store, trials: int
) -> None:
    dataset, wanted = store(), replace(PARAMETERS, trials=trials)
    map_shards = run_in_process([load_shard(dataset, "train", 0, 2000)])
    first = searched(map_shards, dataset, wanted)
    assert searched(map_shards, dataset, wanted) == first == plain_loop(dataset, wanted)


@pytest.mark.slow
def test_search_is_the_same_after_a_worker_is_killed(client: Client, store: Store) -> None:
    dataset = store()
    _, pid = next(iter(process_ids(client).items()))
    with Actors(PlacedDataset(client, dataset)) as actors:
        state = SearchState.start(PARAMETERS, 10)
        for number, after in enumerate(local_search(actors, dataset.mean, PARAMETERS, state)):
            state = after
            if number == 1:
                kill(pid)
    assert Searched.of(state) == plain_loop(dataset, PARAMETERS)


def test_forgetting_accepted_steps_is_detected(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted fault: the scores of accepted steps are never added to the scores kept on a shard."""
    monkeypatch.setattr(
        "pipeline.search.local_search._add_accepted",
        lambda group_scores, accepted: group_scores._replace(accepted=accepted),
    )
    dataset = store()
    map_shards = run_in_process([load_shard(dataset, "train", 0, 2000)])
    assert searched(map_shards, dataset, PARAMETERS) != plain_loop(dataset, PARAMETERS)


@pytest.mark.slow
def test_search_on_real_images_matches_the_plain_loop(
    cluster: Client, store: Store, real_cifar10: Path
) -> None:
    dataset = store(7001, real_cifar10)
    wanted = LocalSearch(trials=150)
    expected = plain_loop(dataset, wanted)
    assert len(expected.accepted) >= 30
    with Actors(PlacedDataset(cluster, dataset)) as actors:
        assert searched(actors, dataset, wanted) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "the number of trials must be at least 1, not 0"),
        ({"init_scale": 0.0}, "initial weights must be a positive number from .*, not 0.0"),
        ({"step_scale": -1.0}, "step must be a positive number from .*, not -1.0"),
        (
            {"init_scale": 1.0, "step_scale": 1e-9},
            "too small for weights of scale 1.0; use a step scale of at least 1e-05",
        ),
    ],
)
def test_invalid_parameters_raise_pipeline_error(changes: dict[str, float], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        LocalSearch(**({"trials": 3} | changes))  # type: ignore[arg-type]
