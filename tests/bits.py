"""Digests of arrays, for tests that require bit-identical results."""

import hashlib
from typing import Any

from numpy.typing import NDArray


def bits(*arrays: NDArray[Any]) -> str:
    """Return a digest of the arrays' dtypes, shapes and bytes.

    If a test compared the bytes themselves, pytest would describe their difference (with -v, or
    if $CI is set). The description takes hours for the bytes of a gradient.
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr((array.dtype.str, array.shape)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
