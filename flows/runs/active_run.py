"""A run in progress, and its record until it finishes, fails or is interrupted."""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flows.runs.directory import RunDirectory
from flows.runs.environment import timestamp
from flows.runs.record import FinishedRecord, P, R, RunRecord, write_record
from flows.runs.report import RunReport
from flows.services.interruption import interruption_in
from pipeline.inputs.stopping import Interrupted
from storage.dataset import Dataset

if TYPE_CHECKING:
    from flows.runs.lifecycle import Plan

I = TypeVar("I")  # noqa: E741


@dataclass(frozen=True)
class ActiveRun(Generic[P, R, I]):
    """A run in progress in this process."""

    plan: "Plan[P, R, I]"
    directory: RunDirectory
    record: RunRecord[P]
    """The record as it was when the run started."""
    report: RunReport
    clock: float = field(default_factory=time.perf_counter)

    @property
    def id(self) -> str:
        """The run's name."""
        return self.directory.id

    @property
    def parameters(self) -> P:
        """The run's parameters."""
        return self.plan.parameters

    @property
    def dataset(self) -> Dataset:
        """The run's data set."""
        return self.plan.dataset

    def describe(self, what: str) -> str:
        """Return the description of an artifact, which begins with what it shows.

        Prefect's lists of artifacts show only the first words.
        """
        return f"{what}; run {self.id} on {self.dataset.name} ({self.dataset.fingerprint[:12]})"

    @property
    def series(self) -> str:
        """The experiment and the data. The keys of the run's artifacts begin with it."""
        return self.plan.series

    def draw(self, name: str, draw: Callable[[Path], None]) -> Path:
        """Draw the picture `name` (PNG) on a worker, with `draw` (see `flows.services.drawing`).

        Returns the path at which the picture is when the run has finished.
        """
        path = self.directory.path / name
        self.report.draw(path, draw)
        return path

    def finish(
        self, result: R, timings: Mapping[str, float], status: str = "done"
    ) -> FinishedRecord[P, R]:
        """Wait for the pictures, write the record of the finished run, and return it.

        `timings` maps each part of the run to its seconds. The total, `seconds`, is added.
        """
        self.report.wait_for_pictures()
        started = {each.name: getattr(self.record, each.name) for each in fields(self.record)}
        record = FinishedRecord(
            **started | {"status": status, "finished": timestamp()},
            timings={**timings, "seconds": time.perf_counter() - self.clock},
            result=result,
        )
        write_record(self.directory, record)
        self.report.finished(record)
        return record


def how_to_resume(run: ActiveRun[Any, Any, Any]) -> str:
    """Return the command that resumes the run, in words."""
    command = ["hinge", *run.record.command.split(), "--store", run.plan.store]
    typed = shlex.join([*command, "--resume", str(run.directory.path)])
    return f"`{typed}` resumes it"


@contextmanager
def early_end_recorded(run: ActiveRun[Any, Any, Any]) -> Iterator[None]:
    """Update the record if the block is interrupted or fails."""

    def end(status: str, error: str | None = None) -> None:
        if run.directory.read_document()["status"] == run.record.status:  # it has not finished
            record = replace(run.record, status=status, error=error, finished=timestamp())
            write_record(run.directory, record)

    try:
        yield
    except BaseException as error:
        if interruption_in(error):
            end("interrupted")
            raise Interrupted(how_to_resume(run)) from None
        if isinstance(error, Exception):
            with suppress(OSError):  # for example a full disk; the first error is reported
                end("failed", str(error))
        raise
