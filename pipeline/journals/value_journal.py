"""A journal of the values that some work has computed so far, in the order of their numbers.

In a search the values are the losses of the trials. Nothing else needs to be stored: a trial's
number decides its weights, and the losses decide which trials were the best or were accepted. In a
gradient check the values are the difference quotients of the coordinates.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.inputs.errors import PipelineError
from pipeline.journals.journal import Journal


class ValueJournal:
    """The values of some work that are known so far. Open it with `value_journal`."""

    def __init__(self, journal: Journal, work: str, values: NDArray[np.float64]) -> None:
        self._journal = journal
        self._work = work
        self.values = values
        """The values from number 0 on."""
        self.before = len(values)
        """How many values the journal had when it was opened."""

    @property
    def done(self) -> int:
        """How many values the journal has now."""
        return len(self.values)

    def add(self, values: ArrayLike) -> None:
        """Add the next values. They are stored once this returns.

        Raises OSError if they cannot be written.
        """
        after = np.append(self.values, values)
        numbers = np.arange(self.done, len(after))
        self._journal.append(work=self._work, numbers=numbers, values=after[self.done :])
        self.values = after


@contextmanager
def value_journal(path: Path, work: str, size: int) -> Iterator[ValueJournal]:
    """Open or create the journal at `path`, for work that has `size` values in total.

    `work` identifies the work: it contains everything that decides the values.

    Raises PipelineError if the journal is damaged or belongs to other work.
    """
    with Journal(path) as journal:
        values = np.empty(0)
        for entry in journal:
            numbers, more = entry.get("numbers"), entry.get("values")
            if numbers is None or more is None or str(entry.get("work")) != work:
                raise _misfit(path, "it belongs to another run")
            following = np.arange(len(values), len(values) + len(more))
            if not np.array_equal(numbers, following) or len(values) + len(more) > size:
                raise _misfit(path, f"the entry after the first {len(values)} values does not fit")
            values = np.append(values, more)
        yield ValueJournal(journal, work, values)


def _misfit(path: Path, why: str) -> PipelineError:
    return PipelineError(f"{path} is not a journal of this run ({why}); start a new run")
