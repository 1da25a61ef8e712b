"""Claims, which let only one ingest at a time write a store, tested with concurrent processes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage import locks
from storage.claims import Holder, Lease, claim_store, refuse_if_claimed
from storage.dataset import open_dataset
from storage.errors import DataError
from storage.ingest import finish, plan_ingest, prepare, read_back, write_shard
from storage.location import Location
from storage.locks import is_locked, open_lock, release, try_lock_path
from tests.storage.ingest_process import LEASE, source

ROOT = Path(__file__).parents[2]
REFUSED = (
    r"{url} is being written by another ingest \(process {pid} on \S+, since \S+\); "
    "wait until it finishes or stop it, then run this again"
)


@pytest.fixture(scope="module")
def fingerprints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the fingerprints of the sources of seeds 0 and 1, each ingested alone."""
    found = []
    for seed in (0, 1):
        url = str(tmp_path_factory.mktemp("alone") / "a.zarr")
        plan = prepare(plan_ingest(source(seed), url))
        summaries = [write_shard(plan, shard) for shard in plan.shards]
        stored = [read_back(plan, shard) for shard in plan.shards]
        found.append(finish(plan, summaries, stored).fingerprint)
    return found


IngestProcess = subprocess.Popen[str]


@contextmanager
def start(url: str, seed: int, signs: Path) -> Iterator[IngestProcess]:
    signs.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.storage.ingest_process", url, str(seed), str(signs)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)


def output(process: IngestProcess) -> list[str]:
    return process.communicate(timeout=30)[0].splitlines()


@pytest.mark.parametrize(
    ("protocol", "seeds", "delay"),
    [
        ("", (0, 1), 0.0),  # a path; two sources
        ("exclusive://", (0, 0), 0.0),  # an object store; one source twice
        *(
            pytest.param(protocol, seeds, delay, marks=pytest.mark.slow)
            for protocol in ("", "exclusive://", "checking://")
            for seeds in ((0, 0), (0, 1))
            for delay in (0.0, 0.3, 1.5)
        ),
    ],
)
def test_one_of_two_concurrent_ingests_is_refused(
    tmp_path: Path, fingerprints: list[str], protocol: str, seeds: tuple[int, int], delay: float
) -> None:
    url, signs = f"{protocol}{tmp_path}/store/a.zarr", tmp_path / "signs"
    with start(url, seeds[0], signs) as first:
        time.sleep(delay)
        with start(url, seeds[1], signs) as second:
            both = (first, second)
            until(lambda: any(each.poll() is not None for each in both))
            refused, works = both if first.poll() is not None else both[::-1]
            assert re.fullmatch(REFUSED.format(url=url, pid=works.pid), output(refused)[-1])
            assert refused.returncode == 2
            (signs / "go").touch()
            wanted = fingerprints[seeds[both.index(works)]]
            assert output(works)[-1] == wanted
    assert open_dataset(url).fingerprint == wanted
    assert list((tmp_path / "store").iterdir()) == [tmp_path / "store" / "a.zarr"]


@pytest.mark.parametrize("protocol", ["", pytest.param("exclusive://", marks=pytest.mark.slow)])
def test_claim_of_a_killed_ingest_is_taken_over(
    tmp_path: Path, fingerprints: list[str], protocol: str
) -> None:
    url, signs = f"{protocol}{tmp_path}/store/a.zarr", tmp_path / "signs"
    with start(url, 0, signs) as killed:
        until((signs / str(killed.pid)).exists)
        killed.kill()
    (signs / "go").touch()
    with start(url, 1, signs) as second:
        told = output(second)
    assert told.pop() == fingerprints[1]
    watching = (
        rf"{url} is claimed by another ingest \(process {killed.pid} on .*\); "
        "waiting up to 1 s to see whether it is alive"
    )
    # with a path, the kernel has released the lock, so the second ingest does not wait
    assert len(told) == (1 if protocol else 0)
    assert all(re.fullmatch(watching, line) for line in told)
    assert list((tmp_path / "store").iterdir()) == [tmp_path / "store" / "a.zarr"]


@pytest.mark.slow
def test_suspended_ingest_does_not_publish_over_its_successor(
    tmp_path: Path, fingerprints: list[str]
) -> None:
    url, signs = f"exclusive://{tmp_path}/store/a.zarr", tmp_path / "signs"
    with start(url, 0, signs) as suspended:
        until((signs / str(suspended.pid)).exists)
        suspended.send_signal(signal.SIGSTOP)
        with start(url, 1, tmp_path / "others") as second:
            until((tmp_path / "others" / str(second.pid)).exists)
            (signs / "go").touch()
            suspended.send_signal(signal.SIGCONT)
            [line] = output(suspended)
            assert line.startswith(
                f"this ingest has lost its claim on {url} (it is now held by process {second.pid} "
            )
            (tmp_path / "others" / "go").touch()
            last = output(second)[-1]
            # rows that the suspended ingest wrote are detected when reading back
            assert last == fingerprints[1] or "differ from the source" in last
    if second.returncode == 0:
        assert open_dataset(url).fingerprint == fingerprints[1]


