"""The life of a recorded run, the same for every command: planned, begun, ended, gone on with.

A command says what its runs are called and what decides them, once:

    SEARCH = Kind("search random", SearchParameters)

and its flow is then

    plan = SEARCH.plan(store, runs, parameters, resume)     # all is checked, nothing is started
    if plan.finished:
        return plan.finished
    with flow_session() as session, plan.begun(session) as under_way:
        ...                                                 # the record says "running"
        return under_way.ended("done", results, timings)

A run that is interrupted or fails says so in its record and, to whoever interrupted it, how to
go on. To go on is to take the same parameters in the same directory, from a checkpoint where the
command keeps one. Of a process that is killed the record goes on saying "running"; that a run is
under way is said by a lock, which nobody holds then.
"""

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from prefect import runtime

from flows.interruption import interruptions_in, striking_later
from flows.parameters import read_parameters
from flows.record import Run, check_runs, circumstances, now
from flows.session import Session
from pipeline.errors import PipelineError
from pipeline.placement import workers_of
from storage.dataset import Dataset, open_dataset
from storage.errors import DataError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = TypeVar("P", bound="DataclassInstance")


@dataclass(frozen=True)
class Kind(Generic[P]):
    """What the runs of one command have in common."""

    command: str
    """As it is typed after `hinge`."""
    parameters: type[P]
    """A dataclass of all that decides a run's results, of types that JSON can hold."""
    ends: tuple[str, ...] = ("done",)
    """The statuses of a run that has nothing left to do."""

    def plan(self, store: str, runs: Path, parameters: P, resume: str | None = None) -> "Plan[P]":
        """Plan a run on the store at `store`, or to go on with the run `resume` of `runs`.

        That one keeps its own parameters. Raises DataError if there is no store, and
        PipelineError if runs cannot be kept in `runs`, or there is no such run of this command
        on the same data, or it is under way.
        """
        if resume is not None:
            return self._resumed(store, runs, resume)
        dataset = open_dataset(store)
        check_runs(runs)
        return Plan(self, store, dataset, parameters, runs)

    def _resumed(self, store: str, runs: Path, name: str) -> "Plan[P]":
        dataset, run = open_dataset(store), Run.find(runs, name)
        record = run.record
        try:
            command, fingerprint = record["command"], record["data"]["fingerprint"]
            record["status"], record["started"]
        except (KeyError, TypeError) as error:
            raise run.unreadable(f"no run can be gone on with from it ({error!r})") from error
        if command != self.command:
            raise PipelineError(f"run {run.id} is no run of `hinge {self.command}`, but {command}")
        if fingerprint != dataset.fingerprint:
            raise PipelineError(
                f"run {run.id} was on other data than {store} holds (fingerprint "
                f"{str(fingerprint)[:12]}, not {dataset.fingerprint[:12]}); "
                "name the store it was started on"
            )
        plan = Plan(self, store, dataset, read_parameters(run, self.parameters), runs, run, record)
        if not plan.finished:
            with run.held():  # refused before anything is started
                pass
        return plan


@dataclass(frozen=True)
class Plan(Generic[P]):
    """A run that can be taken: checked, and nothing started or written yet."""

    kind: Kind[P]
    store: str
    """As the user named it."""
    dataset: Dataset
    parameters: P
    runs: Path
    run: Run | None = None
    """The run to go on with; None for a new one."""
    record: dict[str, Any] | None = None
    """What its record says."""

    @property
    def finished(self) -> dict[str, Any] | None:
        """The record of a run that has nothing left to do."""
        return self.record if self.record and self.record["status"] in self.kind.ends else None

    @property
    def place(self) -> Path:
        """Where the run is kept, beside others."""
        return self.run.path.parent if self.run else self.runs

    def path_of(self, record: Mapping[str, Any]) -> Path:
        """Return the directory of the run that was planned here, given its record."""
        return self.run.path if self.run else self.runs / str(record["run"])

    @contextmanager
    def begun(
        self, session: Session, cluster: Mapping[str, Any] | None = None
    ) -> Iterator["Begun"]:
        """Hold the run in the block, its record written; `cluster` is added to what that says.

        Raises PipelineError if another process holds the run, or has gone on with it meanwhile.
        """
        run = self.run or Run.create(self.runs, self.kind.command)
        with run.held():
            if self.run and run.record != self.record:
                raise PipelineError(f"run {run.id} was gone on with meanwhile; ask for it again")
            begun = Begun(run, self._first_record(run, session, cluster or {}))
            run.write_record(begun.record)
            with _early_end_recorded(begun, self.store):
                yield begun

    def _first_record(
        self, run: Run, session: Session, cluster: Mapping[str, Any]
    ) -> dict[str, Any]:
        workers, parameters = workers_of(session.client), asdict(self.parameters)
        return {
            "run": run.id,
            "command": self.kind.command,
            "status": "running",
            "parameters": parameters,
            "seed": getattr(self.parameters, "seed", None),
            "data": self.dataset.describe(),
            "cluster": {
                "workers": len(workers),
                "threads": sum(worker.threads for worker in workers),
                **cluster,
            },
            "started": self.record["started"] if self.record else now(),
            **circumstances(),
        }


@dataclass(frozen=True)
class Begun:
    """A run that is under way."""

    run: Run
    record: dict[str, Any]
    """What its record said as it began."""
    clock: float = field(default_factory=time.perf_counter)

    def ended(
        self, status: str, results: dict[str, Any], timings: dict[str, float]
    ) -> dict[str, Any]:
        """Write the record of the run, which has come to its end, and return it."""
        seconds = {"seconds": time.perf_counter() - self.clock}
        record = self.record | {"status": status} | results
        record |= {"timings": timings | seconds, "finished": now()}
        self.run.write_record(record)
        return record


@contextmanager
def _early_end_recorded(begun: Begun, store: str) -> Iterator[None]:
    """Have the record say that the run was interrupted, or why it failed."""
    run, record = begun.run, begun.record

    def end(**words: str) -> None:
        if run.record["status"] == record["status"]:  # else it has come to its end, results and all
            run.write_record(record | words | {"finished": now()})

    try:
        yield
    except BaseException as error:
        interruption = next(interruptions_in(error), None)
        if interruption is not None:
            command = ["hinge", *record["command"].split()]
            typed = shlex.join([*command, "--store", store, "--resume", str(run.path)])
            interruption.add_note(f"`{typed}` goes on")
            with striking_later():  # who is in a hurry types it twice
                end(status="interrupted")
            raise interruption from None
        if isinstance(error, Exception):
            with suppress(OSError):  # of a full disk, say: then that is the error to tell of
                end(status="failed", error=str(error))
        raise


def flow_run_name(what: str) -> str:
    """Name the flow run under way by what it does and its data, or by the run it goes on with."""
    given = runtime.flow_run.parameters
    if given["resume"] is not None:
        return f"{Path(given['resume']).name}, resumed"
    return f"{what} on {data_name(given['store'])}"


def data_name(store: str) -> str:
    """Return the name of the data in a store, to name a flow run by; or the store's own."""
    try:
        return open_dataset(store).name
    except DataError:
        return store
