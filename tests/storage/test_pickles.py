"""Pickles of batches are read, and pickles that would run code are rejected."""

import contextlib
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import DataError
from storage.pickles import load_pickle

DATA = np.arange(24, dtype=np.uint8).reshape(4, 6)


def _dump(path: Path, value: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


class Runs:
    """An object whose pickle calls `function` with `arguments` when it is loaded."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("array", [DATA, np.asfortranarray(DATA)], ids="CF")
def test_batches_of_every_protocol_are_read(tmp_path: Path, protocol: int, array: object) -> None:
    held = {b"data": array, b"labels": [1, 2], b"batch_label": b"a \xff batch", b"n": 7}
    loaded = load_pickle(_dump(tmp_path / "batch", held, protocol))
    np.testing.assert_array_equal(loaded.pop(b"data"), array)
    assert loaded == {b"labels": [1, 2], b"batch_label": b"a \xff batch", b"n": 7}


def test_python_2_batch_is_read_as_by_the_standard_unpickler(
    python: Callable[..., Any],
) -> None:
    batch = python(records=3).path / "data_batch_2"
    with warnings.catch_warnings(action="ignore"):  # numpy.core is a deprecated name
        expected = pickle.loads(batch.read_bytes(), encoding="bytes")
    loaded = load_pickle(batch)
    assert loaded.keys() == expected.keys()
    np.testing.assert_array_equal(loaded[b"data"], expected[b"data"])
    assert loaded[b"labels"] == expected[b"labels"]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"cos\nsystem\n(S'touch ran'\ntR.", "os.system"),  # opcode GLOBAL
        (pickle.dumps(Runs(os.system, "touch ran"), 2), r"posix.system \(os.system\)"),
        (pickle.dumps(Runs(os.system, "touch ran"), 4), r"posix.system \(os.system\)"),
        (pickle.dumps(Runs(eval, "open('ran', 'w')"), 4), "builtins.eval"),
        (b'c__builtin__\neval\n(S\'open("ran", "w")\'\ntR.', "__builtin__.eval"),
        (b"(S'touch ran'\nios\nsystem\n.", "os.system"),  # opcode INST
        # opcode STACK_GLOBAL: another name in NumPy, and an attribute of an allowed name
        (b"\x80\x04\x8c\x05numpy\x8c\x08fromfile\x93.", "numpy.fromfile"),
        (b"\x80\x04\x8c\x05numpy\x8c\x10dtype.__reduce__\x93.", "numpy.dtype.__reduce__"),
        (pickle.dumps(Runs(np.load, "x"), 2), "numpy.load"),
    ],
)
def test_unneeded_name_is_reported_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"data_batch_1: the pickle names {name}, which no"):
        load_pickle(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({b"data": DATA.astype(float)}, "an array of dtype 'f8', wanted uint8"),
        ({b"data": np.array([Runs(print)], object)}, "an array of dtype 'O8', wanted uint8"),
        ([1, 2], "the pickle contains a list, wanted a dict"),
        (Runs(np.ndarray, (2**40,)), "the pickle calls numpy.ndarray"),
        (Runs(np.dtype, "f8"), "dtype 'f8', wanted uint8"),
    ],
)
def test_unexpected_content_raises_data_error(tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_pickle(_dump(tmp_path / "batch", value))


def test_array_that_does_not_start_empty_raises_data_error(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"J\xff\xff\xff\x7f\x85U\x01b\x87R."
    )
    with pytest.raises(DataError, match="creates an array in a way that NumPy never does"):
        load_pickle(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\x80\x02}",  # no STOP opcode
        b"\x80\xff.",  # an unknown protocol
        b"U\xff",  # a string cut short
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f",  # bytes with a length of almost 2^63
    ],
)
def test_damaged_pickle_is_reported_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "batch"
    path.write_bytes(content)
    with pytest.raises(DataError, match="batch is not a valid pickle") as caught:
        load_pickle(path)
    assert "\n" not in str(caught.value)


@settings(
    max_examples=300,
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.function_scoped_fixture],
)
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_changed_byte_gives_a_dict_or_a_data_error(
    tmp_path: Path, position: int, byte: int
) -> None:
    content = bytearray(pickle.dumps({b"data": DATA, b"labels": [1, 2]}, protocol=2))
    content[position % len(content)] = byte
    path = tmp_path / "batch"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert isinstance(load_pickle(path), dict)