@pytest.mark.parametrize("alive", [True, False])
def test_claim_from_another_machine_is_watched_although_unlocked(
    tmp_path: Path, alive: bool
) -> None:
    """A shared file system may not support kernel locks between machines."""
    where = Location.parse(str(tmp_path / "a.zarr"))
    other = replace(Holder.this_process(), host="elsewhere", kernel="another", pid=7)
    other.write(where.claim)
    ended, told = threading.Event(), list[str]()

    def beat() -> None:
        while alive and not ended.wait(0.05):
            replace(other, beat=other.beat + 1).write(where.claim)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        if alive:
            with (
                pytest.raises(DataError, match=r"another ingest \(process 7 on elsewhere, "),
                claim_store(where, LEASE, told.append),
            ):
                pytest.fail("two processes hold the claim")
        else:
            started = time.monotonic()
            with claim_store(where, LEASE, told.append) as claim:
                assert time.monotonic() - started >= LEASE.expiry_seconds
                claim.check()
    finally:
        ended.set()
        thread.join()
    assert len(told) == 1


@pytest.mark.parametrize("kind", ["path", "memory"])
def test_claim_excludes_its_own_process_and_ends_with_its_block(tmp_path: Path, kind: str) -> None:
    url = f"memory://{tmp_path.name}/a.zarr" if kind == "memory" else str(tmp_path / "a.zarr")
    where = Location.parse(url)
    for _ in range(2):
        with claim_store(where, LEASE):
            with (
                pytest.raises(DataError, match=REFUSED.format(url=url, pid=os.getpid())),
                claim_store(where, LEASE),
            ):
                pytest.fail("one process holds the claim twice")
            if kind == "path":
                with pytest.raises(DataError, match="is being written by another ingest"):
                    refuse_if_claimed(where)
        assert where.claim.read_bytes() is None
        refuse_if_claimed(where)
        assert where.claim.read_bytes() is None


def test_claim_replaced_right_after_creation_raises_data_error(tmp_path: Path) -> None:
    """This can happen if the file system first checks whether an object exists, then creates it."""
    url = f"memory://{tmp_path.name}/a.zarr"
    where = Location.parse(url)
    other = replace(Holder.this_process(), host="elsewhere", pid=7)

    def replace_it() -> None:
        until(lambda: where.claim.read_bytes() is not None)
        other.write(where.claim)

    thread = threading.Thread(target=replace_it)
    thread.start()
    with (
        pytest.raises(DataError, match=REFUSED.format(url=url, pid=7)),
        claim_store(where, LEASE),
    ):
        pytest.fail("two processes hold the claim")
    thread.join()
    assert Holder.read(where.claim) == other


def test_claim_is_lost_when_its_file_is_removed(tmp_path: Path) -> None:
    where = Location.parse(str(tmp_path / "a.zarr"))
    with claim_store(where, LEASE) as claim:
        claim.check()
        where.claim.remove()
        with pytest.raises(
            DataError, match=r"has lost its claim on .* was removed\); run it again"
        ):
            claim.check()
        with claim_store(where, LEASE) as second:  # a removed file no longer excludes others
            with pytest.raises(DataError, match=r"has lost its claim on .* now held by process"):
                claim.check()
            time.sleep(3 * LEASE.refresh_seconds)  # the first claim must not rewrite it
            second.check()
    assert list(tmp_path.iterdir()) == []


def test_claim_is_rewritten_while_held(tmp_path: Path) -> None:
    where = Location.parse(str(tmp_path / "a.zarr"))
    with claim_store(where, Lease(refresh_seconds=0.01)) as claim:
        until(lambda: '"beat": 5' in (where.claim.read_bytes() or b"").decode())
        claim.check()
    assert list(tmp_path.iterdir()) == []


def test_unreadable_claim_expires(tmp_path: Path) -> None:
    for content in (b"{", json.dumps({"pid": 7}).encode()):
        where = Location.parse(f"memory://{tmp_path.name}/a.zarr")
        where.claim.write_bytes(content)
        with claim_store(where, replace(LEASE, expiry_seconds=0.2)) as claim:
            claim.check()


def test_location_that_cannot_be_claimed_raises_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    where = Location.parse(str(tmp_path / "file" / "a.zarr"))
    with (
        pytest.raises(DataError, match=f"cannot write a store at {tmp_path}/file/a.zarr: "),
        claim_store(where, LEASE),
    ):
        pytest.fail("a location that cannot be written was claimed")


def test_file_lock_is_exclusive_and_visible(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists()
    holder = try_lock_path(path)
    assert holder is not None
    assert is_locked(path)
    assert try_lock_path(path) is None
    release(holder)
    assert not is_locked(path)


def test_lock_on_a_removed_file_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    opened: list[int] = []

    def open_just_before_it_is_removed(path: Path) -> int:
        opened.append(open_lock(path))
        if len(opened) == 1:
            path.unlink()
        return opened[-1]

    monkeypatch.setattr(locks, "open_lock", open_just_before_it_is_removed)
    held = try_lock_path(path)
    assert held is not None
    assert len(opened) == 2
    assert try_lock_path(path) is None
    release(held)


@pytest.mark.parametrize("url", ["s3://bucket", "gs://bucket"])
def test_claim_on_a_whole_bucket_raises_data_error(url: str) -> None:
    """The claim would be beside the bucket, not in it."""
    location = Location(url, is_local=False)  # `parse` requires the packages for object stores
    with pytest.raises(DataError, match=r"whole bucket; name a store in it"), claim_store(location):
        pytest.fail("a bucket was claimed")


def test_store_at_the_root_of_the_memory_file_system_can_be_claimed() -> None:
    with claim_store(Location.parse("memory://a.zarr")):
        pass
