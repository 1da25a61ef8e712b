"""Ingest of a source into a store: planned first, then written shard by shard.

    plan = plan_ingest(source, url)
    with claim_store(plan.location) as claim:
        plan = prepare(plan)
        summaries = [write_shard(plan, shard) for shard in plan.shards]  # any worker, any order
        stored = [read_back(plan, shard) for shard in plan.shards]  # likewise
        claim.check()
        dataset = finish(plan, summaries, stored)

There is no finished store at `url` before `finish`. After an ingest is killed, the next ingest of
the same source and layout keeps the shards that already contain the source's rows and writes the
others. An ingest of another source or layout starts from scratch. The fingerprint is computed
from the rows as read back from the store.
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
    """The contribution of a written shard to the mean, and the digests of its rows."""

    shard: ShardTask
    pixel_sum: NDArray[np.int64] = field(compare=False, repr=False)
    """Exact sum of the images, (3072,) int64."""
    digests: bytes = field(repr=False)
    """SHA-256 of each row as read from the source, 32 bytes per row."""
    class_counts: tuple[int, ...]
    """Number of images per class."""
    reused: bool
    """Whether the store already contained these rows, so that nothing was written."""


@dataclass(frozen=True)
class ReadBackShard:
    """The digests of a shard's rows, as read back from the store."""

    shard: ShardTask
    digests: bytes = field(repr=False)
    """SHA-256 of each row in the store, 32 bytes per row; empty if the shard is unreadable."""


@dataclass(frozen=True)
class IngestPlan:
    """The plan of an ingest, as a value that can be sent to any worker."""

    source: Source
    location: Location
    layout: Layout
    shards: tuple[ShardTask, ...]
    """One task per shard; empty if `complete`."""
    complete: bool
    """Whether a finished store of this source already exists, so that nothing is left to do."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the unfinished store."""
        return Manifest.of(self.source, self.layout)


def plan_ingest(source: Source, url: str, layout: Layout | None = None) -> IngestPlan:
    """Plan the ingest of `source` into a store at `url` without changing anything.

    A finished store of the same source counts as complete whatever its layout.

    Raises:
        DataError: There is a store of other data at `url`, or something that is not a store.
    """
    layout = layout or Layout()
    location = Location.parse(url)
    held = read_manifest(location)
    if held is not None and held.fingerprint is not None:
        if held.identity != source.identity:
            raise DataError(
                f"{location} already contains other data: {held.source} "
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
    """Create the unfinished store, or keep the one that an interrupted ingest of this plan left.

    The caller must hold the claim on the store (`storage.claims.claim_store`) from here to
    `finish`. Returns an updated plan, because another ingest may have completed the store since
    `plan` was made.

    Raises:
        DataError: The location cannot be written, or there is now a store of other data.
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
    """Move an unfinished store from the final path to the path of unfinished stores.

    Two ingests that ran at the same time without a claim could leave one at the final path.
    """
    if not location.is_empty():
        location.partial.remove()
        Path(location.url).rename(location.partial.url)


def _is_begun(plan: IngestPlan) -> bool:
    try:
        held = read_manifest(plan.location.partial)
    except DataError:  # an ingest was killed before it wrote the manifest
        return False
    return held is not None and held.is_same_ingest(plan.manifest)


def write_shard(plan: IngestPlan, shard: ShardTask) -> ShardSummary:
    """Write one shard, unless the store already contains its rows, and return its summary.

    It may run any number of times on any worker that sees the source and the store.

    Raises:
        DataError: The source is damaged in these rows, or the ingest was not prepared.
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
    """Open the images and labels of a shard's split in the unfinished store."""
    images, labels = (
        StoredArray.open(plan.location.partial, f"{shard.split}/{name}")
        for name in ("images", "labels")
    )
    return images, labels


def _is_equal(stored: Bytes | None, rows: Bytes) -> bool:
    return stored is not None and np.array_equal(stored, rows)


def read_back(plan: IngestPlan, shard: ShardTask) -> ReadBackShard:
    """Read a written shard from the unfinished store and return the digests of its rows.

    Call it after all shards are written, on any worker that sees the store.
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

    `summaries` and `stored` must contain every shard of the plan once, in any order.

    Raises:
        ValueError: A shard is missing or occurs twice.
        DataError: The store does not contain the source's rows, or another ingest has replaced
            the unfinished store.
    """
    if plan.complete:
        return open_dataset(plan.location.url)
    ordered = sorted(summaries, key=lambda summary: summary.shard)
    held = sorted(stored, key=lambda each: each.shard)
    for shards in ([summary.shard for summary in ordered], [each.shard for each in held]):
        if shards != sorted(plan.shards):
            raise ValueError(
                f"each of the plan's {len(plan.shards)} shards is needed exactly once, "
                f"but {len(shards)} shards were given"
            )
    _check_stored(plan, ordered, held)
    if not _is_begun(plan):
        raise DataError(f"{plan.location}: another ingest has replaced this one; run this again")
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
                f"{plan.location}: {shard.split} rows {shard.start} to {shard.stop - 1} differ "
                "from the source, because something else has written to the store; the store is "
                "not finished, so run this again"
            )


def _mean_image(plan: IngestPlan, summaries: list[ShardSummary]) -> NDArray[np.float64]:
    """Return the mean training image, (3, 32, 32) float64."""
    sums = [summary.pixel_sum for summary in summaries if summary.shard.split == "train"]
    total = np.sum(sums, axis=0, dtype=np.int64)
    return np.asarray(total / plan.source.rows("train")).reshape(IMAGE_SHAPE)


def _publish(plan: IngestPlan) -> None:
    """Rename the finished store to its final path, so that it appears complete or not at all."""
    partial = Path(plan.location.partial.url)
    for left in partial.rglob("*.partial"):  # left by Zarr writes that were killed
        left.unlink()
    try:
        partial.rename(plan.location.url)
    except OSError as error:
        raise DataError(f"cannot publish the store at {plan.location}: {error}") from error


def abandon(plan: IngestPlan) -> None:
    """Remove what an unfinished ingest has written; the caller must hold its claim."""
    if not plan.complete and _is_begun(plan):
        plan.location.partial.remove()
