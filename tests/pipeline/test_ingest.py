"""Ingest on the cluster: it writes a complete store or nothing, even if workers die."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

from pipeline.ingest.write_shards import ingest
from storage.claims import claim_store
from storage.dataset import open_dataset
from storage.errors import DataError
from storage.ingest import ShardSummary, ShardTask, plan_ingest
from storage.schema import SPLITS, Layout, Split
from storage.sources import Source
from storage.synthetic import Synthetic
from tests.pipeline.workers import busy_with, kill, process_ids, removals, until

SOURCE = Synthetic(train_rows=2000, test_rows=400)
LAYOUT = Layout(shard_rows=100, chunk_rows=50)


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the source's fingerprint, from a store that this process writes in larger shards."""
    from storage.ingest import finish, prepare, read_back, write_shard

    plan = plan_ingest(SOURCE, str(tmp_path_factory.mktemp("plain") / "a.zarr"), Layout(701))
    prepare(plan)
    summaries = [write_shard(plan, shard) for shard in plan.shards]
    return finish(plan, summaries, [read_back(plan, shard) for shard in plan.shards]).fingerprint


def test_store_contains_the_rows_of_the_source(
    client: Client, tmp_path: Path, fingerprint: str
) -> None:
    told: list[ShardSummary] = []
    plan = plan_ingest(SOURCE, str(tmp_path / "a.zarr"), LAYOUT)
    dataset = ingest(client, plan, told.append)
    assert dataset.fingerprint == fingerprint
    assert sorted(summary.shard for summary in told) == sorted(plan.shards)
    for split in SPLITS:
        for stored, made in zip(
            dataset.read(split, 0, dataset.rows(split)),
            SOURCE.read(split, 0, SOURCE.rows(split)),
            strict=True,
        ):
            np.testing.assert_array_equal(stored, made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr"]


def test_second_ingest_writes_nothing(client: Client, tmp_path: Path) -> None:
    url = str(tmp_path / "a.zarr")
    made_before = plan_ingest(SOURCE, url, LAYOUT)
    first = ingest(client, plan_ingest(SOURCE, url, LAYOUT))
    told: list[ShardSummary] = []
    for plan in (plan_ingest(SOURCE, url, LAYOUT), made_before):
        assert ingest(client, plan, told.append) == first
    assert told == []


def test_store_claimed_by_another_ingest_raises_data_error(client: Client, tmp_path: Path) -> None:
    place = tmp_path / "store"
    plan = plan_ingest(SOURCE, str(place / "a.zarr"), LAYOUT)
    with claim_store(plan.location):
        before = list(place.iterdir())
        with pytest.raises(DataError, match="is being written by another ingest"):
            ingest(client, plan)
        assert list(place.iterdir()) == before
    ingest(client, plan)
    assert [path.name for path in place.iterdir()] == ["a.zarr"]


def test_ingest_that_lost_its_claim_does_not_publish(client: Client, tmp_path: Path) -> None:
    plan = plan_ingest(SOURCE, str(tmp_path / "a.zarr"), LAYOUT)
    with pytest.raises(DataError, match="has lost its claim"):
        ingest(client, plan, lambda _: plan.location.claim.remove())
    assert not (tmp_path / "a.zarr").exists()


@dataclass(frozen=True)
class Slow:
    """A source that waits before it reads a shard, until a file exists or for some time."""

    signs: Path
    damaged: int | None = None
    """The number of the first row of the damaged shard."""
    waits: bool = False
    base: Synthetic = field(default=SOURCE)

    kind = Synthetic.kind
    name = Synthetic.name

    @property
    def description(self) -> str:
        return self.base.description

    @property
    def identity(self) -> Any:
        return self.base.identity

    def rows(self, split: Split) -> int:
        return self.base.rows(split)

    def read(self, split: Split, start: int, stop: int) -> Any:
        (self.signs / f"{split}-{start}").touch()
        if start == self.damaged:
            # by then the other worker is in the middle of a shard, with more shards to follow
            until(lambda: len(list(self.signs.iterdir())) > 1)
            raise DataError("record 7: label 10, wanted 0 to 9")
        if self.waits:
            until((self.signs / "go").exists)
        if self.damaged is not None:
            time.sleep(0.1)  # so that a shard is still being written when another one fails
        return self.base.read(split, start, stop)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [0, 900, 1900])
def test_damaged_source_leaves_no_files(client: Client, tmp_path: Path, damaged: int) -> None:
    place, signs = tmp_path / "store", tmp_path / "signs"
    signs.mkdir()
    place.mkdir()
    source: Source = Slow(signs, damaged)
    plan = plan_ingest(source, str(place / "a.zarr"), LAYOUT)
    with pytest.raises(DataError, match=r"^record 7: label 10, wanted 0 to 9$"):
        ingest(client, plan)
    assert list(place.iterdir()) == []
    # all running tasks have ended, so no file is written later
    assert busy_with(client, "hinge-ingest") == []
    client.run(time.sleep, 0.2)
    assert list(place.iterdir()) == []


@pytest.mark.slow
def test_ingest_completes_although_a_worker_is_killed(
    client: Client, tmp_path: Path, fingerprint: str
) -> None:
    from threading import Thread

    signs = tmp_path / "signs"
    signs.mkdir()
    plan = plan_ingest(Slow(signs, waits=True), str(tmp_path / "a.zarr"), LAYOUT)
    found: list[str] = []
    driver = Thread(target=lambda: found.append(ingest(client, plan).fingerprint))
    driver.start()
    pids = process_ids(client)
    until(lambda: len(list(signs.iterdir())) >= 2)  # both workers are in the middle of a shard
    address = busy_with(client, "hinge-ingest")[0]
    kill(pids[address])
    [removal] = until(lambda: removals(client, address))
    assert "hinge-ingest" in str(removal["processing-tasks"])
    (signs / "go").touch()
    driver.join(60)
    assert found == [fingerprint]
    assert open_dataset(str(tmp_path / "a.zarr")).fingerprint == fingerprint


def test_interrupted_ingest_resumes_with_its_written_shards(
    client: Client, tmp_path: Path, fingerprint: str
) -> None:
    plan = plan_ingest(SOURCE, str(tmp_path / "a.zarr"), LAYOUT)
    written: list[ShardTask] = []

    def stop_after_five(summary: ShardSummary) -> None:
        written.append(summary.shard)
        if len(written) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(client, plan, stop_after_five)
    told: list[ShardSummary] = []
    assert ingest(client, plan, told.append).fingerprint == fingerprint
    assert set(written) <= {summary.shard for summary in told if summary.reused}


@pytest.mark.slow
def test_ingest_after_a_failed_one_starts_from_scratch(client: Client, tmp_path: Path) -> None:
    signs = tmp_path / "signs"
    signs.mkdir()
    url = str(tmp_path / "a.zarr")
    with pytest.raises(DataError):
        ingest(client, plan_ingest(Slow(signs, damaged=0), url, LAYOUT))
    assert ingest(client, plan_ingest(SOURCE, url, LAYOUT)).rows("train") == 2000
