"""Interleaved timing of two functions, so that a disturbance of the machine affects both."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

Work = Callable[[], Any]


class Paired(NamedTuple):
    """The result of a comparison: medians over its rounds."""

    ratio: float
    """The median of each round's ratio: time of the first over time of the second."""
    first: float
    """Seconds per call of the first."""
    second: float
    """Seconds per call of the second."""


def paired(first: Work, second: Work, *, rounds: int = 15, warm_up: int = 2) -> Paired:
    """Time both functions once per round, in alternating order, after `warm_up` untimed rounds."""
    pairs = []
    for i in range(warm_up + rounds):
        if i % 2:
            b, a = seconds(second), seconds(first)
        else:
            a, b = seconds(first), seconds(second)
        pairs.append((a, b))
    pairs = pairs[warm_up:]
    ratio = median(a / b for a, b in pairs)
    return Paired(ratio, median(a for a, _ in pairs), median(b for _, b in pairs))


def seconds(work: Work) -> float:
    """Return the wall time of one call, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
