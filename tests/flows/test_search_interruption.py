"""Killed and interrupted searches resume and end in the same record."""

import json
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.search.local_search import local_search
from pipeline.search.random_search import random_search
from tests.flows.conftest import Command, User
from tests.flows.test_refusals import cut_in_half, left, refused

TRIALS = 640
GIVEN: dict[str, list[object]] = {
    "random": ["--trials", TRIALS, "--scale", 1e-3],
    "local": ["--trials", TRIALS],
}


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "result.json").read_text())
    return record


def same(run: Path) -> list[Any]:
    """Return the parts of a run's results that do not depend on interruptions."""
    names = ("trials", "best_trial", "best_loss", "weights_sha256", "test_accuracy", "parameters")
    return [(run / "trials.csv").read_text(), *(record_of(run)[name] for name in names)]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that receives the number of each evaluated trial."""
    numbers: list[int] = []

    def random_noted(placed_dataset: Any, parameters: Any, blocks: Any) -> Any:
        numbers.extend(number for block in blocks for number in block)
        return random_search(placed_dataset, parameters, blocks)

    def local_noted(map_shards: Any, mean: Any, parameters: Any, state: Any) -> Any:
        numbers.extend(range(len(state.losses), parameters.trials))
        return local_search(map_shards, mean, parameters, state)

    monkeypatch.setattr("flows.search.flow.random_search", random_noted)
    monkeypatch.setattr("flows.search.flow.local_search", local_noted)
    return numbers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("random", signal.SIGKILL),
        ("local", signal.SIGKILL),
        ("random", signal.SIGTERM),
        ("random", signal.SIGINT),
        ("local", signal.SIGINT),
    ],
)
def test_stopped_search_resumes_to_the_same_record(
    user: User,
    hinge: Command,
    store: Path,
    tmp_path: Path,
    taken: list[int],
    kind: str,
    sent: signal.Signals,
) -> None:
    command = ("search", kind, "--store", store)
    small, large = (["--block", 4], ["--block", 50]) if kind == "random" else ([], [])
    driver = user.start(*command, *GIVEN[kind], *small, "--workers", 1, cwd=tmp_path)
    with driver:
        assert driver.stderr is not None
        lines = iter(driver.stderr)
        told = next(line for line in lines if line.startswith("in attempt 40 "))
        driver.send_signal(sent)
        more = list(lines)
        driver.wait(60)
    told = [line for line in [told, *more] if line.startswith("in attempt ")][-1]
    [run] = (tmp_path / "runs").iterdir()
    if sent == signal.SIGKILL:
        assert record_of(run)["status"] == "running"
    else:
        assert (driver.returncode, record_of(run)["status"]) == (130, "interrupted")
        resumes = f"`hinge search {kind} --store {store} --resume runs/{run.name}` resumes it"
        said = [line for line in map(str.strip, more) if line]
        assert [line for line in said if not line.startswith("in attempt ")] == [
            f"hinge: interrupted; {resumes}"
        ]

    resumed = hinge(*command, "--resume", run, *large, "--scheduler", user.scheduler)
    assert resumed.status == 0, resumed.err
    before = taken[0]
    assert int(told.split()[2]) < before < TRIALS  # every printed trial is in the journal
    assert taken == list(range(before, TRIALS))  # no trial in the journal is evaluated again
    shown = resumed.err.splitlines()[1:]
    assert shown[0] == f"{before} of {TRIALS} trials had finished before the run was resumed"
    assert [int(line.split()[2]) for line in shown[1:]] == taken

    elsewhere = tmp_path / "undisturbed"
    given = (*command, *GIVEN[kind], "--runs", elsewhere, "--scheduler", user.scheduler)
    assert hinge(*given).status == 0
    [whole] = elsewhere.iterdir()
    assert same(run) == same(whole)


@pytest.fixture
def begun(user: User, hinge: Command, store: Path, tmp_path: Path) -> Path:
    """A run that was killed after all its trials had been written to the journal."""
    given = ("search", "random", "--store", store, "--trials", 20, "--block", 8)
    assert hinge(*given, "--scheduler", user.scheduler).status == 0
    [run] = (tmp_path / "runs").iterdir()
    record = record_of(run) | {"status": "running"}
    (run / "result.json").write_text(json.dumps(record))
    return run


@pytest.mark.slow
def test_resumed_search_with_all_trials_finished_evaluates_none(
    user: User, hinge: Command, store: Path, begun: Path, taken: list[int]
) -> None:
    before = same(begun)
    (begun / "trials.csv").unlink()
    given = ("search", "random", "--store", store, "--scheduler", user.scheduler, "--json")
    resumed = hinge(*given, "--resume", begun)
    assert resumed.status == 0, resumed.err
    assert (taken, same(begun)) == ([], before)
    assert resumed.result["trials_per_second"] == 0.0
    again = hinge("search", "random", "--store", store, "--resume", begun, "--json")
    assert (again.result, again.err) == (resumed.result, "")  # prints the stored record


def statement(text: str) -> Callable[[Path], object]:
    def damage(journal: Path) -> None:
        database = sqlite3.connect(journal)
        with database:
            database.execute(text)
        database.close()

    return damage


def flip_a_bit(journal: Path) -> None:
    database = sqlite3.connect(journal)
    [[arrays]] = database.execute("SELECT arrays FROM entries WHERE number = 2")
    changed = bytearray(arrays)
    changed[changed.index(b"values.npy") + 200] ^= 1  # one bit of a loss
    with database:
        database.execute("UPDATE entries SET arrays = ? WHERE number = 2", [bytes(changed)])
    database.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda journal: journal.write_bytes(b"nonsense" * 1000), ["not a database"]),
        (lambda journal: journal.write_bytes(cut_in_half(journal.read_bytes())), ["malformed"]),
        (statement("DELETE FROM entries WHERE number = 2"), ["the first 8 values"]),
        (statement("INSERT INTO entries (arrays) SELECT arrays FROM entries"), ["first 20"]),
        (statement("UPDATE entries SET arrays = 'text' WHERE number = 2"), []),
        (statement("UPDATE entries SET arrays = x'' WHERE number = 2"), []),
        (flip_a_bit, ["CRC"]),
    ],
    ids=["nonsense", "cut", "gap", "twice", "text", "empty", "flipped"],
)
def test_damaged_journals_are_rejected(
    hinge: Command, store: Path, begun: Path, damage: Callable[[Path], object], words: list[str]
) -> None:
    damage(begun / "journal.sqlite")
    before, record = left(begun), record_of(begun)
    finished = hinge("search", "random", "--store", store, "--resume", begun)
    refused(finished, "journal.sqlite is not a journal of this run", "start a new run", *words)
    assert left(begun) == before | {".lock"}
    assert record_of(begun) == record


@pytest.mark.slow
def test_journal_of_another_search_is_rejected(
    user: User, hinge: Command, store: Path, begun: Path, tmp_path: Path
) -> None:
    given = ("search", "random", "--store", store, "--trials", 20, "--seed", 1)
    assert hinge(*given, "--runs", tmp_path / "b", "--scheduler", user.scheduler).status == 0
    [other] = (tmp_path / "b").iterdir()
    shutil.copy(other / "journal.sqlite", begun / "journal.sqlite")
    finished = hinge("search", "random", "--store", store, "--resume", begun)
    refused(finished, "journal.sqlite", "it belongs to another run")


@pytest.mark.slow
def test_run_without_its_journal_starts_from_scratch(
    user: User, hinge: Command, store: Path, begun: Path, taken: list[int]
) -> None:
    before = same(begun)
    (begun / "journal.sqlite").unlink()
    given = ("search", "random", "--store", store, "--scheduler", user.scheduler)
    assert hinge(*given, "--resume", begun).status == 0
    assert (taken, same(begun)) == (list(range(20)), before)


@pytest.mark.slow
def test_run_of_the_other_kind_of_search_is_rejected(
    hinge: Command, store: Path, begun: Path
) -> None:
    finished = hinge("search", "local", "--store", store, "--resume", begun)
    refused(finished, "is not a run of `hinge search local`", "search random")
