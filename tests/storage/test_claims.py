"""One ingest at a time writes a store: shown with processes that run at once."""

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
from tests.storage.ingesting import LEASE, source

ROOT = Path(__file__).parents[2]
REFUSED = (
    r"{url} is being written by another ingest \(process {pid} on \S+, since \S+\); "
    "wait for its end or end it, then run this again"
)


@pytest.fixture(scope="module")
def fingerprints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return those of the two sources, each stored alone."""
    found = []
    for seed in (0, 1):
        url = str(tmp_path_factory.mktemp("alone") / "a.zarr")
        plan = prepare(plan_ingest(source(seed), url))
        summaries = [write_shard(plan, shard) for shard in plan.shards]
        stored = [read_back(plan, shard) for shard in plan.shards]
        found.append(finish(plan, summaries, stored).fingerprint)
    return found


Ingesting = subprocess.Popen[str]


@contextmanager
def start(url: str, seed: int, signs: Path) -> Iterator[Ingesting]:
    signs.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.storage.ingesting", url, str(seed), str(signs)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def output(process: Ingesting) -> list[str]:
    return process.communicate(timeout=30)[0].splitlines()


@pytest.mark.parametrize(
    ("protocol", "seeds", "delay"),
    [
        ("", (0, 1), 0.0),
        ("exclusive://", (0, 0), 0.0),
        *(
            pytest.param(protocol, seeds, delay, marks=pytest.mark.slow)
            for protocol in ("", "exclusive://", "looking://")
            for seeds in ((0, 0), (0, 1))
            for delay in (0.0, 0.3, 1.5)
        ),
    ],
)
def test_of_two_ingests_at_once_one_works_and_the_other_is_refused(
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
def test_the_claim_of_a_killed_ingest_blocks_nobody_for_long(
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
        "watching for up to 1 s whether it is alive"
    )
    # the kernel knows at once that the holder of a file's lock is dead
    assert len(told) == (1 if protocol else 0)
    assert all(re.fullmatch(watching, line) for line in told)
    assert list((tmp_path / "store").iterdir()) == [tmp_path / "store" / "a.zarr"]


@pytest.mark.slow
def test_an_ingest_that_was_suspended_does_not_publish_over_another(
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
            # what the suspended ingest wrote is found by reading back
            assert last == fingerprints[1] or "are not the source's" in last
    if second.returncode == 0:
        assert open_dataset(url).fingerprint == fingerprints[1]


@pytest.mark.parametrize("alive", [True, False])
def test_a_claim_from_another_machine_is_watched_though_the_lock_is_free(
    tmp_path: Path, alive: bool
) -> None:
    """A shared file system may not pass kernel locks on from machine to machine."""
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
                pytest.fail("two hold the claim")
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
def test_a_claim_is_exclusive_in_a_process_too_and_ends_with_its_block(
    tmp_path: Path, kind: str
) -> None:
    url = f"memory://{tmp_path.name}/a.zarr" if kind == "memory" else str(tmp_path / "a.zarr")
    where = Location.parse(url)
    for _ in range(2):
        with claim_store(where, LEASE):
            with (
                pytest.raises(DataError, match=REFUSED.format(url=url, pid=os.getpid())),
                claim_store(where, LEASE),
            ):
                pytest.fail("two hold the claim")
            if kind == "path":
                with pytest.raises(DataError, match="is being written by another ingest"):
                    refuse_if_claimed(where)
        assert where.claim.read_bytes() is None
        refuse_if_claimed(where)
        assert where.claim.read_bytes() is None


def test_a_claim_that_another_ingest_replaced_at_once_is_refused(tmp_path: Path) -> None:
    """As happens where a file system only looks first whether there is an object."""
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
        pytest.fail("two hold the claim")
    thread.join()
    assert Holder.read(where.claim) == other


def test_a_claim_whose_file_is_gone_is_lost(tmp_path: Path) -> None:
    where = Location.parse(str(tmp_path / "a.zarr"))
    with claim_store(where, LEASE) as claim:
        claim.check()
        where.claim.remove()
        with pytest.raises(DataError, match=r"has lost its claim on .* is gone\); run it again"):
            claim.check()
        with claim_store(where, LEASE) as second:  # the removed file excludes nobody
            with pytest.raises(DataError, match=r"has lost its claim on .* now held by process"):
                claim.check()
            time.sleep(3 * LEASE.refresh_seconds)  # the first does not rewrite it
            second.check()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_is_rewritten_while_it_is_held(tmp_path: Path) -> None:
    where = Location.parse(str(tmp_path / "a.zarr"))
    with claim_store(where, Lease(refresh_seconds=0.01)) as claim:
        until(lambda: '"beat": 5' in (where.claim.read_bytes() or b"").decode())
        claim.check()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_cannot_be_read_is_a_dead_ones(tmp_path: Path) -> None:
    for content in (b"{", json.dumps({"pid": 7}).encode()):
        where = Location.parse(f"memory://{tmp_path.name}/a.zarr")
        where.claim.write_bytes(content)
        with claim_store(where, replace(LEASE, expiry_seconds=0.2)) as claim:
            claim.check()


def test_a_place_that_cannot_be_claimed_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    where = Location.parse(str(tmp_path / "file" / "a.zarr"))
    with (
        pytest.raises(DataError, match=f"cannot write a store at {tmp_path}/file/a.zarr: "),
        claim_store(where, LEASE),
    ):
        pytest.fail("there is no such place")


def test_a_file_is_locked_by_one_and_seen_to_be(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists()
    holder = try_lock_path(path)
    assert holder is not None
    assert is_locked(path)
    assert try_lock_path(path) is None
    release(holder)
    assert not is_locked(path)


def test_a_lock_on_a_file_that_its_holder_removed_does_not_count(
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
def test_a_whole_bucket_is_refused_in_one_line(url: str) -> None:
    """Its claim would lie beside it, in another bucket."""
    location = Location(url, is_local=False)  # `parse` wants the packages of object stores
    with pytest.raises(DataError, match=r"whole bucket; name a store in it"), claim_store(location):
        pytest.fail("a bucket was claimed")


def test_a_store_in_memory_is_no_bucket() -> None:
    with claim_store(Location.parse("memory://a.zarr")):
        pass
