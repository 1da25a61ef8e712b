"""Tell two data sets apart by one SHA-256, however their rows are stored or were read.

Each row is digested alone (its label byte, then its 3,072 pixels), on whichever worker has it;
the fingerprint digests those digests in the rows' order. So it depends neither on the shards
nor on the order of the work.
"""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from storage.schema import PIXELS, SPLITS, Bytes, Split

DIGEST_BYTES = 32


def row_digests(images: Bytes, labels: Bytes) -> bytes:
    """Return the SHA-256 of each row, one after the other: 32 n bytes.

    `images` is (n, 3072) and `labels` (n,).
    """
    records = np.empty((len(labels), 1 + PIXELS), np.uint8)
    records[:, 0] = labels
    records[:, 1:] = images
    return b"".join(hashlib.sha256(record.data).digest() for record in records)


def fingerprint(digests: Mapping[Split, Iterable[bytes]]) -> str:
    """Return the data set's fingerprint (hex) from its splits' row digests in the rows' order.

    How a split's digests are cut into pieces does not matter:

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
