"""Compare two pieces of work in one run: interleaved, so that what disturbs one disturbs both."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

Work = Callable[[], Any]


class Paired(NamedTuple):
    """Medians over the rounds of a comparison."""

    ratio: float
    """Median of the rounds' ratios, of the first's time to the second's."""
    first: float
    """Seconds a call."""
    second: float
    """Seconds a call."""


def paired(first: Work, second: Work, *, rounds: int = 15, warm_up: int = 2) -> Paired:
    """Time both once a round, in turns as to which goes first, after some rounds untimed."""
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
    """Return how long one call takes on the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
