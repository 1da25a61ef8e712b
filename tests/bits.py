"""What arrays are held to each other by where not one bit may differ."""

import hashlib
from typing import Any

from numpy.typing import NDArray


def bits(*arrays: NDArray[Any]) -> str:
    """Return a digest of the arrays' dtypes, shapes and bytes.

    Of the bytes themselves pytest would describe the difference, as it does where $CI is set or
    with -v, and for a gradient's that takes hours.
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr((array.dtype.str, array.shape)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
