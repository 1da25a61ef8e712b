"""Ingests: complete, interrupted, resumed, and into locations that already exist."""

import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.arrays import StoredArray
from storage.cifar10 import open_directory
from storage.dataset import Dataset, open_dataset
from storage.errors import DataError
from storage.ingest import (
    IngestPlan,
    ReadBackShard,
    ShardSummary,
    ShardTask,
    abandon,
    finish,
    plan_ingest,
    prepare,
    read_back,
    write_shard,
)
from storage.schema import SPLITS, Layout
from storage.sources import Source
from storage.synthetic import Synthetic
from tests.bits import bits

Write = Callable[..., Any]  # see conftest.py
SOURCE = Synthetic(train_rows=230, test_rows=40)
OTHER = Synthetic(train_rows=230, test_rows=40, seed=9)
LAYOUT = Layout(shard_rows=50, chunk_rows=10)


def ingest(source: Source, url: str, layout: Layout = LAYOUT) -> Dataset:
    plan = plan_ingest(source, url, layout)
    return carry_out(prepare(plan))[0]


def carry_out(plan: IngestPlan) -> tuple[Dataset, list[ShardSummary]]:
    summaries = [write_shard(plan, shard) for shard in plan.shards]
    return finish(plan, summaries, read_all(plan)), summaries


def read_all(plan: IngestPlan) -> list[ReadBackShard]:
    return [read_back(plan, shard) for shard in plan.shards]


def assert_holds(dataset: Dataset, source: Source) -> None:
    """Compare every row with the source, and the mean with NumPy's mean of the source."""
    for split in SPLITS:
        images, labels = source.read(split, 0, source.rows(split))
        read_images, read_labels = dataset.read(split, 0, dataset.rows(split))
        np.testing.assert_array_equal(read_images, images)
        np.testing.assert_array_equal(read_labels, labels)
        np.testing.assert_array_equal(dataset.labels(split), labels)
    images, _ = source.read("train", 0, source.rows("train"))
    np.testing.assert_allclose(dataset.mean, images.mean(axis=0, dtype=np.float64), rtol=1e-14)


