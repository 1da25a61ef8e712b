"""The arrays of a store, with reads that report every damaged or missing chunk.

Zarr returns the fill value for a missing object, and does not say which chunk failed its
checksum. `StoredArray` raises an error for a missing object and names the damaged chunk.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import (
    ByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.errors import ZarrUserWarning
from zarr.storage import WrapperStore

from storage.errors import DataError
from storage.location import Location
from storage.schema import DIMENSIONS, IMAGE_SHAPE, SPLITS, Layout, Split

_CHECKSUM = "fails its checksum"
_AGAIN = "remove the store and ingest it again"


def create_arrays(where: Location, layout: Layout, rows: dict[Split, int]) -> None:
    """Create the arrays that the group at `where` does not have yet; write no data.

    Every inner chunk is followed by its CRC32C. Labels have one chunk per shard. The mean is one
    chunk.
    """
    root = zarr.open_group(where.store(read_only=False), mode="r+", use_consolidated=False)
    for split in SPLITS:
        group = root.require_group(split)
        fitted = layout.fit(rows[split])
        shard = (fitted.shard_rows, *IMAGE_SHAPE)
        chunk = (fitted.chunk_rows, *IMAGE_SHAPE)
        _create(group, "images", (rows[split], *IMAGE_SHAPE), "u1", DIMENSIONS, chunk, shard)
        _create(group, "labels", (rows[split],), "u1", DIMENSIONS[:1], shard[:1])
    _create(root.require_group("train"), "mean", IMAGE_SHAPE, "f8", DIMENSIONS[1:], IMAGE_SHAPE)


def _create(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    dimensions: tuple[str, ...],
    chunk: tuple[int, ...],
    shard: tuple[int, ...] | None = None,
) -> None:
    if name not in group:
        group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=chunk,
            shards=shard,
            filters=None,
            compressors=[Crc32cCodec()],
            dimension_names=dimensions,
        )


def consolidate(where: Location) -> None:
    """Consolidate the arrays' metadata in each group, where xarray looks for it first.

    Zarr warns that consolidated metadata is not part of its specification yet. Without it, xarray
    warns instead, and opens a store on a network object by object.
    """
    store = where.store(read_only=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        for group in (*SPLITS, ""):
            zarr.consolidate_metadata(store, path=group)


@dataclass(frozen=True)
class StoredArray:
    """An array of a store; `path` is its path in the store, such as ``train/images``."""

    where: Location
    path: str
    array: "zarr.Array[Any]"

    @classmethod
    def open(cls, where: Location, path: str) -> "StoredArray":
        """Open the array at `path` in the store at `where`.

        Raises:
            DataError: The array does not exist or cannot be read.
        """
        try:
            store = _NothingMissing(where.store(read_only=True))
            array = zarr.open_array(store, path=path, mode="r")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{where}: cannot open {path}; {_AGAIN}") from error
        return cls(where, path, array)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows `start` to `stop`.

        Raises:
            DataError: A chunk is damaged or missing; the message names the first one.
        """
        try:
            return np.asarray(self.array[start:stop])
        except ValueError as error:
            raise self._damage([range(start, stop)], error) from error

    def read_rows(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Read `rows`, which must be strictly increasing.

        Only the inner chunks that contain these rows are read.

        Raises:
            DataError: A chunk is damaged or missing; the message names the first one.
        """
        try:
            return np.asarray(self.array.oindex[rows])
        except ValueError as error:
            ranges = [range(row, row + 1) for row in rows.tolist()]
            raise self._damage(ranges, error) from error

    def read_if_whole(self, start: int, stop: int) -> NDArray[Any] | None:
        """Read rows `start` to `stop`, or return None if a chunk is damaged or missing."""
        try:
            return np.asarray(self.array[start:stop])
        except ValueError:
            return None

    def write(self, start: int, data: NDArray[Any]) -> None:
        """Write whole shards from row `start` on, replacing any existing ones.

        Existing shards are removed first, because Zarr would merge the data with them and they may
        be damaged. Chunks of zeros are written too, so a missing chunk is always an error.
        """
        for shard in range(start // self._shard_rows, -(-(start + len(data)) // self._shard_rows)):
            self.where.child(self._object(shard)).remove()
        array = zarr.open_array(self.where.store(read_only=False), path=self.path, mode="r+")
        array.with_config({"write_empty_chunks": True})[start : start + len(data)] = data

    @property
    def _shard_rows(self) -> int:
        return (self.array.shards or self.array.chunks)[0]

    def _object(self, shard: int) -> str:
        """Return the name of the object that contains a shard."""
        key = self.array.metadata.encode_chunk_key((shard, *[0] * (self.array.ndim - 1)))
        return f"{self.path}/{key}"

    def _damage(self, touched: Iterable[range], error: ValueError) -> DataError:
        """Return an error that names the first damaged chunk in the shards of the given rows."""
        step = self._shard_rows
        shards = {row // step for rows in touched for row in (*rows[::step], *rows[-1:])}
        for shard in sorted(shards):
            chunks = self._chunks(shard)
            failures = {n: why for n, rows in enumerate(chunks) if (why := self._failure(rows))}
            if failures:
                return DataError(f"{self.where}: {self._tell(shard, chunks, failures)}; {_AGAIN}")
        return DataError(f"{self.where}: cannot read {self.path} ({error})")

    def _chunks(self, shard: int) -> list[range]:
        """Return the rows of each inner chunk of a shard, up to the end of the array."""
        start = shard * self._shard_rows
        stop = min(start + self._shard_rows, self.array.shape[0])
        step = self.array.chunks[0]
        return [range(row, min(row + step, stop)) for row in range(start, stop, step)]

    def _failure(self, rows: range) -> str | None:
        try:
            self.array[rows.start : rows.stop]
        except _LackingObjectError as error:
            return str(error)
        except ValueError:
            return _CHECKSUM
        return None

    def _tell(self, shard: int, chunks: list[range], failures: dict[int, str]) -> str:
        file = self._object(shard)
        number, why = next(iter(failures.items()))
        if why != _CHECKSUM or self.array.shards is None:
            return f"{file} ({self._rows(chunks[0].start, chunks[-1].stop)}) {why}"
        if len(failures) == len(chunks) > 1:
            rows = self._rows(chunks[0].start, chunks[-1].stop)
            return f"the shard {file} ({rows}) is truncated or its index {why}"
        rows = self._rows(chunks[number].start, chunks[number].stop)
        return f"inner chunk {number} ({rows}) of the shard {file} {why}"

    def _rows(self, start: int, stop: int) -> str:
        noun = "channels" if self.array.ndim == len(IMAGE_SHAPE) else "rows"
        return f"{noun} {start} to {stop - 1}"


class _LackingObjectError(ValueError):
    """A missing or truncated object; the message completes a sentence, as in "is missing"."""


class _NothingMissing(WrapperStore[Store]):
    """A store that raises an error for a missing chunk instead of returning the fill value."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        value = await super().get(key, prototype, byte_range)
        if "/c/" in key:  # not metadata
            if value is None:
                raise _LackingObjectError("is missing")
            if len(value) < _wanted_bytes(byte_range):
                raise _LackingObjectError("is truncated")
        return value


def _wanted_bytes(byte_range: ByteRequest | None) -> int:
    match byte_range:
        case RangeByteRequest(start, end):
            return end - start
        case SuffixByteRequest(suffix):
            return suffix
    return 1
