"""Invalid input: the command prints one line, exits with status 2 and leaves no files behind."""

import io
import json
import os
import pickle
import shutil
import socket
import tarfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.cli import run_command
from flows.runs.directory import RunDirectory
from flows.runs.environment import package_versions, this_machine
from flows.runs.record import RunRecord, to_document
from flows.services import session
from flows.services.prefect_server import Server
from pipeline.inputs.errors import PipelineError
from pipeline.training import checkpoints
from pipeline.training.parameters import GradientDescent
from storage.claims import claim_store
from storage.dataset import open_dataset
from storage.location import Location
from tests.flows.conftest import Command, Finished, User, end

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
LOADED = 2
"""Factor on time limits, for a machine that is busy with other work."""

RECORD = bytes([3]) + bytes(3072)


def refused(finished: Finished, *words: str) -> None:
    """Assert status 2 and no output except one line on standard error that contains `words`."""
    assert finished.status == 2, finished
    assert finished.out == ""
    assert finished.err.startswith("hinge: ")
    assert finished.err.count("\n") == 1
    assert finished.err.endswith("\n")
    assert "Traceback" not in finished.err
    for word in words:
        assert word in finished.err, (word, finished.err)


def late(finished: Finished, *words: str) -> None:
    """Assert the same as `refused`, after a first line with the address of the dashboard."""
    dashboard, _, line = finished.err.partition("\n")
    assert dashboard.startswith("Dask dashboard: ")
    refused(Finished(finished.status, finished.out, line), *words)


def left(directory: Path) -> set[str]:
    """Return the names of all files in a directory, including hidden files."""
    return set(os.listdir(directory))  # noqa: PTH208 (only names are needed)


