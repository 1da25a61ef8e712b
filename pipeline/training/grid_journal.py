"""The journal of a grid: the outcome of each trial, stored as soon as the trial ends."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.inputs.errors import PipelineError
from pipeline.journals.journal import Entry, Journal
from pipeline.training.descent import Status
from pipeline.training.grid import Trial, TrialOutcome


class GridJournal:
    """The outcomes of the trials that have ended. Open it with `grid_journal`."""

    def __init__(
        self, journal: Journal, trials: Sequence[Trial], outcomes: dict[int, TrialOutcome]
    ) -> None:
        self._journal = journal
        self._trials = trials
        self.outcomes = outcomes
        """The outcomes by trial number."""

    @property
    def remaining(self) -> list[int]:
        """The numbers of the trials that have not ended."""
        return [number for number in range(len(self._trials)) if number not in self.outcomes]

    def add(self, outcome: TrialOutcome) -> None:
        """Add the outcome of a trial. It is on disk once this returns."""
        trial = self._trials[outcome.number].identity
        self._journal.append(trial=trial, **outcome._asdict())
        self.outcomes[outcome.number] = outcome


@contextmanager
def grid_journal(path: Path, trials: Sequence[Trial]) -> Iterator[GridJournal]:
    """Open or create the journal at `path`, for a grid with these trials.

    Raises PipelineError if the journal is damaged or belongs to another grid.
    """
    with Journal(path) as journal:
        identities = {number: trial.identity for number, trial in enumerate(trials)}
        outcomes = [_outcome(entry, identities, path) for entry in journal]
        yield GridJournal(journal, trials, {outcome.number: outcome for outcome in outcomes})


def _outcome(entry: Entry, identities: Mapping[int, str], path: Path) -> TrialOutcome:
    """Return the outcome in an entry.

    Raises PipelineError if it is not the outcome of one of these trials.
    """
    trial = str(entry.pop("trial", None))
    values: dict[str, Any] = {
        name: value if value.ndim else value.item() for name, value in entry.items()
    }
    fits = values.keys() == set(TrialOutcome._fields)
    if not fits or trial != identities.get(values["number"]):
        raise PipelineError(
            f"{path} is not a journal of this run (it contains another grid's trials); start a new "
            "run"
        )
    return TrialOutcome(**values | {"status": Status(values["status"])})
