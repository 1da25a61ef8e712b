"""The trials of a search and their journal.

Trials are evaluated in order, and the loss of a trial is written to the run's journal before it is
printed. The rest of the result follows from the losses. A search that is interrupted at any point
therefore resumes after the last loss in its journal, and ends with the same result.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.runs.active_run import ActiveRun
from flows.runs.directory import RunDirectory
from flows.runs.lifecycle import RunRequest
from flows.runs.report import RunReport
from flows.services.console import to_json
from flows.services.progress import Advance
from flows.services.session import Session
from flows.services.tasks import task
from pipeline.journals.value_journal import ValueJournal, value_journal
from pipeline.search.local_search import LocalSearch
from pipeline.search.random_search import RandomSearch, improvements
from storage.dataset import Dataset

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SearchInputs:
    """The inputs of a search in addition to its parameters."""

    journal_identity: str
    """A text with everything that determines the losses.

    A journal with another identity is rejected.
    """
    task_size: int
    """The number of trials per Prefect task; for a random search, the block size."""


def prepare_search(
    command: str, request: RunRequest[RandomSearch] | RunRequest[LocalSearch], task_size: int
) -> SearchInputs:
    """Return the inputs of a search.

    Raises PipelineError if the journal of the run to resume is damaged or of another search.
    """
    decisive = {
        "command": command,
        "parameters": asdict(request.parameters),
        "fingerprint": request.dataset.fingerprint,
    }
    identity, directory = to_json(decisive), request.directory
    if directory and directory.journal.exists():
        with _open_journal(directory, identity, request.parameters.trials):
            pass
    return SearchInputs(identity, task_size)


def open_journal(run: ActiveRun[Any, Any, SearchInputs]) -> AbstractContextManager[ValueJournal]:
    """Open the journal of the run's losses, or create it."""
    return _open_journal(run.directory, run.plan.inputs.journal_identity, run.parameters.trials)


def _open_journal(
    directory: RunDirectory, identity: str, trials: int
) -> AbstractContextManager[ValueJournal]:
    return value_journal(directory.journal, identity, trials)


@task("load")
def load_training_images(session: Session, dataset: Dataset) -> None:
    """Load the training images into the workers."""
    session.placed(dataset).shards("train")


def take_trials(
    run: ActiveRun[Any, Any, SearchInputs],
    journal: ValueJournal,
    losses: Iterator[Floats],
    *,
    show_accepted: bool,
) -> None:
    """Run the trials that are not in the journal; `losses` yields their losses in order."""
    trials, size = run.parameters.trials, run.plan.inputs.task_size
    if journal.before:
        run.report.note(
            f"{journal.before:,} of {trials:,} trials had finished before the run was resumed"
        )
    with run.report.progress(run.record.command, trials, journal.done) as advance:
        report = _TrialLines(run.report, advance, show_accepted)
        for first in range(journal.done, trials, size):
            record_losses(journal, losses, report, first, min(first + size, trials) - 1)


@dataclass(frozen=True)
class _TrialLines:
    """The console output for the finished trials of a search."""

    report: RunReport
    advance: Advance
    show_accepted: bool

    def print_trials(self, losses: Floats, first: int) -> None:
        """Print the trials from `first` on, given the losses of all finished trials."""
        lines = trial_lines(losses, first, show_accepted=self.show_accepted)
        self.report.print("\n".join(lines))
        best = float(losses.min())
        self.advance(len(losses), f"best {best:f}", best)


@task("trials", run_name="trials {first} to {last}")
def record_losses(
    journal: ValueJournal, losses: Iterator[Floats], report: _TrialLines, first: int, last: int
) -> None:
    """Wait for the losses of trials `first` to `last`. Add them to the journal, then print them."""
    while first <= last:
        journal.add(next(losses))
        report.print_trials(journal.values, first)
        first = journal.done


def trial_lines(losses: Floats, first: int, *, show_accepted: bool) -> Iterator[str]:
    """Yield one line per trial, from number `first` on, in the format of the notes.

    Examples:
        >>> losses = np.array([9.5, 9.401632, 9.75])
        >>> print(*trial_lines(losses, 1, show_accepted=True), sep="\\n")
        in attempt 1 the loss was 9.401632, best 9.401632, accepted
        in attempt 2 the loss was 9.750000, best 9.401632
    """
    best, accepted = np.minimum.accumulate(losses), improvements(losses)
    for trial in range(first, len(losses)):
        end = ", accepted" if show_accepted and accepted[trial] else ""
        yield f"in attempt {trial} the loss was {losses[trial]:f}, best {best[trial]:f}{end}"
