"""Reading of both official versions of CIFAR-10, and of damaged copies."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.cifar10 import open_directory
from storage.errors import DataError
from storage.schema import SPLITS

Write = Callable[..., Any]  # see conftest.py


@pytest.fixture(params=["binary", "python"])
def official(request: pytest.FixtureRequest) -> Any:
    write: Write = request.getfixturevalue(request.param)
    return write()


def test_every_row_of_both_versions_is_read(official: Any) -> None:
    source = open_directory(official.path, records=20)
    for split in SPLITS:
        assert source.rows(split) == len(official.labels[split])
        images, labels = source.read(split, 0, source.rows(split))
        np.testing.assert_array_equal(images, official.images[split])
        np.testing.assert_array_equal(labels, official.labels[split])


@settings(
    max_examples=40,
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.function_scoped_fixture],
)
@given(bounds=st.tuples(st.integers(0, 70), st.integers(0, 70)).map(sorted))
def test_range_within_the_limit_equals_slice(official: Any, bounds: list[int]) -> None:
    source = open_directory(official.path, limit=70, records=20)
    assert (source.rows("train"), source.rows("test")) == (70, 20)
    start, stop = bounds
    images, labels = source.read("train", start, stop)
    np.testing.assert_array_equal(images, official.images["train"][start:stop])
    np.testing.assert_array_equal(labels, official.labels["train"][start:stop])


def test_range_beyond_the_limit_raises_index_error(official: Any) -> None:
    source = open_directory(official.path, limit=70, records=20)
    with pytest.raises(IndexError, match="rows 60 to 71 requested from a split of 70 rows"):
        source.read("train", 60, 71)


def test_official_subdirectory_is_opened(binary: Write, tmp_path: Path) -> None:
    binary("above/cifar-10-batches-bin")
    assert open_directory(tmp_path / "above", records=20).version == "binary"


def test_identity_depends_on_content_and_limit_but_not_location(
    official: Any, tmp_path: Path
) -> None:
    source = open_directory(official.path, records=20)
    copy = shutil.copytree(official.path, tmp_path / "copy")
    assert open_directory(copy, records=20).identity == source.identity
    assert open_directory(copy, limit=5, records=20).identity != source.identity
    assert pickle.loads(pickle.dumps(source)) == source
    name = next(path for path in copy.iterdir() if path.name.startswith("test_batch"))
    content = bytearray(name.read_bytes())
    content[300] ^= 1  # in both versions this byte belongs to a pixel
    name.write_bytes(content)
    assert open_directory(copy, records=20).identity != source.identity


def test_truncated_binary_file_is_found_on_open(binary: Write) -> None:
    path = binary().path / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError) as caught:
        open_directory(path.parent, records=20)
    assert str(caught.value) == (
        f"{path} is truncated: 61459 bytes, wanted 61460 (20 records of 3073); "
        "unpack or download the data set again"
    )


def test_truncated_pickle_is_found_on_open(python: Write) -> None:
    path = python().path / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{path} is not a valid pickle"):
        open_directory(path.parent, records=20)


def test_file_removed_after_open_is_named(official: Any) -> None:
    source = open_directory(official.path, records=20)
    gone = next(path for path in official.path.iterdir() if path.name.startswith("data_batch_1"))
    gone.unlink()
    with pytest.raises(DataError, match=f"cannot read {gone}: .*; all workers must see it"):
        source.read("train", 0, 5)


def test_official_file_size_is_required_by_default(binary: Write) -> None:
    with pytest.raises(DataError, match=r"wanted 30730000 \(10000 records of 3073\)"):
        open_directory(binary().path)


def test_missing_batch_files_are_named(official: Any) -> None:
    for path in official.path.iterdir():
        if path.name.startswith(("data_batch_2", "test")):
            path.unlink()
    with pytest.raises(
        DataError, match=r"does not contain data_batch_2(.bin)?, test_batch(.bin)?; unpack"
    ):
        open_directory(official.path, records=20)


def test_empty_directory_raises_data_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=f"{tmp_path} contains no CIFAR-10 files: wanted data_batch_1.bin"
    ):
        open_directory(tmp_path)


def test_other_class_names_raise_data_error(binary: Write) -> None:
    meta = binary().path / "batches.meta.txt"
    meta.write_text("apple\nbear\n")
    with pytest.raises(DataError, match="lists the classes apple, bear, not CIFAR-10's"):
        open_directory(meta.parent, records=20)


def test_binary_label_of_10_names_file_and_record(binary: Write) -> None:
    path = binary().path / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[7 * 3073] = 10
    path.write_bytes(content)
    source = open_directory(path.parent, records=20)
    source.read("train", 0, 27)  # the rows before the wrong label can be read
    with pytest.raises(DataError, match=f"{path}, record 7: label 10, wanted 0 to 9; the file is"):
        source.read("train", 25, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": np.zeros((20, 3071), np.uint8)}, r"data has shape \(20, 3071\), wanted"),
        ({b"data": np.zeros((19, 3072), np.uint8)}, r"data has shape \(19, 3072\), wanted"),
        ({b"data": np.zeros((20, 3072))}, "dtype 'f8', wanted uint8"),
        ({b"data": b"bytes"}, "data is not an array, wanted"),
        ({b"labels": [0] * 19}, "labels has 19 entries, wanted a list of 20"),
        ({b"labels": None}, "labels is not a list, wanted a list of 20"),
        ({b"labels": [0] * 4 + [1.5] + [0] * 15}, "record 4: label 1.5, wanted 0 to 9"),
        ({b"labels": [0] * 4 + [-1] + [0] * 15}, "record 4: label -1, wanted 0 to 9"),
        ({b"labels": [0] * 4 + [True] + [0] * 15}, "record 4: label True, wanted 0 to 9"),
    ],
)
def test_malformed_pickled_batch_is_found_on_open(
    python: Write, change: dict[bytes, object], message: str
) -> None:
    path = python().path / "data_batch_5"
    batch = {b"data": np.zeros((20, 3072), np.uint8), b"labels": [0] * 20} | change
    path.write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataError, match=f"{path}.*{message}"):
        open_directory(path.parent, records=20)


def test_pickled_label_of_10_names_file_and_record(python: Write) -> None:
    path = python().path / "test_batch"
    batch = {b"data": np.zeros((20, 3072), np.uint8), b"labels": [9] * 19 + [10]}
    path.write_bytes(pickle.dumps(batch, protocol=2))
    source = open_directory(path.parent, records=20)
    with pytest.raises(DataError, match=f"{path}, record 19: label 10, wanted 0 to 9"):
        source.read("test", 10, 20)
