"""The values that some work has found so far, in a journal, in the order of their numbers.

Of a search they are the losses of its trials: nothing else needs to be kept, for a trial's
weights are drawn by its number, and which trials were the best, or were accepted, follows from
the losses. Of a gradient check they are the difference quotients of its coordinates.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.inputs.errors import PipelineError
from pipeline.journals.journal import Journal


class ValueJournal:
    """The first values of some work; see `value_journal`."""

    def __init__(self, journal: Journal, work: str, values: NDArray[np.float64]) -> None:
        self._journal = journal
        self._work = work
        self.values = values
        """From number 0 on."""
        self.before = len(values)
        """How many were in the journal as it was opened."""

    @property
    def done(self) -> int:
        """How many are in the journal by now."""
        return len(self.values)

    def add(self, values: ArrayLike) -> None:
        """Add the next values; they are kept once this returns.

        Raises OSError if they cannot be written.
        """
        after = np.append(self.values, values)
        numbers = np.arange(self.done, len(after))
        self._journal.append(work=self._work, numbers=numbers, values=after[self.done :])
        self.values = after


@contextmanager
def value_journal(path: Path, work: str, size: int) -> Iterator[ValueJournal]:
    """Open the journal at `path`, or begin it, of work that has `size` values in all.

    `work` says which it is: everything that decides the values.

    Raises PipelineError if the journal is damaged, or of other work.
    """
    with Journal(path) as journal:
        values = np.empty(0)
        for entry in journal:
            numbers, more = entry.get("numbers"), entry.get("values")
            if numbers is None or more is None or str(entry.get("work")) != work:
                raise _misfit(path, "it is of another run")
            following = np.arange(len(values), len(values) + len(more))
            if not np.array_equal(numbers, following) or len(values) + len(more) > size:
                raise _misfit(path, f"what follows the first {len(values)} values is not its own")
            values = np.append(values, more)
        yield ValueJournal(journal, work, values)


def _misfit(path: Path, why: str) -> PipelineError:
    return PipelineError(f"{path} is no journal of this run ({why}); start the run anew")
