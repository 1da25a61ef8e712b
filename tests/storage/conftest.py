"""Small data sets in CIFAR-10's official formats, for the storage tests."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from storage.schema import CLASSES, Split

Array = NDArray[np.uint8]
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


@dataclass(frozen=True)
class Official:
    """A directory in one of the official formats, and the images and labels in it."""

    path: Path
    records: int
    images: dict[Split, Array]
    labels: dict[Split, Array]


def python2_pickle(data: Array, labels: list[int], *, dtype: bytes = b"u1") -> bytes:
    """Pickle a batch as Python 2's cPickle did, opcode by opcode."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    body = data.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        + b"K\x00\x85" + text(b"b") + b"\x87R(K\x01"
        + number(data.shape[0]) + number(data.shape[1]) + b"\x86"
        + b"cnumpy\ndtype\n" + text(dtype) + b"K\x00K\x01\x87R"
        + b"(K\x03" + text(b"|") + b"NNN" + number(-1) + number(-1) + b"K\x00tb"
        + b"\x89" + b"T" + struct.pack("<i", len(body)) + body + b"tb"
    )  # fmt: skip
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed + b"u."


def _rows(records: int, seed: int) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (records, 3072), np.uint8)
    return images, random.integers(0, 10, records, np.uint8)


def _write(path: Path, records: int, version: str) -> Official:
    path.mkdir(parents=True, exist_ok=True)
    batches = [_rows(records, seed) for seed in range(6)]
    for name, (images, labels) in zip(BATCHES, batches, strict=True):
        if version == "binary":
            content = np.column_stack([labels, images]).tobytes()
            (path / f"{name}.bin").write_bytes(content)
        else:
            (path / name).write_bytes(python2_pickle(images, labels.tolist()))
    if version == "binary":
        (path / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    train_images = np.concatenate([batch[0] for batch in batches[:5]])
    train_labels = np.concatenate([batch[1] for batch in batches[:5]])
    return Official(
        path,
        records,
        {"train": train_images, "test": batches[5][0]},
        {"train": train_labels, "test": batches[5][1]},
    )


Write = Callable[..., Official]


@pytest.fixture
def binary(tmp_path: Path) -> Write:
    """Return a function that writes the binary version, with `records` rows per file."""
    return lambda name="bin", records=20: _write(tmp_path / name, records, "binary")


@pytest.fixture
def python(tmp_path: Path) -> Write:
    """Return a function that writes the python version as Python 2 did, with `binary`'s rows."""
    return lambda name="py", records=20: _write(tmp_path / name, records, "python")
