"""How long each part of a run takes."""

import time


class Stopwatch:
    """Seconds by part, in the order of the parts."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}
        self._clock = time.perf_counter()

    def lap(self, part: str) -> None:
        """Record the time since the last lap, or the start, as the part's."""
        now = time.perf_counter()
        self.timings[part], self._clock = now - self._clock, now
