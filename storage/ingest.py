"""Ingest: from a source to a finished store, planned first, then done shard by shard.

    plan = plan_ingest(source, url)
    with claim_store(plan.location) as claim:
        plan = prepare(plan)
        summaries = [write_shard(plan, shard) for shard in plan.shards]  # on any worker, any order
        stored = [read_back(plan, shard) for shard in plan.shards]  # likewise
        claim.check()
        dataset = finish(plan, summaries, stored)

No finished store is at `url` before `finish`. If an ingest was killed, the next one of the same
source and layout keeps the shards that hold the source's rows and writes the others; an ingest
of another source starts over. The fingerprint is that of the rows read back from the store.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from storage.arrays import StoredArray, consolidate, create_arrays
from storage.dataset import Dataset, open_dataset
from storage.errors import DataError
from storage.fingerprint import fingerprint, row_digests
from storage.location import Location
from storage.manifest import Manifest, read_manifest
from storage.schema import (
    CLASSES,
    IMAGE_SHAPE,
    PIXELS,
    SPLITS,
    Bytes,
    Layout,
    Split,
)
from storage.sources import Source


@dataclass(frozen=True, order=True)
class ShardTask:
    """One shard to write: rows `start` to `stop` of `split`."""

    split: Split
    start: int
    stop: int


@dataclass(frozen=True)
class ShardSummary:
    """What a written shard adds to the mean and to the fingerprint."""

    shard: ShardTask
    pixel_sum: NDArray[np.int64] = field(compare=False, repr=False)
    """Sum of the images, (3072,) int64: exact."""
    digests: bytes = field(repr=False)
    """SHA-256 of each row of the source, 32 bytes per row."""
    class_counts: tuple[int, ...]
    """Images of each class."""
    reused: bool
    """Whether the store already held these rows, so that nothing was written."""


@dataclass(frozen=True)
class ReadBackShard:
    """What a shard of the store holds, as read back from it."""

    shard: ShardTask
    digests: bytes = field(repr=False)
    """SHA-256 of each row of the store, 32 bytes per row; empty if it cannot be read."""


@dataclass(frozen=True)
class IngestPlan:
    """What an ingest will do; a value that can be sent to any worker."""

    source: Source
    location: Location
    layout: Layout
    shards: tuple[ShardTask, ...]
    """One task a shard; empty where `complete`."""
    complete: bool
    """Whether the store is there already and holds this very source: nothing is to be done."""

    @property
    def manifest(self) -> Manifest:
        """What the store says of itself until it is finished."""
        return Manifest.of(self.source, self.layout)


def plan_ingest(source: Source, url: str, layout: Layout | None = None) -> IngestPlan:
    """Plan the ingest of `source` into a store at `url`, and touch nothing.

    A finished store of the same source is complete whatever its layout.

    Raises:
        DataError: `url` has a store of other data, or something that is no store.
    """
    layout = layout or Layout()
    location = Location.parse(url)
    held = read_manifest(location)
    if held is not None and held.fingerprint is not None:
        if held.identity != source.identity:
            raise DataError(
                f"{location} already holds other data: {held.source} "
                f"(fingerprint {held.fingerprint[:12]}); remove it or name another store"
            )
        return IngestPlan(source, location, layout, shards=(), complete=True)
    shards = tuple(
        ShardTask(split, rows.start, rows.stop)
        for split in SPLITS
        for rows in layout.fit(source.rows(split)).shards(source.rows(split))
    )
    return IngestPlan(source, location, layout, shards, complete=False)


def prepare(plan: IngestPlan) -> IngestPlan:
    """Make the unfinished store, or keep the one that an ingest like this left.

    Hold the claim on the store (`storage.claims.claim_store`) from here to `finish`. Returns the
    plan as it is now: another ingest may have completed the store since `plan` was made.

    Raises:
        DataError: the place cannot be written, or has got a store of other data meanwhile.
    """
    plan = plan_ingest(plan.source, plan.location.url, plan.layout)
    if plan.complete:
        return plan
    partial = plan.location.partial
    try:
        if partial != plan.location:
            _take_back(plan.location)
        if not _is_begun(plan):
            partial.remove()
            attributes = plan.manifest.to_attributes()
            zarr.create_group(partial.store(read_only=False), attributes=attributes)
        create_arrays(partial, plan.layout, {split: plan.source.rows(split) for split in SPLITS})
    except OSError as error:
        raise DataError(f"cannot write a store at {plan.location}: {error}") from error
    return plan


def _take_back(location: Location) -> None:
    """Move an unfinished store from a path's final place to where unfinished stores lie.

    Ingests that did not exclude each other could leave one there.
    """
    if not location.is_empty():
        location.partial.remove()
        Path(location.url).rename(location.partial.url)


def _is_begun(plan: IngestPlan) -> bool:
    try:
        held = read_manifest(plan.location.partial)
    except DataError:  # killed before it said what it was
        return False
    return held is not None and held.is_same_ingest(plan.manifest)


def write_shard(plan: IngestPlan, shard: ShardTask) -> ShardSummary:
    """Write one shard, unless the store already holds its rows, and sum it up.

    May run on any worker that sees the source and the store, any number of times.

    Raises:
        DataError: the source is damaged here, or the ingest was not prepared.
    """
    images, labels = _open_arrays(plan, shard)
    stored_images = images.read_if_whole(shard.start, shard.stop)
    stored_labels = labels.read_if_whole(shard.start, shard.stop)
    read_images, read_labels = plan.source.read(shard.split, shard.start, shard.stop)
    shaped_images = read_images.reshape(-1, *IMAGE_SHAPE)
    reused = _is_equal(stored_images, shaped_images) and _is_equal(stored_labels, read_labels)
    if not reused:
        images.write(shard.start, shaped_images)
        labels.write(shard.start, read_labels)
    return ShardSummary(
        shard=shard,
        pixel_sum=read_images.sum(axis=0, dtype=np.int64),
        digests=row_digests(read_images, read_labels),
        class_counts=tuple(np.bincount(read_labels, minlength=len(CLASSES)).tolist()),
        reused=reused,
    )


def _open_arrays(plan: IngestPlan, shard: ShardTask) -> tuple[StoredArray, StoredArray]:
    """Open the unfinished store's images and labels of a shard's split."""
    images, labels = (
        StoredArray.open(plan.location.partial, f"{shard.split}/{name}")
        for name in ("images", "labels")
    )
    return images, labels


def _is_equal(stored: Bytes | None, rows: Bytes) -> bool:
    return stored is not None and np.array_equal(stored, rows)


def read_back(plan: IngestPlan, shard: ShardTask) -> ReadBackShard:
    """Read a written shard from the unfinished store and digest its rows.

    Call it when all shards are written, on any worker that sees the store.
    """
    images, labels = (
        array.read_if_whole(shard.start, shard.stop) for array in _open_arrays(plan, shard)
    )
    if images is None or labels is None:
        return ReadBackShard(shard, b"")
    return ReadBackShard(shard, row_digests(images.reshape(-1, PIXELS), labels))


def finish(
    plan: IngestPlan, summaries: Iterable[ShardSummary], stored: Iterable[ReadBackShard]
) -> Dataset:
    """Write the mean and the fingerprint, publish the store and open it.

    `summaries` and `stored` are those of all the plan's shards, in any order.

    Raises:
        ValueError: a shard is missing among them, or there twice.
        DataError: the store does not hold the source's rows, or another ingest has taken the
            place meanwhile.
    """
    if plan.complete:
        return open_dataset(plan.location.url)
    ordered = sorted(summaries, key=lambda summary: summary.shard)
    held = sorted(stored, key=lambda each: each.shard)
    for shards in ([summary.shard for summary in ordered], [each.shard for each in held]):
        if shards != sorted(plan.shards):
            raise ValueError(f"{len(shards)} shards do not match the plan's {len(plan.shards)}")
    _check_stored(plan, ordered, held)
    if not _is_begun(plan):
        raise DataError(f"{plan.location}: another ingest has taken the place; run this again")
    partial = plan.location.partial
    mean = StoredArray.open(partial, "train/mean")
    mean.write(0, _mean_image(plan, ordered))
    digests = {
        split: [each.digests for each in held if each.shard.split == split] for split in SPLITS
    }
    finished = plan.manifest.finished(fingerprint(digests))
    consolidate(partial)
    root = zarr.open_group(partial.store(read_only=False), mode="r+")
    root.attrs.put(finished.to_attributes())
    if partial != plan.location:
        _publish(plan)
    return open_dataset(plan.location.url)


def _check_stored(
    plan: IngestPlan, summaries: list[ShardSummary], stored: list[ReadBackShard]
) -> None:
    for summary, held in zip(summaries, stored, strict=True):
        if summary.digests != held.digests:
            shard = summary.shard
            raise DataError(
                f"{plan.location}: {shard.split} rows {shard.start} to {shard.stop - 1} are not "
                "the source's: something else has written there; the store is not finished, run "
                "this again"
            )


def _mean_image(plan: IngestPlan, summaries: list[ShardSummary]) -> NDArray[np.float64]:
    """Return the mean training image, (3, 32, 32) float64."""
    sums = [summary.pixel_sum for summary in summaries if summary.shard.split == "train"]
    total = np.sum(sums, axis=0, dtype=np.int64)
    return np.asarray(total / plan.source.rows("train")).reshape(IMAGE_SHAPE)


def _publish(plan: IngestPlan) -> None:
    """Rename the finished store to its place: it appears whole or not at all."""
    partial = Path(plan.location.partial.url)
    for left in partial.rglob("*.partial"):  # what Zarr was writing when it was killed
        left.unlink()
    try:
        partial.rename(plan.location.url)
    except OSError as error:
        raise DataError(f"cannot put the store at {plan.location}: {error}") from error


def abandon(plan: IngestPlan) -> None:
    """Remove what an unfinished ingest has written, while its claim is held."""
    if not plan.complete and _is_begun(plan):
        plan.location.partial.remove()
