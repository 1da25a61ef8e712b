"""Finished stores, opened for reading."""

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
    """The images and labels of a store, as a value that can be sent to any worker.

    Two data sets are equal if they have the same URL, the same rows and the same layout. Create
    one with `open_dataset`.
    """

    url: str
    """An absolute path, or a URL."""
    name: str
    """``"cifar10"`` or ``"synthetic"``."""
    source: str
    """A description of the source of the rows, for people."""
    classes: tuple[str, ...]
    """The names of the classes; a label is an index into this tuple."""
    fingerprint: str
    """SHA-256 (hex) of all rows; it does not depend on the layout."""
    layout: Layout
    """The layout requested at ingest; `shards` returns the resulting shards."""
    train_rows: int
    test_rows: int
    mean: NDArray[np.float64] = field(compare=False, repr=False)
    """Mean training image, (3072,) float64: exact integer sums divided by the number of rows."""

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
            DataError: A chunk is damaged or missing; the message names the first one.
        """
        return self._array(split, "labels").read(0, self.rows(split))

    def read(self, split: Split, start: int, stop: int) -> tuple[Bytes, Bytes]:
        """Read rows `start` to `stop`: images (n, 3072) uint8 and labels (n,) uint8.

        Raises:
            DataError: A chunk is damaged or missing; the message names the first one.
            IndexError: The split does not have these rows.
        """
        check_range(start, stop, self.rows(split))
        images = self._array(split, "images").read(start, stop)
        return images.reshape(-1, PIXELS), self._array(split, "labels").read(start, stop)

    def read_rows(self, split: Split, rows: ArrayLike) -> tuple[Bytes, Bytes]:
        """Read `rows`, in any order and with repetitions.

        Only the inner chunks that contain these rows are read. Returns images (n, 3072) uint8 and
        labels (n,) uint8 in the order of `rows`.

        Raises:
            DataError: A chunk is damaged or missing; the message names the first one.
            IndexError: A row is outside the split or not an integer.
        """
        wanted = np.asarray(rows)
        if not wanted.size:
            return np.empty((0, PIXELS), np.uint8), np.empty(0, np.uint8)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise IndexError(
                f"rows must be a list of integers, not a {wanted.ndim}-d array of {wanted.dtype}"
            )
        check_range(int(wanted.min()), int(wanted.max()) + 1, self.rows(split))
        distinct, place = np.unique(wanted, return_inverse=True)
        images = self._array(split, "images").read_rows(distinct).reshape(-1, PIXELS)
        labels = self._array(split, "labels").read_rows(distinct)
        return images[place], labels[place]

    def summary(self) -> "DatasetSummary":
        """Return the description of the data that commands show and records contain."""
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
    """A description of a store for commands and records, in JSON-compatible values."""

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
        """Return one line that describes the data."""
        return f"{self.source}, {self.rows['train']:,} + {self.rows['test']:,} images"


# Fingerprint and layout are part of the cache's key, so that a replaced store is opened again.
@lru_cache(maxsize=32)
def _open_array(url: str, path: str, _fingerprint: str, _layout: Layout) -> StoredArray:
    return StoredArray.open(Location.parse(url), path)


def store_exists(url: str) -> bool:
    """Return whether there is a finished store at `url`, a path or a URL.

    Raises:
        DataError: Something else exists there.
    """
    manifest = read_manifest(Location.parse(url))
    return manifest is not None and manifest.fingerprint is not None


def open_dataset(url: str) -> Dataset:
    """Open the finished store at `url`, a path or a URL.

    Raises:
        DataError: The store does not exist, is not a store of this project, is not finished, was
            written by a newer version, or has wrong arrays or a damaged mean image.
    """
    where = Location.parse(url)
    manifest = read_manifest(where)
    if manifest is None:
        begun = not where.partial.is_empty()
        state = "an ingest was started here but did not finish; " if begun else ""
        raise DataError(f"no store at {where}; {state}create it with `hinge ingest`")
    if manifest.fingerprint is None:
        raise DataError(f"the store at {where} is not finished; run its ingest again to resume it")
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
    """Return the number of rows of a split; check its arrays against the manifest."""
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
