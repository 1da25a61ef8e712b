"""Shards that stay on a cluster between sessions: used again, moved, withdrawn, bounded."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from distributed import Client

from kernels.hinge import fold
from pipeline.cluster.placement import (
    PlacedShard,
    ShardAssignment,
    assign_shards,
    workers_of,
)
from pipeline.cluster.resident import share_shards
from pipeline.cluster.tasks import map_in_tasks
from pipeline.objective import HingeRequest, sum_hinge
from storage.dataset import Dataset
from tests.pipeline.conftest import Store
from tests.pipeline.workers import (
    address_of,
    held_keys,
    kill,
    process_ids,
    until,
    wait_until_released,
)


@pytest.fixture
def session(client: Client) -> Iterator[Client]:
    """A client of its own, as a command has one; afterwards nothing is published."""
    before = held_keys(client)
    with Client(address_of(client), set_as_default=False) as session:
        yield session
        for name in session.list_datasets():
            session.unpublish_dataset(name)
    wait_until_released(client, before)


def share(client: Client, dataset: Dataset, fraction: float = 0.5) -> list[PlacedShard]:
    plan = assign_shards(dataset.rows("train"), workers_of(client))
    return share_shards(client, dataset, "train", plan, fraction=fraction)


def keys(placed: list[PlacedShard]) -> list[object]:
    return [shard.key for _, shard in placed]  # type: ignore[union-attr]


def loaded_and_released(client: Client, dataset: Dataset, fraction: float = 0.5) -> list[object]:
    """Return the keys of the shards that a session placed that has ended."""
    with Client(address_of(client), set_as_default=False) as other:
        return keys(share(other, dataset, fraction))


def loss(client: Client, dataset: Dataset, placed: list[PlacedShard]) -> list[object]:
    scorer = fold(np.full((10, 3073), 1e-3), dataset.mean)
    return map_in_tasks(client, placed)(sum_hinge, HingeRequest(scorer))  # type: ignore[return-value]


def test_second_session_uses_the_shards_of_the_first(session: Client, store: Store) -> None:
    dataset = store()
    first = loaded_and_released(session, dataset)
    second = share(session, dataset)
    assert keys(second) == first
    fresh = loaded_and_released(session, dataset, fraction=0)
    assert fresh == first  # the fraction limits only what is loaded anew
    assert len(session.list_datasets()) == 1


def test_shards_are_read_again_after_a_worker_was_lost(session: Client, store: Store) -> None:
    dataset = store()
    first = loaded_and_released(session, dataset)
    before = {worker.address for worker in workers_of(session)}
    kill(next(iter(process_ids(session).values())))

    def replaced() -> bool:
        now = {worker.address for worker in workers_of(session)}
        return len(now) == 2 and now != before

    until(replaced, 60)
    second = share(session, dataset)
    assert not {*keys(second)} & {*first}
    homes = session.who_has([shard for _, shard in second])
    assert [list(homes[key]) for key in keys(second)] == [[each.worker] for each, _ in second]
    assert len(session.list_datasets()) == 1  # the first placement was withdrawn


@pytest.mark.parametrize("fraction", [0, 1e-6])
def test_nothing_stays_without_room(session: Client, store: Store, fraction: float) -> None:
    assert all(worker.memory for worker in workers_of(session))
    before = held_keys(session)
    loaded_and_released(session, store(), fraction)
    assert session.list_datasets() == ()
    wait_until_released(session, before)


def test_placement_whose_last_use_is_longest_ago_is_withdrawn(
    session: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, used, new = (store(rows) for rows in (701, 702, 703))
    # each of two workers has room for a half of two stores of 2000 rows
    room = [each._replace(memory=2 * 1000 * 3073) for each in workers_of(session)]
    monkeypatch.setattr("pipeline.cluster.resident.workers_of", lambda _client: room)
    first = {dataset: loaded_and_released(session, dataset, 1.0) for dataset in (used, old)}
    loaded_and_released(session, used, 1.0)  # now the other one was used longest ago
    loaded_and_released(session, new, 1.0)
    assert len(session.list_datasets()) == 2
    assert keys(share(session, used, 1.0)) == first[used]
    assert keys(share(session, old, 1.0)) != first[old]


def test_streamed_shards_are_not_published(session: Client, store: Store) -> None:
    dataset = store()
    plan = [
        replace(each, resident=each.start == 0)
        for each in assign_shards(dataset.rows("train"), workers_of(session))
    ]
    with Client(address_of(session), set_as_default=False) as other:
        before = loss(other, dataset, share_shards(other, dataset, "train", plan, fraction=0.5))
    again = share_shards(session, dataset, "train", plan, fraction=0.5)
    assert [each for each, _ in again] == plan
    assert str(loss(session, dataset, again)) == str(before)


def test_a_shard_for_any_worker_is_found_wherever_it_is(session: Client, store: Store) -> None:
    dataset = store()
    plan = [ShardAssignment(None, 0, dataset.rows("train"), resident=True)]
    with Client(address_of(session), set_as_default=False) as other:
        first = keys(share_shards(other, dataset, "train", plan, fraction=0.5))
    assert keys(share_shards(session, dataset, "train", plan, fraction=0.5)) == first
