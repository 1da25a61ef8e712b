"""The life cycle of a recorded run: plan, start, finish, resume.

It is the same for every experiment.

An experiment describes its runs once:

    SWEEP = RunKind("sweep", parameters=Sweep, result=SweepResult, prepare=weights_of)

Its flow declares the parameters and passes its body to `run`:

    @flow(name="sweep")
    def sweep_flow(store, parameters=Sweep(), resume="", runs="runs", workers=0, scheduler=""):
        return SWEEP.run(_sweep, store, parameters, resume, runs, workers, scheduler)

    def _sweep(session, run):
        W = run.plan.inputs                  # the return value of `prepare`
        ...
        return run.finish(SweepResult(...), timings)

`plan` checks everything before anything is started or written. A command plans first and passes
the plan to its flow (`flows.command_line.plan_runner`), so a run is planned once.

If a run is interrupted or fails, its record states this. An interrupted command prints how to
resume its run. If the process is killed, the status in the record stays "running". Only the run's
lock shows whether the run is really in progress, because the operating system releases it when the
process dies.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from prefect import runtime

from flows.runs.active_run import ActiveRun, I, early_end_recorded, how_to_resume
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
    to_document,
    write_record,
)
from flows.runs.report import RunReport, Subject, current_flow_run
from flows.services.console import to_json
from flows.services.interruption import run_interruptibly
from flows.services.retries import retried_after_faults
from flows.services.session import Session, flow_session
from pipeline.cluster.connect import is_own
from pipeline.cluster.placement import workers_of
from pipeline.cluster.preflight import worker_versions
from pipeline.inputs.errors import PipelineError
from storage.dataset import Dataset, open_dataset


@dataclass(frozen=True)
class RunRequest(Generic[P]):
    """A request for a new run, or to resume one."""

    store: str
    """The path or URL that the user gave."""
    dataset: Dataset
    parameters: P
    """The parameters of the run. A resumed run keeps those of its record."""
    runs: Path
    directory: RunDirectory | None = None
    """The run to resume; None for a new one."""
    earlier: RunRecord[P] | None = None
    """The record of the run to resume."""

    @property
    def siblings(self) -> Path:
        """The directory that contains the run and others."""
        return self.directory.path.parent if self.directory else self.runs


@dataclass(frozen=True)
class RunKind(Generic[P, R, I]):
    """The definition of the runs of one experiment."""

    command: str
    """The command as typed after `hinge`."""
    parameters: type[P]
    """The class of the parameters of a run: a dataclass or a union of dataclasses."""
    result: type[R]
    """The class of a result."""
    prepare: Callable[..., I]
    """Checks a request, and returns what the run needs in addition to the parameters: its inputs.

    Called as `prepare(request, **options)` with the options that only this flow has. Raises
    DataError or PipelineError if the run cannot be started. Starts and writes nothing."""
    statuses: tuple[str, ...] = ("done",)
    """The statuses of a finished run."""
    describe_cluster: Callable[["Plan[P, R, I]", Session], dict[str, Any]] = lambda *_: {}
    """Returns the fields of the record's `cluster` other than workers and threads."""
    uses_all_shards: Callable[[P], bool] = lambda _parameters: True
    """Returns whether a run starts with the training images distributed over all workers."""

    def plan(
        self,
        store: str,
        runs: Path,
        parameters: P,
        resume: str | None = None,
        **options: Any,
    ) -> "Plan[P, R, I]":
        """Plan a new run on the store at `store`, or plan to resume the run `resume` in `runs`.

        Raises DataError if the store does not exist. Raises PipelineError if runs cannot be stored
        in `runs`, or if the run to resume does not exist, is of another command, used other data or
        is in progress. Raises the errors of `prepare`.
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
        check_data(record, directory, dataset, f"{store} contains", "of the run")
        request = RunRequest(store, dataset, record.parameters, runs, directory, record)
        if isinstance(record, FinishedRecord):
            return Plan(self, request, options, finished=record)
        with directory.locked():  # fail now rather than after the cluster has started
            pass
        return self._prepared(request, options)

    def _prepared(self, request: RunRequest[P], options: Mapping[str, Any]) -> "Plan[P, R, I]":
        return Plan(self, request, options, self.prepare(request, **options))

    def read(self, directory: RunDirectory) -> RunRecord[P] | FinishedRecord[P, R]:
        """Read the record of a run of this kind. Records of earlier versions can be read too.

        Raises PipelineError if the record cannot be read, or is of another command.
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
        timings = read_as(
            dict[str, float], document.get("timings"), directory, "its timings cannot be used "
        )
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
        """Plan the run, run `body`, and return the record. This is all that a flow does.

        An empty `resume` starts a new run. With 0 `workers` and an empty `scheduler`, the run uses
        the cluster of the workbench, or else one worker with a thread per core. A finished run is
        not run again; its record is returned.

        If Prefect retries the flow run, on its own or for a user, the flow run resumes the run that
        it started before.

        Raises the errors of `plan` and `body`.
        """
        resume = resume or _started_before(Path(runs), self.command)
        plan = _take_handed_over(self, store, parameters, resume, runs, options)
        plan = plan or self.plan(store, Path(runs), parameters, resume or None, **options)
        if plan.finished:
            return plan.finished

        def work() -> FinishedRecord[P, R]:
            with (
                flow_session(workers=workers or None, scheduler=scheduler or None) as session,
                plan.start(session) as run,
                session.loss_explained(lambda: how_to_resume(run)),
            ):
                return body(session, run)

        with retried_after_faults():
            return run_interruptibly(work)


