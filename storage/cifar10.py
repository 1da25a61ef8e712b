"""CIFAR-10 in its two official versions: a directory of six batch files of 10,000 images.

In the binary version, a file consists of records of 3,073 bytes: a label, then the 3,072 pixels.
In the python version, a file is a pickled dict with `data` (10000, 3072) uint8 and `labels`, a
list of 10,000 integers. Both order the pixels as this project does: channel, height, width.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from storage.errors import DataError
from storage.pickles import load_pickle
from storage.schema import (
    CLASSES,
    PIXELS,
    Bytes,
    Identity,
    Split,
    check_labels,
    check_range,
)

RECORDS = 10_000
"""Images in each official batch file."""

Version = Literal["binary", "python"]
_RECORD_BYTES = 1 + PIXELS
_AGAIN = "unpack or download the data set again"


@dataclass(frozen=True)
class Cifar10:
    """A source (see `storage.sources.Source`): the batch files of one directory.

    Create it with `open_directory`, which checks the files. Every process that reads it must see
    the directory under the same path, including workers on other machines.
    """

    version: Version
    directory: Path
    digest: str
    """SHA-256 (hex) of the six files' concatenated SHA-256 digests."""
    limit: int | None = None
    records: int = RECORDS
    """Images in each batch file."""

    name = "cifar10"

    @property
    def kind(self) -> str:
        """The name of the format."""
        return f"cifar10-{self.version}"

    @property
    def description(self) -> str:
        """A human-readable description of the data."""
        return f"CIFAR-10, {self.version} version"

    @property
    def identity(self) -> Identity:
        """The identity of the data: format and digest of the files, not their location."""
        return Identity(kind=self.kind, content=f"sha256:{self.digest}", limit=self.limit)

    def rows(self, split: Split) -> int:
        """Return the number of images of `split`."""
        rows = self.records * len(_batches(self.version, split))
        return rows if self.limit is None else min(rows, self.limit)

    def read(self, split: Split, start: int, stop: int) -> tuple[Bytes, Bytes]:
        """Read rows `start` to `stop`: images (n, 3072) uint8 and labels (n,) uint8.

        Raises:
            DataError: A file is missing or has been damaged since it was opened, or a label is not
                a class index.
        """
        check_range(start, stop, self.rows(split))
        images = np.empty((stop - start, PIXELS), np.uint8)
        labels = np.empty(stop - start, np.uint8)
        read_batch = _FORMATS[self.version].read
        for number, name in enumerate(_batches(self.version, split)):
            first = number * self.records
            low, high = max(start, first), min(stop, first + self.records)
            if low >= high:
                continue
            rows = slice(low - start, high - start)
            path = self.directory / name
            try:
                batch = read_batch(path, low - first, high - first, self.records)
            except OSError as error:
                raise DataError(f"cannot read {path}: {error}; all workers must see it") from error
            images[rows], labels[rows] = batch
        return images, labels


def open_directory(directory: Path, limit: int | None = None, records: int = RECORDS) -> Cifar10:
    """Open the version of CIFAR-10 in `directory` or in its official subdirectory.

    Every file is read once to check its size and shape and to compute its digest. Labels are
    checked when their rows are read. If both versions exist, the binary version is used, because
    it needs no unpickling.

    Raises:
        DataError: Neither version exists, or a version is incomplete or damaged.
    """
    for version, form in _FORMATS.items():
        for place in (directory, directory / form.folder):
            if any((place / name).exists() for name in _all_batches(version)):
                return _open_version(version, place, limit, records)
    raise DataError(
        f"{directory} contains no CIFAR-10 files: wanted data_batch_1.bin to data_batch_5.bin and "
        "test_batch.bin (binary version), or the same without .bin (python version)"
    )


