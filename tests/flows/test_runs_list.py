"""The list of runs: good, unfinished, damaged and foreign ones, as `hinge runs` shows them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli import run_command
from flows.history.listing import ListedRun, list_runs
from flows.runs.directory import RunDirectory
from tests.flows.conftest import Finished

Hinge = Callable[..., Finished]


@pytest.fixture
def listed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Hinge:
    """Return a function that runs `hinge runs` in this process on the test's directory."""

    def run(*arguments: str) -> Finished:
        status = run_command(["runs", "--runs", str(tmp_path), *arguments])
        return Finished(status, *capfd.readouterr())

    return run


def record(runs: Path, name: str, **document: Any) -> RunDirectory:
    """Write a record, by default of a finished sweep."""
    directory = RunDirectory(runs / name)
    directory.path.mkdir()
    first = {"command": "sweep", "status": "done", "started": "2026-01-02T03:04:05+00:00"}
    directory.write_document(first | document)
    return directory


def by_name(runs: Path) -> dict[str, ListedRun]:
    return {run.run: run for run in list_runs(runs)}


def test_runs_are_listed_newest_first_with_their_results(listed: Hinge, tmp_path: Path) -> None:
    cifar = {"name": "cifar10"}
    for day, name in enumerate(["second", "third", "first"], 1):
        started = f"2026-01-{(day % 3) + 1:02}T00:00:00+00:00"
        record(tmp_path, name, started=started, data=cifar, summary=f"loss {day}")
    finished = listed()
    assert (finished.status, finished.err) == (0, "")
    lines = [line.split() for line in finished.out.splitlines()]
    assert lines[0] == ["run", "status", "data", "age", "result"]
    assert [(line[0], *line[1:3], *line[-2:]) for line in lines[1:4]] == [
        ("third", "done", "cifar10", "loss", "2"),
        ("second", "done", "cifar10", "loss", "1"),
        ("first", "done", "cifar10", "loss", "3"),
    ]
    assert lines[4] == ["runs", "3", "in", str(tmp_path)]


def test_running_record_is_in_progress_only_while_a_process_has_its_lock(tmp_path: Path) -> None:
    run = record(tmp_path, "a", status="running")
    assert by_name(tmp_path)["a"].status == "stopped"
    holder = (
        "import sys; from pathlib import Path; from flows.runs.directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).locked(): print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, run.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert by_name(tmp_path)["a"].status == "in progress"
        process.kill()
    assert by_name(tmp_path)["a"].status == "stopped"
    with record(tmp_path, "b").locked():
        assert by_name(tmp_path)["b"].status == "done"


def test_damaged_and_foreign_directories_are_listed_as_such(listed: Hinge, tmp_path: Path) -> None:
    for name, content in {
        "cut": '{"command": "swee',
        "list": "[1]",
        "foreign": '{"result": 7}',
        "binary": "\udcff",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_bytes(content.encode(errors="surrogateescape"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder" / "result.json").mkdir(parents=True)
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden").mkdir()
    record(tmp_path, "odd", started="yesterday", data=7, cluster=[])
    finished = listed("--json")
    assert finished.status == 0
    statuses = {run["run"]: run["status"] for run in finished.result["runs"]}
    assert statuses == {
        **dict.fromkeys(["cut", "list", "foreign", "binary", "folder"], "unreadable"),
        "empty": "no record",
        "odd": "done",
    }
    assert all("\n" not in run["result"] for run in finished.result["runs"])


def test_result_of_a_record_without_summary_is_its_error_or_its_loss(tmp_path: Path) -> None:
    record(tmp_path, "failed", status="failed", error="one\ntwo")
    record(tmp_path, "sweep", best_loss=8.0, loss=9.0)
    record(tmp_path, "train", loss=5.6604451)
    record(tmp_path, "diverged", loss=None)
    results = {name: run.result for name, run in by_name(tmp_path).items()}
    assert results == {
        "failed": "one two",
        "sweep": "best loss 8.000000",
        "train": "loss 5.660445",
        "diverged": "",
    }


def test_runs_are_chosen_by_command_status_and_number(listed: Hinge, tmp_path: Path) -> None:
    for number in range(3):
        record(tmp_path, f"sweep-{number}", started=f"2026-01-0{number + 1}T00:00:00+00:00")
    record(tmp_path, "train-0", command="train", status="failed")
    assert {run["run"] for run in listed("--command", "train", "--json").result["runs"]} == {
        "train-0"
    }
    assert len(listed("--status", "done", "--json").result["runs"]) == 3
    finished = listed("--command", "sweep", "--limit", "1")
    assert finished.out.splitlines()[1].startswith("sweep-2 ")
    assert finished.out.splitlines()[-1] == f"runs  1 of 3 (--limit N lists more) in {tmp_path}"


def test_directory_without_runs(listed: Hinge, tmp_path: Path) -> None:
    assert listed().out == f"runs  none in {tmp_path}\n"
    assert run_command(["runs", "--runs", str(tmp_path / "missing")]) == 0


def test_list_imports_no_orchestrator_and_no_cluster(tmp_path: Path) -> None:
    code = (
        "import json, sys; from flows.cli import run_command\n"
        "run_command(['runs', '--runs', sys.argv[1]])\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    record(tmp_path, "a")
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert not imported & {"prefect", "distributed", "dask", "zarr", "numba", "matplotlib"}