_VARIANTS = ("gradient", "method", "dims")
"""The parameters that decide what kind of result a run has, so that only like is compared."""


@dataclass(frozen=True)
class Plan(Generic[P, R, I]):
    """A planned run: everything has been checked, and nothing has been started or written."""

    kind: RunKind[P, R, I]
    request: RunRequest[P]
    options: Mapping[str, Any]
    """The options that only this flow has. The result does not depend on them."""
    _inputs: I | None = None
    finished: FinishedRecord[P, R] | None = None
    """The record of the run to resume if it has already finished."""

    @property
    def inputs(self) -> I:
        """The return value of `RunKind.prepare`."""
        assert not self.finished
        return self._inputs  # type: ignore[return-value]

    @property
    def store(self) -> str:
        """The path or URL of the store, as the user gave it."""
        return self.request.store

    @property
    def dataset(self) -> Dataset:
        """The opened store."""
        return self.request.dataset

    @property
    def parameters(self) -> P:
        """The run's parameters."""
        return self.request.parameters

    @property
    def uses_all_shards(self) -> bool:
        """Whether the run starts with the training images distributed over all workers."""
        return self.kind.uses_all_shards(self.parameters)

    def path_of(self, record: RunRecord[P]) -> Path:
        """Return the directory of the planned run, given its record."""
        directory = self.request.directory
        return directory.path if directory else self.request.runs / record.run

    @property
    def series(self) -> str:
        """The experiment and its data, such as `train gd cifar10`."""
        variant = (str(getattr(self.parameters, name, "")) for name in _VARIANTS)
        return " ".join(filter(None, (self.kind.command, *variant, self.dataset.name)))

    @contextmanager
    def start(self, session: Session) -> Iterator["ActiveRun[P, R, I]"]:
        """Start the run: hold its lock in the block, and keep its record up to date.

        Raises PipelineError if the run is in progress in another process, if its record has
        changed since it was planned, or if the workers cannot read the store.
        """
        request = self.request
        session.check_store(self.dataset)
        cluster = self._describe_cluster(session)  # may be interrupted: there is no record yet
        directory = request.directory or RunDirectory.create(request.runs, self.kind.command)
        with directory.locked():
            if request.directory and self.kind.read(directory) != request.earlier:
                raise PipelineError(
                    f"run {directory.id} was resumed by another process in the meantime; try again"
                )
            subject = Subject(
                directory.id,
                self.kind.command,
                self.dataset.name,
                self.parameters.in_words(),
                self.series,
            )
            report = RunReport(subject, session.client, session.console)
            run = ActiveRun(self, directory, self._first_record(directory, cluster), report)
            write_record(directory, run.record)
            with _end_reported(run), early_end_recorded(run):
                parameters = json.loads(to_json(to_document(run.record)["parameters"]))
                data = self.dataset.summary().in_words()
                run.report.started(directory.path, data, parameters)
                yield run

    def _describe_cluster(self, session: Session) -> ClusterSummary:
        workers = workers_of(session.client)
        return ClusterSummary(
            workers=len(workers),
            threads=sum(worker.threads for worker in workers),
            versions=None if is_own(session.client) else worker_versions(session.client),
            **self.kind.describe_cluster(self, session),
        )

    def _first_record(self, directory: RunDirectory, cluster: ClusterSummary) -> RunRecord[P]:
        earlier = self.request.earlier
        return RunRecord(
            run=directory.id,
            command=self.kind.command,
            status="running",
            seed=getattr(self.parameters, "seed", None),
            data=self.dataset.summary(),
            cluster=cluster,
            flow_run=current_flow_run(),
            started=earlier.started if earlier else timestamp(),
            versions=package_versions(),
            machine=this_machine(),
            parameters=self.parameters,
        )


def _started_before(runs: Path, command: str) -> str:
    """Return the directory of the run that an earlier attempt of this flow run started, if any."""
    flow_run = current_flow_run()
    if flow_run is None or runtime.flow_run.run_count <= 1:
        return ""
    for file in runs.glob(f"{command.replace(' ', '-')}-*/result.json"):
        with suppress(PipelineError):  # another run's record may be damaged
            document = RunDirectory(file.parent).read_document()
            if (document.get("flow_run") or {}).get("id") == flow_run.id:
                return str(file.parent)
    return ""


@contextmanager
def _end_reported(run: ActiveRun[Any, Any, Any]) -> Iterator[None]:
    """Report the end of a run as its record states it."""
    try:
        yield
    finally:
        document = run.directory.read_document()
        status = document["status"]
        explanation = how_to_resume(run) if status == "interrupted" else document.get("error")
        run.report.ended(status, explanation)


_handed_over: ContextVar["Plan[Any, Any, Any] | None"] = ContextVar("plan", default=None)


@contextmanager
def handed_over(plan: Plan[Any, Any, Any]) -> Iterator[None]:
    """Pass this plan to the flow that is called in the block, so that it does not plan again."""
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
    """Return the plan that `handed_over` passed if it is for this run. Return it only once."""
    plan = _handed_over.get()
    if plan is None or plan.kind is not kind:
        return None
    _handed_over.set(None)  # a flow called by this flow must plan for itself
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