def _open_version(version: Version, place: Path, limit: int | None, records: int) -> Cifar10:
    form = _FORMATS[version]
    names = _all_batches(version)
    missing = [name for name in names if not (place / name).is_file()]
    if missing:
        raise DataError(f"{place} does not contain {', '.join(missing)}; {_AGAIN}")
    digest = hashlib.sha256()
    for name in names:
        form.check(place / name, records)
        with (place / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    meta = place / form.meta
    if meta.exists() and (classes := form.read_classes(meta)) != CLASSES:
        raise DataError(f"{meta} lists the classes {', '.join(classes)}, not CIFAR-10's")
    return Cifar10(version, place.absolute(), digest.hexdigest(), limit, records)


def _batches(version: Version, split: Split) -> tuple[str, ...]:
    names = ("test_batch",) if split == "test" else tuple(f"data_batch_{i}" for i in range(1, 6))
    return tuple(name + _FORMATS[version].suffix for name in names)


def _all_batches(version: Version) -> tuple[str, ...]:
    return _batches(version, "train") + _batches(version, "test")


def _check_binary(path: Path, records: int) -> None:
    size, wanted = path.stat().st_size, records * _RECORD_BYTES
    if size != wanted:
        fault = "is truncated" if size < wanted else "is too long"
        raise DataError(
            f"{path} {fault}: {size} bytes, wanted {wanted} "
            f"({records} records of {_RECORD_BYTES}); {_AGAIN}"
        )


def _read_binary(path: Path, start: int, stop: int, records: int) -> tuple[Bytes, Bytes]:
    _check_binary(path, records)
    count, offset = (stop - start) * _RECORD_BYTES, start * _RECORD_BYTES
    rows = np.fromfile(path, np.uint8, count=count, offset=offset).reshape(-1, _RECORD_BYTES)
    check_labels(rows[:, 0], os.fspath(path), start)
    return rows[:, 1:], rows[:, 0]


def _read_binary_classes(meta: Path) -> tuple[str, ...]:
    return tuple(meta.read_text("ascii", errors="replace").split())


def _load_python(path: Path, records: int) -> tuple[Bytes, list[int]]:
    batch = load_pickle(path)
    data, labels = batch.get(b"data"), batch.get(b"labels")
    if not isinstance(data, np.ndarray) or data.shape != (records, PIXELS):
        got = f"has shape {data.shape}" if isinstance(data, np.ndarray) else "is not an array"
        raise DataError(f"{path}: data {got}, wanted ({records}, {PIXELS}) uint8; {_AGAIN}")
    if not isinstance(labels, list) or len(labels) != records:
        got = f"has {len(labels)} entries" if isinstance(labels, list) else "is not a list"
        raise DataError(f"{path}: labels {got}, wanted a list of {records}; {_AGAIN}")
    for record, label in enumerate(labels):
        if type(label) is not int or not 0 <= label <= 255:
            raise DataError(f"{path}, record {record}: label {label!r}, wanted 0 to 9; {_AGAIN}")
    return data, labels


def _check_python(path: Path, records: int) -> None:
    _load_python(path, records)


def _read_python(path: Path, start: int, stop: int, records: int) -> tuple[Bytes, Bytes]:
    data, listed = _load_python(path, records)
    labels = np.array(listed[start:stop], np.uint8)
    check_labels(labels, os.fspath(path), start)
    return data[start:stop], labels


def _read_python_classes(meta: Path) -> tuple[str, ...]:
    names = load_pickle(meta).get(b"label_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{meta}: label_names is not a list of names; {_AGAIN}")
    return tuple(name.decode("ascii", errors="replace") for name in names)


@dataclass(frozen=True)
class _Format:
    folder: str
    suffix: str
    meta: str
    check: Callable[[Path, int], None]
    read: Callable[[Path, int, int, int], tuple[Bytes, Bytes]]
    read_classes: Callable[[Path], tuple[str, ...]]


_FORMATS: dict[Version, _Format] = {
    "binary": _Format(
        folder="cifar-10-batches-bin",
        suffix=".bin",
        meta="batches.meta.txt",
        check=_check_binary,
        read=_read_binary,
        read_classes=_read_binary_classes,
    ),
    "python": _Format(
        folder="cifar-10-batches-py",
        suffix="",
        meta="batches.meta",
        check=_check_python,
        read=_read_python,
        read_classes=_read_python_classes,
    ),
}