@pytest.fixture(params=["path", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "path":
        yield str(tmp_path / "made" / "data.zarr")
        return
    yield f"memory://{tmp_path.name}/data.zarr"
    fsspec.filesystem("memory").store.clear()


def test_store_contains_the_rows_of_the_source(url: str) -> None:
    dataset = ingest(SOURCE, url)
    assert_holds(dataset, SOURCE)
    assert open_dataset(url) == dataset
    assert dataset.shards("train") == LAYOUT.shards(230)


@pytest.mark.parametrize("version", ["binary", "python"])
def test_both_versions_of_cifar10_have_the_same_fingerprint(
    version: str, request: pytest.FixtureRequest, tmp_path: Path, binary: Write
) -> None:
    source = open_directory(request.getfixturevalue(version)("a").path, records=20)
    dataset = ingest(source, str(tmp_path / "a.zarr"))
    assert_holds(dataset, source)
    other = open_directory(binary("b").path, records=20)
    assert ingest(other, str(tmp_path / "b.zarr")).fingerprint == dataset.fingerprint


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    shard_rows=st.integers(7, 300),
    chunk_rows=st.integers(3, 300),
    order=st.randoms(use_true_random=False),
)
def test_fingerprint_and_mean_do_not_depend_on_layout_or_order(
    tmp_path_factory: pytest.TempPathFactory, shard_rows: int, chunk_rows: int, order: random.Random
) -> None:
    place = tmp_path_factory.mktemp("layouts")
    plain = ingest(SOURCE, str(place / "plain.zarr"))
    plan = plan_ingest(SOURCE, str(place / "other.zarr"), Layout(shard_rows, chunk_rows))
    prepare(plan)
    shards = list(plan.shards)
    order.shuffle(shards)
    summaries = [write_shard(plan, shard) for shard in shards]
    order.shuffle(summaries)
    other = finish(plan, summaries, read_all(plan))
    assert other.fingerprint == plain.fingerprint
    assert bits(other.mean) == bits(plain.mean)
    assert_holds(other, SOURCE)


def test_changed_pixel_or_label_changes_the_fingerprint(binary: Write, tmp_path: Path) -> None:
    found = set()
    for name, position in [("none", None), ("label", 0), ("pixel", 3072)]:
        path = binary(name).path
        if position is not None:
            content = bytearray((path / "test_batch.bin").read_bytes())
            content[position] ^= 1
            (path / "test_batch.bin").write_bytes(content)
        source = open_directory(path, records=20)
        found.add(ingest(source, str(tmp_path / f"{name}.zarr")).fingerprint)
    assert len(found) == 3


def test_shard_summaries_count_the_images_of_each_class(tmp_path: Path) -> None:
    plan = plan_ingest(SOURCE, str(tmp_path / "x.zarr"), LAYOUT)
    prepare(plan)
    summaries = [write_shard(plan, shard) for shard in plan.shards if shard.split == "train"]
    _, labels = SOURCE.read("train", 0, 230)
    counts = np.sum([summary.class_counts for summary in summaries], axis=0)
    assert counts.tolist() == [int((labels == k).sum()) for k in range(10)]


def test_store_appears_only_when_finished_and_leaves_no_other_files(tmp_path: Path) -> None:
    url = tmp_path / "data.zarr"
    plan = plan_ingest(SOURCE, str(url), LAYOUT)
    assert list(tmp_path.iterdir()) == []
    prepare(plan)
    summaries = [write_shard(plan, shard) for shard in plan.shards]
    assert not url.exists()
    with pytest.raises(
        DataError, match="an ingest was started here but did not finish; create it with"
    ):
        open_dataset(str(url))
    finish(plan, summaries, read_all(plan))
    assert list(tmp_path.iterdir()) == [url]


def test_unfinished_store_in_memory_cannot_be_opened() -> None:
    plan = plan_ingest(SOURCE, "memory://unfinished.zarr", LAYOUT)
    prepare(plan)
    with pytest.raises(DataError, match=r"the store at memory://unfinished.zarr is not finished"):
        open_dataset("memory://unfinished.zarr")
    abandon(plan)
    with pytest.raises(DataError, match=r"no store at memory://unfinished.zarr; create it with"):
        open_dataset("memory://unfinished.zarr")


def test_repeated_ingest_is_complete_and_changes_nothing(url: str) -> None:
    dataset = ingest(SOURCE, url)
    plan = plan_ingest(SOURCE, url, Layout(shard_rows=70))
    assert plan.complete
    assert plan.shards == ()
    prepare(plan)
    assert finish(plan, [], []) == dataset
    abandon(plan)
    assert_holds(open_dataset(url), SOURCE)


def test_store_of_other_data_is_never_overwritten(url: str) -> None:
    dataset = ingest(SOURCE, url)
    with pytest.raises(DataError) as caught:
        plan_ingest(Synthetic(train_rows=230, test_rows=40, seed=9), url)
    assert str(caught.value) == (
        f"{url} already contains other data: synthetic images (seed 0), not CIFAR-10 "
        f"(fingerprint {dataset.fingerprint[:12]}); remove it or name another store"
    )


@pytest.mark.parametrize("kind", ["file", "directory", "zarr group", "broken store"])
def test_file_or_directory_that_is_not_a_store_is_left_unchanged(tmp_path: Path, kind: str) -> None:
    url = tmp_path / "data.zarr"
    if kind == "file":
        url.write_text("a letter")
    else:
        url.mkdir()
        name = "letter" if kind == "directory" else "zarr.json"
        group = '{"zarr_format": 3, "node_type": "group", "attributes": {"a": 1}}'
        (url / name).write_text(group if kind == "zarr group" else "{a letter")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for use in (lambda: plan_ingest(SOURCE, str(url)), lambda: open_dataset(str(url))):
        with pytest.raises(DataError, match=f"{url} is .*not a store created by `hinge ingest`"):
            use()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_empty_directory_can_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "data.zarr").mkdir()
    assert_holds(ingest(SOURCE, str(tmp_path / "data.zarr")), SOURCE)


def test_location_that_cannot_be_written_raises_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plan = plan_ingest(SOURCE, str(tmp_path / "file" / "data.zarr"), LAYOUT)
    with pytest.raises(DataError, match=f"cannot write a store at {tmp_path}/file/data.zarr"):
        prepare(plan)


