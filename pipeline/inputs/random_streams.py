"""Random streams that are identified by seed, purpose and index.

A stream does not depend on when it is drawn. The rows of step 52's batch are the same on any
worker, in whatever order the batches are drawn.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """The purpose of a random stream.

    With the same seed, different purposes have independent streams.
    """

    WEIGHTS = 1
    SAMPLE = 2
    SHUFFLE = 3
    TRIAL = 4
    PERTURBATION = 5
    EXAMPLES = 6
    COORDINATES = 7
    DIRECTION = 8


def random_stream(seed: int, purpose: Purpose, index: int) -> np.random.Generator:
    """Return the random generator of `seed`, `purpose` and `index`, all at least 0.

    The key of the Philox generator is derived from these numbers in the way that NumPy documents
    for independent streams (`SeedSequence` with a spawn key). A seed may be arbitrarily large.

    Examples:
        >>> int(random_stream(0, Purpose.SAMPLE, 7).integers(1000))
        383
        >>> int(random_stream(0, Purpose.SAMPLE, 7).integers(1000))
        383
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, index))
    return np.random.Generator(np.random.Philox(sequence))