# -- invalid arguments


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["train"], ["--store", "hinge train --help"]),
        (["train", "--store", "STORE", "--bogus"], ["--bogus"]),
        (["train", "--store", "STORE", "--method", "adam"], ["adam", "gd", "minibatch", "lbfgs"]),
        (["train", "--store", "STORE", "--batch-size", "0"], ["--batch-size", "0"]),
        (["train", "--store", "STORE", "--steps", "0"], ["--steps"]),
        (["train", "--store", "STORE", "--steps", "many"], ["--steps", "many"]),
        (["train", "--store", "STORE", "--epochs", "-1"], ["--epochs"]),
        (["train", "--store", "STORE", "--steps", "5", "--epochs", "3"], ["steps", "epochs"]),
        (["train", "--store", "STORE", "--step-size", "0"], ["step size", "positive"]),
        (["train", "--store", "STORE", "--step-size", "-1e-7"], ["step size", "-1e-07"]),
        (["train", "--store", "STORE", "--step-size", "nan"], ["step size", "nan"]),
        (["train", "--store", "STORE", "--step-size", "inf"], ["step size", "inf"]),
        (["train", "--store", "STORE", "--step-size", "best"], ["--step-size", "best", "exact"]),
        (["train", "--store", "STORE", "--reg", "-1"], ["regulariser", "-1"]),
        (["train", "--store", "STORE", "--reg", "nan"], ["regulariser", "nan"]),
        (["train", "--store", "STORE", "--tolerance", "1"], ["tolerance"]),
        (["train", "--store", "STORE", "--seed", str(2**64)], ["seed"]),
        (["train", "--store", "STORE", "--init", "ones"], ["ones", "normal:SCALE"]),
        (["train", "--store", "STORE", "--init", "normal"], ["normal:SCALE"]),
        (["train", "--store", "STORE", "--init", "normal:-1"], ["normal:-1"]),
        (["train", "--store", "STORE", "--init", "normal:inf"], ["normal:inf"]),
        (["train", "--store", "STORE", "--workers", "0"], ["--workers"]),
        (
            ["train", "--store", "STORE", "--workers", "2", "--scheduler", "tcp://127.0.0.1:9"],
            ["--workers", "--scheduler"],
        ),
        (["train", "--store", "STORE", "--resume", "train-1970"], ["train-1970"]),
        (
            ["train", "--store", "STORE", "--resume", ""],
            ["no run ''"],
        ),  # the value of an unset shell variable
        (["train", "--store", "STORE", "--resume", "x", "--steps", "5"], ["--steps", "resumed"]),
        (["train", "--store", "STORE", "--resume", "x", "--step-size", "1"], ["--step-size"]),
        (["train", "--store", "nothing.zarr"], ["nothing.zarr", "ingest"]),
        (["train", "--store", "FILE"], ["file"]),
        (["train", "--store", "EMPTY"], ["empty"]),
        (["train", "--store", "no-such-kind://x"], ["no-such-kind"]),
        (["train", "--store", "STORE", "--runs", "FILE"], ["--runs", "file"]),
        (["train", "--store", "STORE", "--runs", "FILE/runs"], ["runs cannot be stored", "--runs"]),
        (["search", "grid"], ["grid", "hinge search --help"]),
        (["search", "random"], ["--store", "hinge search random --help"]),
        (["search", "random", "--store", "STORE", "--trials", "0"], ["--trials", "0"]),
        (["search", "random", "--store", "STORE", "--scale", "-1e-4"], ["scale", "-0.0001"]),
        (["search", "random", "--store", "STORE", "--scale", "nan"], ["scale", "nan"]),
        (["search", "random", "--store", "STORE", "--scale", "1e16"], ["scale", "1e+15"]),
        (["search", "random", "--store", "STORE", "--block", "0"], ["block", "from 1 to 512"]),
        (["search", "random", "--store", "STORE", "--block", "513"], ["block", "513"]),
        (["search", "random", "--store", "STORE", "--seed", str(2**64)], ["seed"]),
        (["search", "random", "--store", "STORE", "--resume", "none"], ["no run 'none'"]),
        (["search", "random", "--store", "STORE", "--resume", "x", "--seed", "1"], ["--seed"]),
        (["search", "random", "--store", "nothing.zarr"], ["nothing.zarr", "ingest"]),
        (["search", "random", "--store", "STORE", "--runs", "FILE"], ["--runs", "file"]),
        (["search", "local", "--store", "STORE", "--trials", "0"], ["--trials", "0"]),
        (
            ["search", "local", "--store", "STORE", "--init-scale", "nan"],
            ["initial weights", "nan"],
        ),
        (["search", "local", "--store", "STORE", "--step-scale", "-1"], ["step", "-1.0"]),
        (["search", "local", "--store", "STORE", "--step-scale", "1e-9"], ["are too small for"]),
        (["search", "local", "--store", "STORE", "--block", "8"], ["--block"]),
        (["search", "local", "--store", "STORE", "--resume", "none"], ["no run 'none'"]),
        (
            ["search", "local", "--store", "STORE", "--resume", "x", "--step-scale", "1"],
            ["--step-scale", "resumed"],
        ),
        (["sweep"], ["--store", "hinge sweep --help"]),
        (["sweep", "--store", "nothing.zarr"], ["nothing.zarr", "ingest"]),
        (["sweep", "--store", "STORE", "--exponents", "5"], ["FIRST:LAST", "'5'"]),
        (["sweep", "--store", "STORE", "--exponents", "3:1"], ["FIRST:LAST", "'3:1'"]),
        (["sweep", "--store", "STORE", "--exponents", "a:b"], ["FIRST:LAST", "'a:b'"]),
        (["sweep", "--store", "STORE", "--exponents", "-3.5:1"], ["FIRST:LAST", "-3.5:1"]),
        (["sweep", "--store", "STORE", "--exponents", "-400:1"], ["FIRST:LAST", "-400:1"]),
        (["sweep", "--store", "STORE", "--points-per-decade", "0"], ["at least 1", "0"]),
        (["sweep", "--store", "STORE", "--points-per-decade", "9999"], ["89,992", "too many"]),
        (["sweep", "--store", "STORE", "--at", "train-1970"], ["train-1970", "no run"]),
        (["sweep", "--store", "STORE", "--at", "x", "--init", "zeros"], ["--at x", "--init"]),
        (["sweep", "--store", "STORE", "--at", "x", "--seed", "1"], ["--at x", "--seed"]),
        (["sweep", "--store", "STORE", "--init", "ones"], ["ones", "uniform:SCALE"]),
        (["sweep", "--store", "STORE", "--reg", "-1"], ["regulariser", "-1"]),
        (["sweep", "--store", "STORE", "--reg", "nan"], ["regulariser", "nan"]),
        (["sweep", "--store", "STORE", "--seed", str(2**64)], ["seed"]),
        (["sweep", "--store", "STORE", "--resume", "x", "--init", "zeros"], ["--init", "resumed"]),
        (["sweep", "--store", "STORE", "--step-sizes", "1"], ["--step-sizes"]),
        (["sweep", "--store", "STORE", "--train"], ["--train"]),
        (["info", "--store", "EMPTY"], ["empty"]),
        (["info", "--store", "FILE"], ["file"]),
        (["ingest", "synthetic:600"], ["--store"]),
        (["ingest", "synthetic:600", "--store", "new.zarr", "--limit", "0"], ["--limit"]),
        (["ingest", "synthetic:0", "--store", "new.zarr"], ["synthetic"]),
        (["ingest", "synthetic:many", "--store", "new.zarr"], ["many"]),
        (["ingest", "", "--store", "new.zarr"], ["no source"]),
        (["ingest", "not-there", "--store", "new.zarr"], ["not-there"]),
        (["ingest", "EMPTY", "--store", "new.zarr"], ["empty"]),
        (["ingest", "synthetic:700", "--store", "STORE"], ["already contains other data"]),
        (["ingest", "synthetic:600", "--store", "FILE"], ["file"]),
        (["ingest", "synthetic:600", "--store", "new.zarr", "--runs", "FILE/x"], ["--runs"]),
        (["ingest", "synthetic:600", "--store", "new.zarr", "--shard-rows", "0"], ["--shard"]),
    ],
    ids=" ".join,
)
def test_invalid_arguments_are_rejected_before_anything_starts(
    hinge: Command,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no store")
    (tmp_path / "empty").mkdir()
    before = left(store)
    places = {"STORE": str(store), "FILE": "file", "EMPTY": "empty", "FILE/runs": "file/runs"}
    refused(hinge(*(places.get(word, word.replace("FILE/", "file/")) for word in given)), *words)
    assert left(tmp_path) == {"file", "empty"}
    assert left(tmp_path / "empty") == set()
    assert left(store) == before


@pytest.mark.parametrize(
    ("given", "words"),
    [(["nope"], ["nope", "hinge --help"]), (["search"], ["Missing command", "search --help"])],
)
def test_unknown_and_missing_commands_are_rejected(
    capfd: pytest.CaptureFixture[str], given: list[str], words: list[str]
) -> None:
    status = run_command(given)
    refused(Finished(status, *capfd.readouterr()), *words)


@pytest.mark.slow
def test_error_of_a_separate_process_is_one_line_and_status_2(user: User, tmp_path: Path) -> None:
    refused(user.hinge("train", "--store", "nothing.zarr", cwd=tmp_path), "nothing.zarr")
    assert left(tmp_path) == set()


# -- servers that do not answer


@pytest.mark.slow
def test_schedulers_that_do_not_answer_are_reported(
    user: User, store: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        addresses = ("tcp://127.0.0.1:9", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with ExitStack() as stack:  # stops both commands if one of them fails the test
            commands = [
                stack.enter_context(
                    user.start("train", "--store", store, "--scheduler", address, cwd=tmp_path)
                )
                for address in addresses
            ]
            for command, address in zip(commands, addresses, strict=True):
                refused(end(command, seconds=15 * LOADED), address, "--scheduler")
        assert time.monotonic() - started < 15 * LOADED
    assert left(tmp_path) == set()


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:9"])
def test_invalid_scheduler_address_is_rejected(
    hinge: Command, store: Path, tmp_path: Path, address: str
) -> None:
    refused(hinge("train", "--store", store, "--scheduler", address), address)
    assert left(tmp_path) == set()


def test_store_that_workers_cannot_read_is_refused_before_the_wait_for_the_server(
    hinge: Command, user: User, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may take longer to start than the whole refusal should take."""

    def refuse(*_: Any) -> None:
        raise PipelineError("a worker cannot read the store")

    def wait(_: Any) -> str:
        raise AssertionError("the command waits for the server")

    monkeypatch.setattr(session, "check_store", refuse)
    monkeypatch.setattr(Server, "wait", wait)
    finished = hinge("sweep", "--store", store, "--scheduler", user.scheduler)
    late(finished, "a worker cannot read the store")
    assert left(tmp_path) == set()


@pytest.mark.slow
def test_prefect_api_that_does_not_answer_is_reported(
    user: User, store: Path, tmp_path: Path
) -> None:
    finished = user.hinge(
        *("train", "--store", store, "--scheduler", user.scheduler),
        cwd=tmp_path,
        PREFECT_API_URL="http://127.0.0.1:9/api",
    )
    late(finished, "http://127.0.0.1:9/api", "PREFECT_API_URL")
    assert left(tmp_path) == set()


# -- damaged and hostile files of images


def binary(directory: Path) -> Path:
    """Write a data set of black airplanes in CIFAR-10's binary format, as sparse files."""
    directory.mkdir()
    for name in BATCHES:
        with (directory / f"{name}.bin").open("wb") as file:
            file.truncate(10_000 * len(RECORD))
    return directory


def truncated(directory: Path) -> Path:
    with (binary(directory) / "data_batch_3.bin").open("r+b") as file:
        file.truncate(10_000 * len(RECORD) - 100)
    return directory


def invalid_label(directory: Path) -> Path:
    with (binary(directory) / "data_batch_2.bin").open("r+b") as file:
        file.seek(7 * len(RECORD))
        file.write(bytes([10]))
    return directory


class MaliciousObject:
    """An object that creates the file `proof` if it is unpickled without restrictions."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.proof}",)


def malicious_pickle(directory: Path) -> Path:
    directory.mkdir()
    for name in BATCHES:
        (directory / name).write_bytes(pickle.dumps(MaliciousObject(directory.parent / "owned")))
    return directory


def archive(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def climbing_member(path: Path) -> Path:
    files = [(f"cifar-10-batches-bin/{name}.bin", 20 * RECORD) for name in BATCHES]
    return archive(path, *files, ("../../x", b"owned"))


def not_an_archive(path: Path) -> Path:
    path.write_bytes(b"not an archive")
    return path


def cut_archive(path: Path) -> Path:
    content = climbing_member(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "words", "is_late"),
    [
        (truncated, ["data_batch_3.bin"], False),
        (
            invalid_label,
            ["data_batch_2.bin", "label 10"],
            True,
        ),  # labels are checked when the images are read
        (malicious_pickle, ["system"], None),
        (climbing_member, ["../../x"], True),
        (not_an_archive, ["source"], True),
        (cut_archive, ["source"], True),
    ],
)
def test_damaged_or_hostile_sources_are_rejected_and_leave_no_files(
    user: User,
    hinge: Command,
    tmp_path: Path,
    make: Callable[[Path], Path],
    words: list[str],
    is_late: bool | None,
) -> None:
    source = make(tmp_path / "source")
    before = left(tmp_path)
    finished = hinge(
        *("ingest", source, "--store", tmp_path / "new.zarr", "--scheduler", user.scheduler)
    )
    if is_late is None:
        is_late = finished.err.startswith("Dask dashboard")
    (late if is_late else refused)(finished, *words)
    assert left(tmp_path) == before
    assert not (tmp_path.parent / "x").exists()


def test_store_being_written_by_another_ingest_is_rejected(hinge: Command, tmp_path: Path) -> None:
    url = tmp_path / "new.zarr"
    with claim_store(Location.parse(str(url))):
        before = left(tmp_path)
        refused(
            hinge("ingest", "synthetic:600", "--store", url),
            f"{url} is being written by another ingest (process {os.getpid()} on ",
            "wait until it finishes or stop it, then run this again",
        )
        assert left(tmp_path) == before
    assert left(tmp_path) == set()


def test_error_for_a_flipped_bit_names_the_array(
    user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(store, tmp_path / "damaged.zarr")
    [file] = filter(Path.is_file, (damaged / "train" / "images" / "c" / "2").rglob("*"))
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    given = ("train", "--store", damaged, "--steps", 3, "--scheduler", user.scheduler)
    late(hinge(*given), "train/images", "damaged.zarr")
    # The run had started, so its record states the failure.
    [path] = (tmp_path / "runs").iterdir()
    record = json.loads((path / "result.json").read_text())
    assert record["status"] == "failed"
    assert "train/images" in record["error"]
    content[1000] ^= 1  # with the original content restored, the run resumes
    file.write_bytes(content)
    resumed = hinge(*(word for word in given if word not in ("--steps", 3)), "--resume", path.name)
    assert resumed.status == 0, resumed.err
    assert f"done after {3:,} steps" in resumed.out


# -- runs that cannot be resumed


@pytest.fixture
def begun(store: Path, tmp_path: Path) -> Path:
    """A run of 5 steps that was killed before its first step, with a record and a checkpoint."""
    run = tmp_path / "runs" / "train-begun"
    run.mkdir(parents=True)
    parameters = GradientDescent(steps=5)
    record = RunRecord(
        run=run.name,
        command="train",
        status="running",
        parameters=parameters,
        data=open_dataset(str(store)).summary(),
        started="2026-01-01T00:00:00+00:00",
        versions=package_versions(),
        machine=this_machine(),
    )
    RunDirectory(run).write_document(to_document(record))
    state = parameters.start(10)
    checkpoints.save(run / "checkpoint.npz", state)
    return run


def test_undamaged_run_of_this_fixture_can_be_resumed(
    user: User, hinge: Command, store: Path, begun: Path
) -> None:
    given = ("train", "--store", store, "--scheduler", user.scheduler, "--resume")
    assert hinge(*given, begun.name).status == 0
    again = hinge(*given, begun, "--runs", begun.parents[1] / "elsewhere")  # found by its path
    assert (again.status, again.err) == (0, "")
    assert str(begun / "weights.npy") in again.out


def edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((run / "result.json").read_text())
    change(record)
    (run / "result.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.update(command="ingest"), ["not a run of `hinge train`", "ingest"]),
        (lambda record: record.clear(), ["train-begun"]),  # an empty object
        (lambda record: record.pop("data"), ["train-begun", "data"]),
        (lambda record: record.pop("status"), ["train-begun", "status"]),
        (lambda record: record.update(data=[]), ["train-begun"]),  # data of the wrong type
        (lambda record: record["data"].update(fingerprint="0" * 64), ["other data", "000000"]),
        (lambda record: record.pop("parameters"), ["train-begun", "parameters"]),
        (lambda record: record["parameters"].update(method="adam"), ["train-begun", "adam"]),
        (lambda record: record["parameters"].pop("method"), ["train-begun", "method"]),
        (lambda record: record["parameters"].update(heat=0.9), ["train-begun", "heat"]),
        (lambda record: record["parameters"].update(steps=-5), ["train-begun", "steps"]),
        (lambda record: record["parameters"].update(steps="5"), ["train-begun"]),  # steps as text
    ],
)
def test_runs_with_unusable_records_are_rejected(
    hinge: Command,
    store: Path,
    begun: Path,
    change: Callable[[dict[str, Any]], object],
    words: list[str],
) -> None:
    edit(begun, change)
    before = (begun / "result.json").read_text()
    refused(hinge("train", "--store", store, "--resume", begun.name), *words)
    assert (begun / "result.json").read_text() == before


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_damaged_record_is_rejected(hinge: Command, store: Path, begun: Path, content: str) -> None:
    (begun / "result.json").write_text(content)
    refused(hinge("train", "--store", store, "--resume", begun.name), "train-begun")


def test_run_locked_by_another_process_is_rejected(
    hinge: Command, store: Path, begun: Path
) -> None:
    before = (begun / "result.json").read_text()
    with RunDirectory(begun).locked():
        finished = hinge("train", "--store", store, "--resume", begun.name)
    refused(finished, "train-begun", "is running in another process")
    assert (begun / "result.json").read_text() == before


def test_unwritable_run_directory_is_rejected(hinge: Command, store: Path, begun: Path) -> None:
    (begun / ".lock").mkdir()  # prevents locking even for root, who may ignore permissions
    finished = hinge("train", "--store", store, "--resume", begun.name)
    refused(finished, "train-begun", "cannot be written")


def cut_in_half(content: bytes) -> bytes:
    return content[: len(content) // 2]


# NumPy causes this warning in the case "cut".
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda _: b"nonsense", cut_in_half], ids=["empty", "other", "cut"]
)
def test_damaged_checkpoint_is_rejected(
    user: User, hinge: Command, store: Path, begun: Path, damage: Callable[[bytes], bytes]
) -> None:
    file = begun / "checkpoint.npz"
    file.write_bytes(damage(file.read_bytes()))
    finished = hinge("train", "--store", store, "--resume", begun.name)
    refused(finished, "checkpoint.npz", "start a new run")


def test_checkpoint_with_weights_of_another_shape_is_rejected(
    hinge: Command, store: Path, begun: Path
) -> None:
    parameters = GradientDescent(steps=5)
    checkpoints.save(begun / "checkpoint.npz", parameters.start(3))
    finished = hinge("train", "--store", store, "--resume", begun.name)
    refused(finished, "checkpoint.npz")
    assert np.load(begun / "checkpoint.npz")["W"].shape == (3, 3073)
