"""What has come of a grid's trials so far, in a journal: each is kept as soon as it has ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.descent import Status
from pipeline.errors import PipelineError
from pipeline.grid import Outcome, TrainingGrid
from pipeline.journal import Entry, Journal


class GridJournal:
    """The outcomes of the trials of a grid that have ended; see `grid_journal`."""

    def __init__(self, journal: Journal, grid: TrainingGrid, outcomes: dict[int, Outcome]) -> None:
        self._journal = journal
        self._trials = grid.trials()
        self.outcomes = outcomes
        """By the trials' numbers."""

    @property
    def left(self) -> list[int]:
        """The numbers of the trials that have not ended."""
        return [number for number in range(len(self._trials)) if number not in self.outcomes]

    def add(self, outcome: Outcome) -> None:
        """Add what came of a trial; it is kept once this returns."""
        trial = repr(self._trials[outcome.number])
        self._journal.append(trial=trial, **outcome._asdict())
        self.outcomes[outcome.number] = outcome


@contextmanager
def grid_journal(path: Path, grid: TrainingGrid) -> Iterator[GridJournal]:
    """Open the journal of a grid at `path`, or begin it.

    Raises PipelineError if it is damaged, or of another grid.
    """
    trials = {number: repr(trial) for number, trial in enumerate(grid.trials())}
    with Journal(path) as journal:
        outcomes: dict[int, Outcome] = {}
        for entry in journal:
            trial = str(entry.pop("trial", None))
            if entry.keys() != set(Outcome._fields) or trial != trials.get(int(entry["number"])):
                raise PipelineError(
                    f"{path} is no journal of this run (it holds another grid's trials); "
                    "start the run anew"
                )
            outcome = _outcome(entry)
            outcomes[outcome.number] = outcome
        yield GridJournal(journal, grid, outcomes)


def _outcome(entry: Entry) -> Outcome:
    """Return the outcome that an entry holds."""
    fields: dict[str, Any] = {
        name: value if value.ndim else value.item() for name, value in entry.items()
    }
    return Outcome(**fields | {"status": Status(fields["status"])})
