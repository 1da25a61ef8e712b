"""A run that is under way, and its record until it finishes, fails or is interrupted."""

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flows.runs.directory import RunDirectory
from flows.runs.environment import timestamp
from flows.runs.record import FinishedRecord, P, R, RunRecord, write_record
from flows.services.interruption import delay_interruptions, interruptions_in
from storage.dataset import Dataset

if TYPE_CHECKING:
    from flows.runs.lifecycle import Plan

I = TypeVar("I")  # noqa: E741


@dataclass(frozen=True)
class ActiveRun(Generic[P, R, I]):
    """A run that is under way in this process."""

    plan: "Plan[P, R, I]"
    directory: RunDirectory
    record: RunRecord[P]
    """Its record as it started."""
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
        """The data that it runs on."""
        return self.plan.dataset

    @property
    def title(self) -> str:
        """The run and its data, to begin the description of an artifact."""
        return f"Run {self.id} on {self.dataset.name} ({self.dataset.fingerprint[:12]})"

    def finish(
        self, result: R, timings: Mapping[str, float], status: str = "done"
    ) -> FinishedRecord[P, R]:
        """Write the record of the finished run, and return it.

        `timings` are seconds by part; the run's `seconds` are added.
        """
        started = {each.name: getattr(self.record, each.name) for each in fields(self.record)}
        record = FinishedRecord(
            **started | {"status": status, "finished": timestamp()},
            timings={**timings, "seconds": time.perf_counter() - self.clock},
            result=result,
        )
        write_record(self.directory, record)
        return record


@contextmanager
def early_end_recorded(run: ActiveRun[Any, Any, Any]) -> Iterator[None]:
    """Have the record say that the run was interrupted, or why it failed."""

    def end(status: str, error: str | None = None) -> None:
        if run.directory.read_document()["status"] == run.record.status:  # else it has finished
            record = replace(run.record, status=status, error=error, finished=timestamp())
            write_record(run.directory, record)

    try:
        yield
    except BaseException as error:
        interruption = next(interruptions_in(error), None)
        if interruption is not None:
            command = ["hinge", *run.record.command.split(), "--store", run.plan.store]
            typed = shlex.join([*command, "--resume", str(run.directory.path)])
            interruption.add_note(f"`{typed}` resumes it")
            with delay_interruptions():  # an impatient user may press Control-C twice
                end("interrupted")
            raise interruption from None
        if isinstance(error, Exception):
            with suppress(OSError):  # a full disk, say; the first error is the one to report
                end("failed", str(error))
        raise
