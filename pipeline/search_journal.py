"""What a search has found so far: the losses of its trials, in a journal, in their order.

Nothing else needs to be kept: a trial's weights are drawn by its number, and which trials
were the best, or were accepted, follows from the losses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import PipelineError
from pipeline.journal import Journal


class SearchJournal:
    """The losses of a search's first trials; see `search_journal`."""

    def __init__(self, journal: Journal, search: str, losses: NDArray[np.float64]) -> None:
        self._journal = journal
        self._search = search
        self.losses = losses
        """In the order of the trials, from trial 0 on."""
        self.before = len(losses)
        """How many trials were in the journal as it was opened."""

    @property
    def done(self) -> int:
        """How many trials are in the journal by now."""
        return len(self.losses)

    def add(self, losses: ArrayLike) -> None:
        """Add the losses of the next trials; they are kept once this returns.

        Raises OSError if they cannot be written.
        """
        after = np.append(self.losses, losses)
        trials = np.arange(self.done, len(after))
        self._journal.append(search=self._search, trials=trials, losses=after[self.done :])
        self.losses = after


@contextmanager
def search_journal(path: Path, search: str, trials: int) -> Iterator[SearchJournal]:
    """Open the journal at `path`, or begin it, of a search of so many trials.

    `search` says which one it is: everything that decides the losses.

    Raises PipelineError if the journal is damaged, or of another search.
    """
    with Journal(path) as journal:
        losses = np.empty(0)
        for entry in journal:
            numbers, more = entry.get("trials"), entry.get("losses")
            if numbers is None or more is None or str(entry.get("search")) != search:
                raise _misfit(path, "it is of another search")
            following = np.arange(len(losses), len(losses) + len(more))
            if not np.array_equal(numbers, following) or len(losses) + len(more) > trials:
                raise _misfit(path, f"there are other trials after the first {len(losses)}")
            losses = np.append(losses, more)
        yield SearchJournal(journal, search, losses)


def _misfit(path: Path, why: str) -> PipelineError:
    return PipelineError(f"{path} is no journal of this run ({why}); start the run anew")
