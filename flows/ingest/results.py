"""The record of an ingest, stored in `result.json` like that of every run."""

from dataclasses import dataclass

from flows.runs.record import FinishedRecord


@dataclass(frozen=True, kw_only=True)
class IngestParameters:
    """The source and the destination of an ingest."""

    source: str
    """As given: a path, `download` or `synthetic:N`."""
    store: str
    """As given: a path or a URL."""
    limit: int | None
    """Only the first `limit` images of each split were ingested; None for all."""
    shard_rows: int
    """Images per shard."""

    def in_words(self) -> str:
        """Return what is done, such as `ingest synthetic:600 to images.zarr`."""
        limit = f", {self.limit} images" if self.limit else ""
        return f"ingest {self.source}{limit} to {self.store}"


@dataclass(frozen=True, kw_only=True)
class ShardCounts:
    """The numbers of shards that an ingest wrote, and that it found in the store."""

    written: int
    reused: int


@dataclass(frozen=True, kw_only=True)
class IngestResult:
    """The result of an ingest. The record's `data` describes the store."""

    shards: ShardCounts

    def in_words(self) -> str:
        """Return the numbers of shards as one line."""
        return f"{self.shards.written} shards written, {self.shards.reused} reused"


IngestRecord = FinishedRecord[IngestParameters, IngestResult]
