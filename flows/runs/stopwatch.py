"""A stopwatch for the parts of a run."""

import time


class Stopwatch:
    """A stopwatch that records the seconds of each part, in order."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}
        self._clock = time.perf_counter()

    def lap(self, part: str) -> None:
        """Record the time since the last lap, or since the start, as the time of `part`."""
        now = time.perf_counter()
        self.timings[part], self._clock = now - self._clock, now
