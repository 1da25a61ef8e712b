"""The life of a recorded run, the same for every experiment: planned, started, finished, resumed.

An experiment describes its runs once:

    SWEEP = RunKind("sweep", parameters=Sweep, result=SweepResult, prepare=weights_of)

Its flow names its parameters and hands its body to `run`:

    @flow(name="sweep")
    def sweep_flow(store, parameters=Sweep(), resume="", runs="runs", workers=0, scheduler=""):
        return SWEEP.run(_sweep, store, parameters, resume, runs, workers, scheduler)

    def _sweep(session, run):                # W is what `prepare` returned
        W = run.plan.inputs
        ...
        return run.finish(SweepResult(...), timings)

`plan` checks everything before anything is started or written. A command plans first and hands
the plan to its flow (`flows.command_line.plan_runner`), so a run is planned once.

A run that is interrupted or fails says so in its record, and tells whoever interrupted it how to
resume. The record of a process that was killed still says "running". Whether a run really is under
way is known from its lock, which a dead process cannot hold.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from flows.runs.active_run import ActiveRun, I, early_end_recorded
from flows.runs.directory import RunDirectory, check_runs
from flows.runs.environment import package_versions, this_machine, timestamp
from flows.runs.header import check_data
from flows.runs.old_records import upgrade
from flows.runs.record import (
    ClusterSummary,
    FinishedRecord,
    P,
    R,
    RecordHeader,
    RunRecord,
    read_as,
    read_parameters,
    write_record,
)
from flows.services.session import Session, flow_session
from pipeline.cluster.placement import workers_of
from pipeline.inputs.errors import PipelineError
from storage.dataset import Dataset, open_dataset


@dataclass(frozen=True)
class RunRequest(Generic[P]):
    """A run that somebody asks for: a new one, or one to resume."""

    store: str
    """As the user named it."""
    dataset: Dataset
    parameters: P
    """A resumed run keeps its own."""
    runs: Path
    directory: RunDirectory | None = None
    """The run to resume; None for a new one."""
    earlier: RunRecord[P] | None = None
    """Its record so far."""

    @property
    def siblings(self) -> Path:
        """The directory that holds the run, beside others."""
        return self.directory.path.parent if self.directory else self.runs


@dataclass(frozen=True)
class RunKind(Generic[P, R, I]):
    """What the runs of one experiment have in common."""

    command: str
    """As it is typed after `hinge`."""
    parameters: type[P]
    """The class of everything that decides a result: a dataclass, or a union of some."""
    result: type[R]
    """The class of a result."""
    prepare: Callable[..., I]
    """Check a request, and return what its run needs beside the parameters: the run's inputs.

    Called as `prepare(request, **options)`, with the flow's own options. Raises DataError or
    PipelineError for a run that cannot be done. Starts and writes nothing."""
    statuses: tuple[str, ...] = ("done",)
    """The statuses of a finished run."""
    describe_cluster: Callable[["Plan[P, R, I]", Session], dict[str, Any]] = lambda *_: {}
    """Return what the record's `cluster` says beside workers and threads."""

    def plan(
        self,
        store: str,
        runs: Path,
        parameters: P,
        resume: str | None = None,
        **options: Any,
    ) -> "Plan[P, R, I]":
        """Plan a run on the store at `store`, or plan to resume the run `resume` of `runs`.

        Raises DataError if there is no store. Raises PipelineError if runs cannot be kept in
        `runs`, if there is no such run of this command on the same data, if it is under way, and
        for what `prepare` refuses.
        """
        dataset = open_dataset(store)
        if resume is not None:
            return self._plan_to_resume(store, dataset, runs, resume, options)
        check_runs(runs)
        return self._prepared(RunRequest(store, dataset, parameters, runs), options)

    def _plan_to_resume(
        self, store: str, dataset: Dataset, runs: Path, name: str, options: Mapping[str, Any]
    ) -> "Plan[P, R, I]":
        directory = RunDirectory.find(runs, name)
        record = self.read(directory)
        check_data(record, directory, dataset, f"{store} holds", "it was started on")
        request = RunRequest(store, dataset, record.parameters, runs, directory, record)
        if isinstance(record, FinishedRecord):
            return Plan(self, request, options, finished=record)
        with directory.locked():  # refused before anything is started
            pass
        return self._prepared(request, options)

    def _prepared(self, request: RunRequest[P], options: Mapping[str, Any]) -> "Plan[P, R, I]":
        return Plan(self, request, options, self.prepare(request, **options))

    def read(self, directory: RunDirectory) -> RunRecord[P] | FinishedRecord[P, R]:
        """Read the record of a run of this kind; records of earlier versions too.

        Raises PipelineError if it cannot be read, or is of another command.
        """
        document = upgrade(directory.read_document())
        header = read_as(RecordHeader, document, directory, "")
        if header.command != self.command:
            raise PipelineError(
                f"run {directory.id} is not a run of `hinge {self.command}` but of "
                f"`hinge {header.command}`"
            )
        parameters = read_parameters(directory, document, self.parameters)
        if header.status not in self.statuses:
            return RunRecord(**vars(header), parameters=parameters)
        timings = read_as(dict[str, float], document.get("timings"), directory, "its timings ")
        result = read_as(self.result, document, directory, "its result cannot be used ")
        return FinishedRecord(**vars(header), parameters=parameters, timings=timings, result=result)

    def run(
        self,
        body: "Callable[[Session, ActiveRun[P, R, I]], FinishedRecord[P, R]]",
        store: str,
        parameters: P,
        resume: str = "",
        runs: str = "runs",
        workers: int = 0,
        scheduler: str = "",
        **options: Any,
    ) -> FinishedRecord[P, R]:
        """Run `body` from plan to record, and return the record; the whole of a flow.

        An empty `resume` starts a new run; 0 `workers` means one per core; an empty `scheduler`
        starts workers on this machine. A finished run is not run again.

        Raises what `plan` and `body` raise.
        """
        plan = _take_handed_over(self, store, parameters, resume, runs, options)
        plan = plan or self.plan(store, Path(runs), parameters, resume or None, **options)
        if plan.finished:
            return plan.finished
        with (
            flow_session(workers=workers or None, scheduler=scheduler or None) as session,
            plan.start(session) as run,
        ):
            return body(session, run)


