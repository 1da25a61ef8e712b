"""Run directories: unique names, lookup by name or path, and atomic replacement of files."""

import csv
import hashlib
import json
import math
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from flows.runs.directory import RunDirectory, check_runs
from flows.runs.environment import package_versions, this_machine, timestamp
from flows.runs.weights import weights_sha256
from pipeline.inputs.errors import PipelineError


def test_runs_created_in_one_second_have_unique_names(tmp_path: Path) -> None:
    runs = [RunDirectory.create(tmp_path / "a" / "runs", "train") for _ in range(50)]
    assert len({run.id for run in runs}) == 50
    assert all(run.path.is_dir() for run in runs)
    assert all(re.fullmatch(r"train-\d{8}-\d{6}-[0-9a-f]{4,}", run.id) for run in runs)


def test_run_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "runs", "train")
    run.write_document({"run": run.id})
    assert RunDirectory.find(tmp_path / "runs", run.id) == run
    assert RunDirectory.find(tmp_path / "elsewhere", str(run.path)) == run


@pytest.mark.parametrize("name", ["train-19700101-000000-0000", "", ".", "..", "half"])
def test_names_without_a_record_are_not_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "half").mkdir()  # a directory without a record
    with pytest.raises(PipelineError, match=r"^no run .*"):
        RunDirectory.find(tmp_path, name)


def test_record_is_read_back_with_non_finite_numbers_as_null(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "train")
    run.write_document({"loss": math.inf, "steps": 3, "nested": {"nan": [math.nan, 0.1, None]}})
    assert run.read_document() == {"loss": None, "steps": 3, "nested": {"nan": [None, 0.1, None]}}
    assert os.listdir(run.path) == ["result.json"]  # noqa: PTH208 (no temporary file is left)


def test_concurrent_reader_never_sees_a_partial_record(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "train")
    large = ["x" * 100] * 20_000  # 2 MB, so that writing it takes a while
    run.write_document({"number": 0, "content": large})
    done = threading.Event()

    def write() -> None:
        for number in range(1, 15):
            run.write_document({"number": number, "content": large})
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not done.is_set():
        text = (run.path / "result.json").read_text()
        seen.append(json.loads(text)["number"])
    writer.join()
    assert len(seen) > 3
    assert seen == sorted(seen)


def test_failed_write_keeps_the_previous_record(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "train")
    run.write_document({"steps": 3})
    with pytest.raises(TypeError):
        run.write_document({"steps": 4, "what": object()})
    assert run.read_document() == {"steps": 3}


@pytest.mark.parametrize("content", ["", '{"run": "train', "[1]", "3", "\x00\xff"])
def test_damaged_record_raises_pipeline_error_that_names_the_run(
    tmp_path: Path, content: str
) -> None:
    run = RunDirectory.create(tmp_path, "train")
    (run.path / "result.json").write_text(content)
    with pytest.raises(PipelineError, match=rf"^the record of run {run.id} cannot be read: .+"):
        run.read_document()


def test_unusable_runs_directory_is_rejected_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "runs", tmp_path / "file"):
        with pytest.raises(PipelineError, match=r"^runs cannot be stored in .*--runs"):
            check_runs(place)
        with pytest.raises(PipelineError, match=r"^runs cannot be stored in .*--runs"):
            RunDirectory.create(place, "train")
    check_runs(tmp_path / "not" / "yet" / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_weights_and_losses_are_read_back_bit_identical(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "train")
    W = np.random.default_rng(0).normal(size=(10, 3073))
    losses = np.array([9.0, 0.1 + 0.2, math.inf, math.nan])
    run.write_weights(W)
    run.write_losses(losses)
    np.testing.assert_array_equal(np.load(run.path / "weights.npy"), W)
    with (run.path / "loss.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "loss"]
    assert [int(step) for step, _ in rows] == [0, 1, 2, 3]
    np.testing.assert_array_equal([float(loss) for _, loss in rows], losses)  # bit-identical


def test_failed_write_keeps_the_previous_table(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "search random")
    assert run.id.startswith("search-random-")
    trials = [{"trial": number, "loss": np.float64(0.1 + number)} for number in range(3)]
    run.write_table("trials.csv", trials)
    with (run.path / "trials.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [(int(row["trial"]), float(row["loss"])) for row in read] == [
        (0, 0.1), (1, 0.1 + 1), (2, 0.1 + 2)
    ]  # fmt: skip
    before = (run.path / "trials.csv").read_bytes()
    with pytest.raises(ValueError, match="row 1"):
        run.write_table("trials.csv", [{"trial": 0}, {"loss": 9.0}])
    assert (run.path / "trials.csv").read_bytes() == before
    assert [path.name for path in run.path.iterdir()] == ["trials.csv"]


def test_weights_hash_is_the_sha256_of_row_major_float64_bytes() -> None:
    W = np.arange(6.0).reshape(2, 3)
    packed = bytes.fromhex(
        "0000000000000000" "000000000000f03f" "0000000000000040"
        "0000000000000840" "0000000000001040" "0000000000001440"
    )  # fmt: skip
    expected = hashlib.sha256(packed).hexdigest()
    assert weights_sha256(W) == expected
    assert weights_sha256(np.asfortranarray(W)) == expected
    assert weights_sha256(W.astype(">f8")) == expected
    assert weights_sha256(np.nextafter(W, 9)) != expected


def test_environment_has_versions_machine_and_utc_time() -> None:
    versions = package_versions()
    assert versions["numpy"] == np.__version__
    assert {"hinge", "python", "numba", "dask", "zarr", "prefect"} <= versions.keys()
    assert this_machine().cores == os.cpu_count()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", timestamp())
