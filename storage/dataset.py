"""A finished store, opened for reading."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from storage.arrays import StoredArray
from storage.errors import DataError
from storage.location import Location
from storage.manifest import Manifest, read_manifest
from storage.schema import (
    FORMAT_VERSION,
    IMAGE_SHAPE,
    PIXELS,
    SPLITS,
    Bytes,
    Layout,
    Split,
    check_range,
)


@dataclass(frozen=True)
class Dataset:
    """The images and labels of a store; a value that can be sent to any worker.

    Two are equal when they are of one URL and hold the same rows in the same layout. Make one
    with `open_dataset`.
    """

    url: str
    """An absolute path, or a URL."""
    name: str
    """``"cifar10"`` or ``"synthetic"``."""
    source: str
    """Where the rows come from, in words."""
    classes: tuple[str, ...]
    """The classes' names; a label is an index into them."""
    fingerprint: str
    """SHA-256 (hex) of all rows, whatever their layout."""
    layout: Layout
    """As asked for at ingest; `shards` gives what it came to."""
    train_rows: int
    test_rows: int
    mean: NDArray[np.float64] = field(compare=False, repr=False)
    """Mean training image, (3072,) float64: exact sums of integers over the number of rows."""

    def rows(self, split: Split) -> int:
        """Return the number of images of `split`."""
        return self.train_rows if split == "train" else self.test_rows

    def shards(self, split: Split) -> tuple[range, ...]:
        """Return the rows of each stored shard of `split`, in order."""
        rows = self.rows(split)
        return self.layout.fit(rows).shards(rows)

    def labels(self, split: Split) -> Bytes:
        """Read all labels of `split`: (N,) uint8.

        Raises:
            DataError: a chunk is damaged or missing.
        """
        return self._array(split, "labels").read(0, self.rows(split))

    def read(self, split: Split, start: int, stop: int) -> tuple[Bytes, Bytes]:
        """Read rows `start` to `stop`: images (n, 3072) uint8 and labels (n,) uint8.

        Raises:
            DataError: a chunk is damaged or missing; it names the chunk.
            IndexError: there are no such rows.
        """
        check_range(start, stop, self.rows(split))
        images = self._array(split, "images").read(start, stop)
        return images.reshape(-1, PIXELS), self._array(split, "labels").read(start, stop)

    def read_rows(self, split: Split, rows: ArrayLike) -> tuple[Bytes, Bytes]:
        """Read `rows`, in any order and as often as they are named, and no other inner chunks.

        Returns images (n, 3072) uint8 and labels (n,) uint8 in the order of `rows`.

        Raises:
            DataError: as of `read`.
            IndexError: a row is not of the split, or no whole number.
        """
        wanted = np.asarray(rows)
        if not wanted.size:
            return np.empty((0, PIXELS), np.uint8), np.empty(0, np.uint8)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise IndexError(
                f"rows must be a list of whole numbers, not {wanted.dtype}, {wanted.ndim}-d"
            )
        check_range(int(wanted.min()), int(wanted.max()) + 1, self.rows(split))
        distinct, place = np.unique(wanted, return_inverse=True)
        images = self._array(split, "images").read_rows(distinct).reshape(-1, PIXELS)
        labels = self._array(split, "labels").read_rows(distinct)
        return images[place], labels[place]

    def summary(self) -> "DatasetSummary":
        """Return what a person or a run's record wants to know of the data."""
        return DatasetSummary(
            url=self.url,
            name=self.name,
            source=self.source,
            fingerprint=self.fingerprint,
            format_version=FORMAT_VERSION,
            classes=self.classes,
            rows={split: self.rows(split) for split in SPLITS},
            shards={split: len(self.shards(split)) for split in SPLITS},
            shard_rows=self.layout.shard_rows,
            chunk_rows=self.layout.chunk_rows,
        )

    def _array(self, split: Split, name: str) -> StoredArray:
        return _open_array(self.url, f"{split}/{name}", self.fingerprint, self.layout)


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """What a person or a run's record wants to know of a store, as plain values."""

    url: str
    name: str
    source: str
    fingerprint: str
    format_version: int
    classes: tuple[str, ...]
    rows: Mapping[str, int]
    """Images of each split."""
    shards: Mapping[str, int]
    """Stored shards of each split."""
    shard_rows: int
    chunk_rows: int

    def in_words(self) -> str:
        """Say which data it is, in one line."""
        return f"{self.source}, {self.rows['train']:,} + {self.rows['test']:,} images"


# The fingerprint and the layout are in the key so that a store replaced by another is reopened.
@lru_cache(maxsize=32)
def _open_array(url: str, path: str, _fingerprint: str, _layout: Layout) -> StoredArray:
    return StoredArray.open(Location.parse(url), path)


def open_dataset(url: str) -> Dataset:
    """Open the finished store at `url`, a path or a URL.

    Raises:
        DataError: there is no store, it is not one of this project, it is not finished, it was
            written by a newer version, or its mean image is damaged.
    """
    where = Location.parse(url)
    manifest = read_manifest(where)
    if manifest is None:
        begun = not where.partial.is_empty()
        state = "an ingest was begun here and not finished; " if begun else ""
        raise DataError(f"no store at {where}; {state}make it with ingest")
    if manifest.fingerprint is None:
        raise DataError(f"the store at {where} is not finished; ingest it again to go on")
    return Dataset(
        url=where.url,
        name=manifest.name,
        source=manifest.source,
        classes=manifest.classes,
        fingerprint=manifest.fingerprint,
        layout=manifest.layout,
        train_rows=_count_rows(where, manifest, "train"),
        test_rows=_count_rows(where, manifest, "test"),
        mean=_read_mean(where),
    )


def _count_rows(where: Location, manifest: Manifest, split: Split) -> int:
    """Return a split's rows; check that its arrays are as the manifest says."""
    images = StoredArray.open(where, f"{split}/images").array
    labels = StoredArray.open(where, f"{split}/labels").array
    rows = images.shape[0]
    fitted = manifest.layout.fit(rows)
    found = (images.shape, images.shards, images.chunks, str(images.dtype), labels.shape)
    wanted = (
        (rows, *IMAGE_SHAPE),
        (fitted.shard_rows, *IMAGE_SHAPE),
        (fitted.chunk_rows, *IMAGE_SHAPE),
        "uint8",
        (rows,),
    )
    if found != wanted:
        raise DataError(
            f"{where}: the {split} arrays have (shape, shards, chunks, dtype, labels) {found}, "
            f"wanted {wanted}; remove the store and ingest it again"
        )
    return rows


def _read_mean(where: Location) -> NDArray[np.float64]:
    mean = StoredArray.open(where, "train/mean").read(0, IMAGE_SHAPE[0])
    flat: NDArray[np.float64] = mean.reshape(PIXELS)
    flat.setflags(write=False)
    return flat
