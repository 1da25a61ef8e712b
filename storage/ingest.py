"""Ingest: from a source to a finished store, planned first, then done shard by shard.

    plan = plan_ingest(source, url)
    prepare(plan)
    summaries = [write_shard(plan, shard) for shard in plan.shards]  # on any worker, any order
    dataset = finish(plan, summaries)

Nothing is seen at `url` before `finish`. An ingest that was killed is taken up by the next of
the same source and layout, which writes only the shards that are not whole; one of another
source starts over.
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
    """SHA-256 of each row, 32 bytes a row."""
    class_counts: tuple[int, ...]
    """Images of each class."""
    reused: bool
    """Whether the shard was there already, whole, and was left as it is."""


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
    if held is not None and location.is_local:
        raise DataError(f"{location} is a store without a fingerprint; remove it first")
    shards = tuple(
        ShardTask(split, rows.start, rows.stop)
        for split in SPLITS
        for rows in layout.fit(source.rows(split)).shards(source.rows(split))
    )
    return IngestPlan(source, location, layout, shards, complete=False)


def prepare(plan: IngestPlan) -> None:
    """Make the unfinished store, or keep the one that an ingest like this left.

    Raises:
        DataError: the place cannot be written.
    """
    if plan.complete:
        return
    partial = plan.location.partial
    try:
        if not _is_begun(plan):
            partial.remove()
            attributes = plan.manifest.to_attributes()
            zarr.create_group(partial.store(read_only=False), attributes=attributes)
        create_arrays(partial, plan.layout, {split: plan.source.rows(split) for split in SPLITS})
    except OSError as error:
        raise DataError(f"cannot write a store at {plan.location}: {error}") from error


def _is_begun(plan: IngestPlan) -> bool:
    try:
        held = read_manifest(plan.location.partial)
    except DataError:  # killed before it said what it was
        return False
    return held is not None and held.is_same_ingest(plan.manifest)


def write_shard(plan: IngestPlan, shard: ShardTask) -> ShardSummary:
    """Write one shard, unless it is there already and whole, and sum it up.

    May run on any worker that sees the source and the store, any number of times.

    Raises:
        DataError: the source is damaged here, or the ingest was not prepared.
    """
    partial = plan.location.partial
    images = StoredArray.open(partial, f"{shard.split}/images")
    labels = StoredArray.open(partial, f"{shard.split}/labels")
    stored_images = images.read_if_whole(shard.start, shard.stop)
    stored_labels = labels.read_if_whole(shard.start, shard.stop)
    if stored_images is not None and stored_labels is not None:
        return _sum_up(shard, stored_images.reshape(-1, PIXELS), stored_labels, reused=True)
    read_images, read_labels = plan.source.read(shard.split, shard.start, shard.stop)
    images.write(shard.start, read_images.reshape(-1, *IMAGE_SHAPE))
    labels.write(shard.start, read_labels)
    return _sum_up(shard, read_images, read_labels, reused=False)


def _sum_up(shard: ShardTask, images: Bytes, labels: Bytes, *, reused: bool) -> ShardSummary:
    counts = np.bincount(labels, minlength=len(CLASSES))
    return ShardSummary(
        shard=shard,
        pixel_sum=images.sum(axis=0, dtype=np.int64),
        digests=row_digests(images, labels),
        class_counts=tuple(counts.tolist()),
        reused=reused,
    )


def finish(plan: IngestPlan, summaries: Iterable[ShardSummary]) -> Dataset:
    """Write the mean and the fingerprint, publish the store and open it.

    `summaries` are those of all the plan's shards, in any order.

    Raises:
        ValueError: a shard's summary is missing, or there twice.
        DataError: another ingest has taken the place meanwhile.
    """
    if plan.complete:
        return open_dataset(plan.location.url)
    ordered = sorted(summaries, key=lambda summary: summary.shard)
    if [summary.shard for summary in ordered] != sorted(plan.shards):
        raise ValueError(f"{len(ordered)} summaries do not match {len(plan.shards)} shards")
    if not _is_begun(plan):
        raise DataError(f"{plan.location}: another ingest has taken the place; run this again")
    partial = plan.location.partial
    mean = StoredArray.open(partial, "train/mean")
    mean.write(0, _mean_image(plan, ordered))
    digests = {split: _digests(ordered, split) for split in SPLITS}
    finished = plan.manifest.finished(fingerprint(digests))
    consolidate(partial)
    root = zarr.open_group(partial.store(read_only=False), mode="r+")
    root.attrs.put(finished.to_attributes())
    if partial != plan.location:
        _publish(plan)
    return open_dataset(plan.location.url)


def _digests(summaries: list[ShardSummary], split: Split) -> list[bytes]:
    return [summary.digests for summary in summaries if summary.shard.split == split]


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
        held = read_manifest(plan.location)
        if held is None or held.identity != plan.source.identity:
            raise DataError(f"cannot put the store at {plan.location}: {error}") from error
        plan.location.partial.remove()  # another ingest of the same data was first


def abandon(plan: IngestPlan) -> None:
    """Remove what an unfinished ingest has written; a finished store stays."""
    if not plan.complete and _is_begun(plan):
        plan.location.partial.remove()