@dataclass(frozen=True)
class Plan(Generic[P, R, I]):
    """A run that can be done: everything is checked, nothing is started or written."""

    kind: RunKind[P, R, I]
    request: RunRequest[P]
    options: Mapping[str, Any]
    """The flow's own options, which do not decide the result."""
    _inputs: I | None = None
    finished: FinishedRecord[P, R] | None = None
    """The record of a run that has nothing left to do."""

    @property
    def inputs(self) -> I:
        """What `RunKind.prepare` returned."""
        assert not self.finished
        return self._inputs  # type: ignore[return-value]

    @property
    def store(self) -> str:
        """The store, as the user named it."""
        return self.request.store

    @property
    def dataset(self) -> Dataset:
        """The store, opened."""
        return self.request.dataset

    @property
    def parameters(self) -> P:
        """The run's parameters."""
        return self.request.parameters

    def path_of(self, record: RunRecord[P]) -> Path:
        """Return the directory of the run that was planned here, given its record."""
        directory = self.request.directory
        return directory.path if directory else self.request.runs / record.run

    @contextmanager
    def start(self, session: Session) -> Iterator["ActiveRun[P, R, I]"]:
        """Hold the run's lock in the block, and keep its record up to date.

        Raises PipelineError if another process holds the run, or has changed it meanwhile.
        """
        request = self.request
        directory = request.directory or RunDirectory.create(request.runs, self.kind.command)
        with directory.locked():
            if request.directory and self.kind.read(directory) != request.earlier:
                raise PipelineError(
                    f"run {directory.id} was resumed by another process meanwhile; try again"
                )
            run = ActiveRun(self, directory, self._first_record(directory, session))
            write_record(directory, run.record)
            with early_end_recorded(run):
                yield run

    def _first_record(self, directory: RunDirectory, session: Session) -> RunRecord[P]:
        workers, earlier = workers_of(session.client), self.request.earlier
        cluster = ClusterSummary(
            workers=len(workers),
            threads=sum(worker.threads for worker in workers),
            **self.kind.describe_cluster(self, session),
        )
        return RunRecord(
            run=directory.id,
            command=self.kind.command,
            status="running",
            seed=getattr(self.parameters, "seed", None),
            data=self.dataset.summary(),
            cluster=cluster,
            started=earlier.started if earlier else timestamp(),
            versions=package_versions(),
            machine=this_machine(),
            parameters=self.parameters,
        )


_handed_over: ContextVar["Plan[Any, Any, Any] | None"] = ContextVar("plan", default=None)


@contextmanager
def handed_over(plan: Plan[Any, Any, Any]) -> Iterator[None]:
    """Let the flow that is called in the block use this plan instead of planning again."""
    token = _handed_over.set(plan)
    try:
        yield
    finally:
        _handed_over.reset(token)


def _take_handed_over(
    kind: RunKind[P, R, I],
    store: str,
    parameters: P,
    resume: str,
    runs: str,
    options: Mapping[str, Any],
) -> Plan[P, R, I] | None:
    """Return the plan that was handed over for this run, once."""
    plan = _handed_over.get()
    if plan is None or plan.kind is not kind:
        return None
    _handed_over.set(None)  # not for a flow within the flow
    directory = plan.request.directory
    asked = store, parameters, resume, runs, options
    planned = (
        plan.store,
        plan.parameters,
        str(directory.path if directory else ""),
        str(plan.request.runs),
        plan.options,
    )
    return plan if planned == asked else None
