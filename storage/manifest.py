"""The manifest of a store, stored in the attributes of its root group.

The fingerprint is written last, so a store without a fingerprint is not finished.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import cast

import zarr
from zarr.core.common import JSON

from storage.errors import DataError
from storage.location import Location
from storage.schema import CLASSES, FORMAT_VERSION, Identity, Layout
from storage.sources import Source


@dataclass(frozen=True)
class Manifest:
    """The identity and layout of a store's data.

    Every field except `fingerprint` is known before the first row is read.
    """

    name: str
    source: str
    """A human-readable description of the source."""
    identity: Identity
    layout: Layout
    """The layout requested at ingest; `Layout.fit` returns the layout of each split."""
    classes: tuple[str, ...] = CLASSES
    fingerprint: str | None = None
    """SHA-256 (hex) of all rows, or None for a store that is not finished."""

    @classmethod
    def of(cls, source: Source, layout: Layout) -> "Manifest":
        """Return the manifest of an unfinished store of `source`."""
        limit = source.identity["limit"]
        first = "" if limit is None else f", the first {limit} images of each split"
        return cls(source.name, source.description + first, source.identity, layout)

    def finished(self, fingerprint: str) -> "Manifest":
        """Return this manifest with the fingerprint of the stored rows."""
        return replace(self, fingerprint=fingerprint)

    def is_same_ingest(self, other: "Manifest") -> bool:
        """Return whether both manifests are equal apart from their fingerprints."""
        return replace(self, fingerprint=None) == replace(other, fingerprint=None)

    def to_attributes(self) -> dict[str, JSON]:
        """Return the attributes of the root group, as JSON values."""
        attributes: dict[str, JSON] = asdict(self) | {"classes": list(self.classes)}
        if self.fingerprint is None:
            del attributes["fingerprint"]
        return attributes | {"format_version": FORMAT_VERSION}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, object], where: Location) -> "Manifest":
        """Return the manifest in the attributes of a root group.

        Raises:
            DataError: The attributes are not those of a store of this project, or a newer version
                wrote them.
        """
        version = attributes.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise DataError(
                f"{where} has format version {version}, but this program reads only versions up "
                f"to {FORMAT_VERSION}; upgrade hinge to read it"
            )
        match attributes:
            case {
                "format_version": int(),
                "name": str(name),
                "source": str(source),
                "identity": {"kind": str(), "content": str(), "limit": int() | None} as identity,
                "layout": {"shard_rows": int(shard_rows), "chunk_rows": int(chunk_rows)},
                "classes": [*classes],
            }:
                fingerprint = attributes.get("fingerprint")
                return cls(
                    name,
                    source,
                    cast("Identity", identity),
                    Layout(shard_rows, chunk_rows),
                    tuple(str(each) for each in classes),
                    None if fingerprint is None else str(fingerprint),
                )
        raise DataError(f"{where} is a Zarr group, but not a store created by `hinge ingest`")


def read_manifest(where: Location) -> Manifest | None:
    """Return the manifest of the store at `where`, or None if nothing exists there.

    Raises:
        DataError: Something exists at `where` that is not a store of this project or cannot be
            read.
    """
    try:
        if where.is_empty():
            return None
        root = zarr.open_group(where.store(read_only=True), mode="r", use_consolidated=False)
        attributes = root.attrs.asdict()
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{where} is not a store created by `hinge ingest` ({reason})") from error
    return Manifest.from_attributes(attributes, where)
