"""Fingerprints of data sets: one SHA-256 over all rows, independent of how they are stored.

Each row (its label byte, then its 3,072 pixels) is hashed separately, on any worker. The
fingerprint is the hash of these digests in the order of the rows. It therefore does not depend on
the shards or on the order of the work.
"""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from storage.schema import PIXELS, SPLITS, Bytes, Split

DIGEST_BYTES = 32


def row_digests(images: Bytes, labels: Bytes) -> bytes:
    """Return the concatenated SHA-256 digests of the rows, 32 n bytes.

    `images` is (n, 3072) uint8 and `labels` (n,) uint8.
    """
    records = np.empty((len(labels), 1 + PIXELS), np.uint8)
    records[:, 0] = labels
    records[:, 1:] = images
    return b"".join(hashlib.sha256(record.data).digest() for record in records)


def fingerprint(digests: Mapping[Split, Iterable[bytes]]) -> str:
    """Return the fingerprint (hex) of a data set from its row digests, in row order per split.

    The digests of a split may be divided into pieces in any way.

    Examples:
        >>> fingerprint({"train": [b"ab", b"c"], "test": [b"d"]}) == fingerprint(
        ...     {"train": [b"abc"], "test": [b"d"]}
        ... )
        True
    """
    whole = hashlib.sha256()
    for split in SPLITS:
        rows = hashlib.sha256()
        for piece in digests[split]:
            rows.update(piece)
        whole.update(rows.digest())
    return whole.hexdigest()
