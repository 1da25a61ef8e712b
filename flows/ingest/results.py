"""The record of an ingest: `result.json` holds it as it holds that of every run."""

from dataclasses import dataclass

from flows.runs.record import FinishedRecord


@dataclass(frozen=True, kw_only=True)
class IngestParameters:
    """What was ingested, and where."""

    source: str
    """As it is typed: a path, `download` or `synthetic:N`."""
    store: str
    """As it is typed: a path or a URL."""
    limit: int | None
    """Only the first rows of each split; None for all."""
    shard_rows: int
    """Images in a shard."""


@dataclass(frozen=True, kw_only=True)
class ShardCounts:
    """How many shards of the store an ingest wrote, and how many were there already."""

    written: int
    reused: int


@dataclass(frozen=True, kw_only=True)
class IngestResult:
    """The result of an ingest. The record's `data` describes the store."""

    shards: ShardCounts


IngestRecord = FinishedRecord[IngestParameters, IngestResult]
