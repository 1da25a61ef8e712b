"""The trials of a search: their journal, and taking those that are not in it.

Trials are taken in order, and a trial's loss is in the run's journal before it is printed. All
else follows from the losses. So a search that is interrupted, at any point, resumes after the
last loss in its journal and ends in the same result.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.runs.active_run import ActiveRun
from flows.runs.directory import RunDirectory
from flows.runs.lifecycle import RunRequest
from flows.services.console import Advance, Console, to_json
from flows.services.session import Session
from pipeline.journals.value_journal import ValueJournal, value_journal
from pipeline.search.local_search import LocalSearch
from pipeline.search.random_search import RandomSearch, improvements
from storage.dataset import Dataset

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SearchInputs:
    """What a search needs beside its parameters."""

    journal_identity: str
    """Everything that decides the losses. A journal of another identity is refused."""
    task_size: int
    """How many trials are one Prefect task; of a random search, its block."""


def prepare_search(
    command: str, request: RunRequest[RandomSearch] | RunRequest[LocalSearch], task_size: int
) -> SearchInputs:
    """Return the inputs of a search.

    Raises PipelineError if the run to resume has a damaged journal, or one of other work.
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
    """Open the journal of the run's losses, or start it."""
    return _open_journal(run.directory, run.plan.inputs.journal_identity, run.parameters.trials)


def _open_journal(
    directory: RunDirectory, identity: str, trials: int
) -> AbstractContextManager[ValueJournal]:
    return value_journal(directory.journal, identity, trials)


@task(name="load", cache_policy=NO_CACHE)
def load_training_images(session: Session, dataset: Dataset) -> None:
    """Have the workers load the training images."""
    session.placed(dataset).shards("train")


def take_trials(
    session: Session,
    run: ActiveRun[Any, Any, SearchInputs],
    journal: ValueJournal,
    losses: Iterator[Floats],
    *,
    show_accepted: bool,
) -> None:
    """Take the trials that are not in the journal: `losses` yields theirs, in order."""
    trials, size = run.parameters.trials, run.plan.inputs.task_size
    if journal.before:
        session.console.note(f"{journal.before:,} of {trials:,} trials were taken before")
    with session.console.progress(run.record.command, trials) as advance:
        report = _Report(session.console, advance, show_accepted)
        for first in range(journal.done, trials, size):
            record_losses(journal, losses, report, first, min(first + size, trials) - 1)


@dataclass(frozen=True)
class _Report:
    """Prints the trials of a search while it is under way."""

    console: Console
    advance: Advance
    show_accepted: bool

    def print_trials(self, losses: Floats, first: int) -> None:
        """Print the trials from number `first` on, given the losses of all so far."""
        lines = trial_lines(losses, first, show_accepted=self.show_accepted)
        self.console.note("\n".join(lines))
        self.advance(len(losses), f"best {losses.min():f}")


@task(name="trials", task_run_name="trials {first} to {last}", cache_policy=NO_CACHE)
def record_losses(
    journal: ValueJournal, losses: Iterator[Floats], report: _Report, first: int, last: int
) -> None:
    """Wait for the losses of the trials from `first` to `last`; keep them, then print them."""
    while first <= last:
        journal.add(next(losses))
        report.print_trials(journal.values, first)
        first = journal.done


def trial_lines(losses: Floats, first: int, *, show_accepted: bool) -> Iterator[str]:
    """Yield the line that the notes print for each trial from number `first` on.

    >>> losses = np.array([9.5, 9.401632, 9.75])
    >>> print(*trial_lines(losses, 1, show_accepted=True), sep="\\n")
    in attempt 1 the loss was 9.401632, best 9.401632, accepted
    in attempt 2 the loss was 9.750000, best 9.401632
    """
    best, accepted = np.minimum.accumulate(losses), improvements(losses)
    for trial in range(first, len(losses)):
        end = ", accepted" if show_accepted and accepted[trial] else ""
        yield f"in attempt {trial} the loss was {losses[trial]:f}, best {best[trial]:f}{end}"