@pytest.mark.parametrize(
    ("url", "message"),
    [("", "the store's URL is empty"), ("nosuch://x", "cannot use the store nosuch://x: ")],
)
def test_invalid_url_raises_data_error(url: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plan_ingest(SOURCE, url)


def test_ingest_abandoned_after_a_bad_label_leaves_no_files(binary: Write, tmp_path: Path) -> None:
    path = binary("bin").path
    content = bytearray((path / "data_batch_4.bin").read_bytes())
    content[0] = 10
    (path / "data_batch_4.bin").write_bytes(content)
    source = open_directory(path, records=20)
    plan = plan_ingest(source, str(tmp_path / "x" / "data.zarr"), LAYOUT)
    prepare(plan)
    write_shard(plan, plan.shards[0])
    with pytest.raises(DataError, match=r"data_batch_4.bin, record 0: label 10"):
        write_shard(plan, plan.shards[1])  # rows 50 to 99; the fourth file starts at row 60
    abandon(plan)
    assert list((tmp_path / "x").iterdir()) == []


def test_finish_requires_every_shard_exactly_once(tmp_path: Path) -> None:
    plan = plan_ingest(SOURCE, str(tmp_path / "data.zarr"), LAYOUT)
    prepare(plan)
    summaries = [write_shard(plan, shard) for shard in plan.shards]
    stored = read_all(plan)
    for wrong in (summaries[1:], [*summaries, summaries[0]]):
        with pytest.raises(ValueError, match="each of the plan's 6 shards is needed exactly once"):
            finish(plan, wrong, stored)
    with pytest.raises(ValueError, match=r"plan's 6 shards .*, but 5 shards were given"):
        finish(plan, summaries, stored[1:])


def _resume(plan: IngestPlan) -> list[bool]:
    dataset, summaries = carry_out(prepare(plan))
    assert_holds(dataset, SOURCE)
    return [summary.reused for summary in summaries]


def test_damaged_shard_is_written_again(url: str) -> None:
    plan = plan_ingest(SOURCE, url, LAYOUT)
    prepare(plan)
    for shard in plan.shards:
        assert not write_shard(plan, shard).reused
        assert write_shard(plan, shard).reused
    system, path = fsspec.url_to_fs(plan.location.partial.url)
    for number, damage in [(1, b"short"), (4, b"")]:  # shard 4 is the last one and is shorter
        system.pipe_file(f"{path}/train/images/c/{number}/0/0/0", damage)
    assert _resume(plan) == [True, False, True, True, False, True]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from storage import ingest
    from storage.schema import Layout
    from storage.synthetic import Synthetic

    class Fatal(Synthetic):
        def read(self, split, start, stop):
            if start == {fatal_start}:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().read(split, start, stop)

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    if {fatal_start} is None:
        Path.rename = die
    plan = ingest.plan_ingest(Fatal(230, 40), {url!r}, Layout(50, 10))
    ingest.prepare(plan)
    summaries = [ingest.write_shard(plan, shard) for shard in plan.shards]
    ingest.finish(plan, summaries, [ingest.read_back(plan, shard) for shard in plan.shards])
"""


def _run_killed_ingest(url: str, fatal_start: int | None) -> None:
    program = textwrap.dedent(KILLED.format(url=url, fatal_start=fatal_start))
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fatal_start", "kept"), [(100, 2), (None, 6)], ids=["third shard", "rename"]
)
def test_ingest_killed_in_a_shard_or_before_the_rename_resumes(
    tmp_path: Path, fatal_start: int | None, kept: int
) -> None:
    url = tmp_path / "data.zarr"
    _run_killed_ingest(str(url), fatal_start)
    assert not url.exists()
    partial = tmp_path / ".data.zarr.partial"
    (partial / "train/images/c/2").mkdir(parents=True, exist_ok=True)
    (partial / "train/images/c/2/0.abc.partial").write_bytes(b"a partial write")
    assert _resume(plan_ingest(SOURCE, str(url), LAYOUT)) == [True] * kept + [False] * (6 - kept)
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


@pytest.mark.slow
def test_other_source_or_layout_starts_from_scratch(tmp_path: Path) -> None:
    url = str(tmp_path / "data.zarr")
    _run_killed_ingest(url, 100)
    other = Synthetic(train_rows=230, test_rows=40, seed=3)
    plan = plan_ingest(other, url, LAYOUT)
    prepare(plan)
    assert not any(write_shard(plan, shard).reused for shard in plan.shards)
    assert _resume(plan_ingest(SOURCE, url, Layout(60, 10))) == [False] * 5


def test_ingest_killed_before_its_manifest_starts_from_scratch(tmp_path: Path) -> None:
    (tmp_path / ".data.zarr.partial").mkdir()
    (tmp_path / ".data.zarr.partial" / "zarr.abc.partial").write_text("{")
    assert_holds(ingest(SOURCE, str(tmp_path / "data.zarr")), SOURCE)
    assert list(tmp_path.iterdir()) == [tmp_path / "data.zarr"]


def _put_rows_of(other: Source, plan: IngestPlan, shard: ShardTask) -> None:
    """Write a complete, valid shard with another source's rows to the unfinished store."""
    images, labels = other.read(shard.split, shard.start, shard.stop)
    where = plan.location.partial
    for name, rows in (("images", images.reshape(-1, 3, 32, 32)), ("labels", labels)):
        StoredArray.open(where, f"{shard.split}/{name}").write(shard.start, rows)


def test_valid_shard_with_other_rows_is_written_again(url: str) -> None:
    plan = prepare(plan_ingest(SOURCE, url, LAYOUT))
    for shard in plan.shards:
        write_shard(plan, shard)
    _put_rows_of(OTHER, plan, plan.shards[2])
    _, labels = OTHER.read("train", 0, 50)
    StoredArray.open(plan.location.partial, "train/labels").write(0, labels)  # only the labels
    assert _resume(plan) == [False, True, False, True, True, True]


@pytest.mark.parametrize("damage", ["other rows", "missing"])
def test_store_changed_after_writing_is_not_finished(url: str, damage: str) -> None:
    plan = prepare(plan_ingest(SOURCE, url, LAYOUT))
    summaries = [write_shard(plan, shard) for shard in plan.shards]
    shard = plan.shards[2]
    if damage == "other rows":
        _put_rows_of(OTHER, plan, shard)
    else:
        plan.location.partial.child("train/labels/c/2").remove()
    with pytest.raises(DataError) as caught:
        finish(plan, summaries, read_all(plan))
    assert str(caught.value) == (
        f"{url}: train rows 100 to 149 differ from the source, because something else has written "
        "to the store; the store is not finished, so run this again"
    )
    with pytest.raises(
        DataError, match=r"(not finished; run its ingest|did not finish; create it with)"
    ):
        open_dataset(url)
    assert _resume(plan) == [True, True, False, True, True, True]


@pytest.mark.parametrize("source", [SOURCE, OTHER])
def test_unfinished_store_at_the_final_path_is_moved_back_and_resumed(
    tmp_path: Path, source: Source
) -> None:
    url = tmp_path / "data.zarr"
    plan = prepare(plan_ingest(SOURCE, str(url), LAYOUT))
    for shard in plan.shards[:3]:
        write_shard(plan, shard)
    Path(plan.location.partial.url).rename(url)
    (tmp_path / ".data.zarr.partial").mkdir()
    (tmp_path / ".data.zarr.partial" / "left").write_text("by another ingest")
    with pytest.raises(DataError, match="is not finished; run its ingest again to resume it"):
        open_dataset(str(url))
    dataset, summaries = carry_out(prepare(plan_ingest(source, str(url), LAYOUT)))
    assert_holds(dataset, source)
    kept = 3 if source is SOURCE else 0
    assert [each.reused for each in summaries] == [True] * kept + [False] * (6 - kept)
    assert list(tmp_path.iterdir()) == [url]


def test_store_finished_after_the_plan_was_made_is_kept(url: str) -> None:
    same = plan_ingest(SOURCE, url, LAYOUT)
    other = plan_ingest(OTHER, url, LAYOUT)
    dataset = ingest(SOURCE, url)
    assert prepare(same).complete
    assert finish(prepare(same), [], []) == dataset
    with pytest.raises(DataError, match="already contains other data"):
        prepare(other)
    assert_holds(open_dataset(url), SOURCE)


def test_ingest_succeeds_after_an_interrupted_removal_of_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ingest would reject an unfinished store without its root's metadata."""
    url = f"memory://{tmp_path.name}/data.zarr"
    plan = prepare(plan_ingest(SOURCE, url, LAYOUT))
    write_shard(plan, plan.shards[0])
    removed: list[str] = []

    def remove_two_and_stop(
        system: MemoryFileSystem, path: str | list[str], recursive: bool = False
    ) -> None:
        files = system.find(path) if isinstance(path, str) else path
        # The worst order removes the root's metadata first.
        for file in sorted(files, key=lambda name: name.count("/")):
            if len(removed) == 2:
                raise KeyboardInterrupt
            system.rm_file(file)
            removed.append(file)

    with monkeypatch.context() as patched:
        patched.setattr(MemoryFileSystem, "rm", remove_two_and_stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(plan_ingest(OTHER, url, LAYOUT))
    assert len(removed) == 2
    assert_holds(ingest(OTHER, url), OTHER)
    MemoryFileSystem.store.clear()
