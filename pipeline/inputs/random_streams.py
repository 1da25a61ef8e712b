"""Randomness by counter: a stream is named by seed, purpose and index, not by when it is drawn.

The rows of step 52's batch are the same whoever asks, in whatever order, on any worker.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for; one seed serves all without their numbers meeting."""

    WEIGHTS = 1
    SAMPLE = 2
    SHUFFLE = 3
    TRIAL = 4
    PERTURBATION = 5
    EXAMPLES = 6
    COORDINATES = 7
    DIRECTION = 8


def random_stream(seed: int, purpose: Purpose, index: int) -> np.random.Generator:
    """Return the generator of `purpose` number `index` under `seed`, all at least 0.

    The key of its Philox counter is mixed of the three as NumPy documents it for streams that
    shall be independent (`SeedSequence` with a spawn key), so that a seed may be any size.

    >>> int(random_stream(0, Purpose.SAMPLE, 7).integers(1000))
    383
    >>> int(random_stream(0, Purpose.SAMPLE, 7).integers(1000))
    383
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, index))
    return np.random.Generator(np.random.Philox(sequence))
