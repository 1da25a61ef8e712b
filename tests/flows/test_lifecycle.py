"""The life cycle of a run of a test command, and its record at each stage."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from distributed import Client

from flows.runs.active_run import ActiveRun
from flows.runs.directory import RunDirectory
from flows.runs.lifecycle import Plan, RunKind, RunRequest, handed_over
from flows.runs.record import RECORD_VERSION, Loss, read_parameters
from flows.services.console import Console
from flows.services.session import Session, muted
from pipeline.cluster.preflight import worker_versions
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.stopping import Interrupted
from storage.dataset import open_dataset
from storage.errors import DataError
from tests.flows.conftest import User

HOLD = """
import sys
from pathlib import Path
from flows.runs.record import RunDirectory
with RunDirectory(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Range:
    low: float
    high: float


@dataclass(frozen=True)
class Toy:
    """Parameters with one field of each type that real parameters have."""

    trials: int = 3
    scale: float = 1e-4
    steps: int | None = None
    colour: Colour = Colour.RED
    sizes: tuple[float, ...] = (1e-7, 1.0)
    span: Range = field(default_factory=lambda: Range(-1.0, 1.0))
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise PipelineError("the trials must be at least 1")

    def in_words(self) -> str:
        return f"toys {self.trials}"


@dataclass(frozen=True, kw_only=True)
class ToyResult:
    best: Loss
    note: str | None = None

    def in_words(self) -> str:
        return f"best {self.best}"


class ToyInputs(NamedTuple):
    """The inputs that `prepare` returns."""

    doubled: int
    width: int


def prepare(request: RunRequest[Toy], width: int = 1) -> ToyInputs:
    if width < 1:
        raise PipelineError(f"the width must be at least 1, not {width}")
    return ToyInputs(2 * request.parameters.trials, width)


TOY = RunKind(
    "search toys",
    Toy,
    ToyResult,
    prepare,
    statuses=("done", "gave up"),
    describe_cluster=lambda plan, _session: {"block": plan.inputs.width},
)

ToyPlan = Plan[Toy, ToyResult, ToyInputs]
ToyRun = ActiveRun[Toy, ToyResult, ToyInputs]


@pytest.fixture(scope="module")
def session(user: User) -> Iterator[Session]:
    with Client(user.scheduler) as client:
        yield Session(client, Console())


@pytest.fixture
def start(session: Session, store: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that starts a new run, or resumes one."""
    return lambda resume=None: planned(store, tmp_path, resume).start(session)


def planned(store: Path, tmp_path: Path, resume: str | None = None) -> ToyPlan:
    return TOY.plan(str(store), tmp_path / "runs", Toy(trials=5, seed=7), resume)


def interrupted(start: Callable[..., Any], resume: str | None = None) -> RunDirectory:
    """Start or resume a run, interrupt it, and return its directory."""
    run: ToyRun
    with pytest.raises(Interrupted), start(resume) as run:
        raise Interrupted
    return run.directory


def test_plan_writes_nothing(store: Path, tmp_path: Path) -> None:
    plan = TOY.plan(str(store), tmp_path / "runs", Toy(trials=5), width=3)
    assert (plan.finished, plan.request.directory) == (None, None)
    assert plan.dataset == open_dataset(str(store))
    assert plan.inputs == (10, 3)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="no store"):
        TOY.plan(str(tmp_path / "none.zarr"), tmp_path, Toy())
    with pytest.raises(PipelineError, match="runs cannot be stored"):
        TOY.plan(str(store), Path("/dev/null/runs"), Toy())
    with pytest.raises(PipelineError, match="width must be at least 1, not 0"):
        TOY.plan(str(store), tmp_path / "runs", Toy(), width=0)


def test_record_has_a_header_from_the_start_and_a_result_at_the_end(
    session: Session, start: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    run: ToyRun
    with start() as run:
        first = run.directory.read_document()
        assert first["record_version"] == RECORD_VERSION
        assert first["run"] == run.directory.path.name
        assert run.id.startswith("search-toys-")
        assert (first["command"], first["status"]) == ("search toys", "running")
        assert first["parameters"] == json.loads(json.dumps(asdict(Toy(trials=5, seed=7))))
        assert first["seed"] == 7
        assert first["data"]["fingerprint"] == open_dataset(str(store)).fingerprint
        versions = worker_versions(session.client)  # they are those of another process's cluster
        cluster = {"workers": 2, "threads": 2, "block": 1, "versions": versions}
        assert first["cluster"] == cluster
        assert {"started", "versions", "machine"} <= first.keys()
        record = run.finish(ToyResult(best=math.inf), {"searching": 1.5}, "gave up")
    assert run.directory.read_document() == first | {
        "status": "gave up",
        "best": None,  # JSON cannot represent inf; `note` equals its default and is omitted
        "timings": {"searching": 1.5, "seconds": record.seconds},
        "finished": record.finished,
        "summary": "gave up: best inf",
    }
    assert TOY.read(run.directory) == record
    again = planned(store, tmp_path, run.id)
    assert again.finished == record
    assert again.path_of(record) == run.directory.path


def test_interrupted_run_names_the_resume_command_and_keeps_parameters(
    start: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    run: ToyRun
    with pytest.raises(Interrupted) as stopped, start() as run:
        raise Interrupted
    command = f"hinge search toys --store {store} --resume {run.directory.path}"
    assert str(stopped.value) == f"`{command}` resumes it"
    record = TOY.read(run.directory)
    assert record.status == "interrupted"
    plan = TOY.plan(str(store), tmp_path / "elsewhere", Toy(), str(run.directory.path))
    assert plan.parameters == Toy(trials=5, seed=7)
    assert plan.request.siblings == tmp_path / "runs"
    assert plan.finished is None
    with start(run.id) as resumed:
        assert resumed.directory == run.directory
        assert resumed.record.started == record.started
        assert TOY.read(resumed.directory).status == "running"


def test_failed_run_records_the_error(start: Callable[..., Any]) -> None:
    run: ToyRun
    with pytest.raises(ValueError, match="no way"), start() as run:
        raise ValueError("no way")
    record = TOY.read(run.directory)
    assert (record.status, record.error) == ("failed", "no way")


@pytest.mark.parametrize("handed", [True, False])
def test_flow_uses_the_plan_handed_over_or_plans_its_own_run(
    session: Session,
    store: Path,
    tmp_path: Path,
    handed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run is planned once in either case. A nested flow plans its own run."""
    calls = list[str]()
    plan_of = RunKind.plan

    def counting(kind: Any, *given: Any, **more: Any) -> Any:
        calls.append(kind.command)
        return plan_of(kind, *given, **more)

    monkeypatch.setattr(RunKind, "plan", counting)
    runs = str(tmp_path / "runs")

    def body(session: Session, run: ToyRun) -> Any:
        if run.parameters.seed == 7:
            nested = TOY.run(body, str(store), Toy(seed=8), runs=runs)
            assert nested.parameters.seed == 8
        return run.finish(ToyResult(best=run.plan.inputs.doubled), {})

    given = str(store), Toy(trials=5, seed=7)
    with muted(session):
        if handed:
            plan = TOY.plan(str(store), Path(runs), given[1])
            with handed_over(plan):
                record = TOY.run(body, *given, runs=runs)
        else:
            record = TOY.run(body, *given, runs=runs)
    assert record.result.best == 10
    assert calls == ["search toys"] * 2  # once for the run, once for the nested run


def test_record_without_a_required_field_raises_pipeline_error(start: Callable[..., Any]) -> None:
    run: ToyRun
    with start() as run:
        run.finish(ToyResult(best=1.0), {})
    document = run.directory.read_document()
    for broken in ("best", "timings", "machine", "status"):
        run.directory.write_document({k: v for k, v in document.items() if k != broken})
        with pytest.raises(PipelineError, match=rf"^the record of run {run.id} .*{broken}"):
            TOY.read(run.directory)


@pytest.mark.parametrize("parameters", [Toy(), Toy(2, 3, 4, Colour.BLUE, (), Range(0.1, 2), 5)])
def test_parameters_are_read_back_unchanged(tmp_path: Path, parameters: Toy) -> None:
    run = RunDirectory.create(tmp_path, "toy")
    run.write_document({"parameters": asdict(parameters)})
    read = read_parameters(run, run.read_document(), Toy)
    assert read == parameters
    assert type(read.colour) is Colour
    assert type(read.sizes) is tuple


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trials": "5"}, "trials '5'"),  # text instead of a number
        ({"trials": 0}, "at least 1"),  # rejected by Toy itself
        ({"colour": "green"}, "colour 'green'"),
        ({"steps": 1.5}, "steps 1.5"),
        ({"more": 1}, "more"),  # unknown field
        ({"span": {"low": 0.0}}, "high"),  # field missing in a nested dataclass
        ({"span": {"low": 0.0, "high": 1.0, "more": 1}}, "span"),  # unknown nested field
        ({"sizes": [None]}, "sizes"),
    ],
)
def test_invalid_or_missing_parameters_raise_pipeline_error(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    run = RunDirectory.create(tmp_path, "toy")
    run.write_document({"parameters": asdict(Toy()) | change})
    with pytest.raises(PipelineError, match=rf"^the record of run {run.id} .*{words}.*$"):
        read_parameters(run, run.read_document(), Toy)
    for missing in asdict(Toy()):
        held = {name: value for name, value in asdict(Toy()).items() if name != missing}
        run.write_document({"parameters": held})
        with pytest.raises(PipelineError, match=f"another version .*{missing}"):
            read_parameters(run, run.read_document(), Toy)


@pytest.mark.parametrize("parameters", [None, [], "x", 3])
def test_parameters_that_are_not_an_object_raise_pipeline_error(
    tmp_path: Path, parameters: Any
) -> None:
    run = RunDirectory.create(tmp_path, "toy")
    run.write_document({"parameters": parameters})
    with pytest.raises(PipelineError, match="cannot be read"):
        read_parameters(run, run.read_document(), Toy)


def test_running_run_cannot_be_resumed_by_another_process(
    start: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    with start() as run:
        before = run.directory.read_document()
        with pytest.raises(PipelineError, match=f"^run {run.id} is running"):
            planned(store, tmp_path, run.id)
        assert run.directory.read_document() == before
        run.finish(ToyResult(best=0.5), {})
        planned(store, tmp_path, run.id)  # a finished run may be shown while it is locked


def test_run_resumed_since_it_was_planned_cannot_be_started(
    session: Session, start: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    run = interrupted(start)
    late = planned(store, tmp_path, run.id)
    with start(run.id) as first:
        with (
            pytest.raises(PipelineError, match="is running in another process"),
            late.start(session),
        ):
            pytest.fail("two processes run the same run")
        assert TOY.read(run).status == "running"
        first.finish(ToyResult(best=0.5), {})
        record = run.read_document()
    with (
        pytest.raises(PipelineError, match="resumed by another process in the meantime"),
        late.start(session),
    ):
        pytest.fail("a finished run was started again")
    assert run.read_document() == record


def test_lock_of_a_killed_process_is_released(start: Callable[..., Any]) -> None:
    run = interrupted(start)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, run.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(PipelineError, match="is running in another process"), run.locked():
            pytest.fail("two processes hold the lock")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with run.locked():
            pass


def test_unwritable_run_directory_is_rejected_when_planning(
    start: Callable[..., Any], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = interrupted(start)
    (run.path / ".lock").unlink()
    (run.path / ".lock").mkdir()  # prevents locking even for root, who may ignore permissions
    message = rf"^run {run.id} cannot be resumed: {run.path} cannot be written"
    with pytest.raises(PipelineError, match=message):
        planned(store, tmp_path, run.id)
    (run.path / ".lock").rmdir()
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PipelineError, match=message):
        planned(store, tmp_path, run.id)
    assert {path.name for path in run.path.iterdir()} == {"result.json"}


def test_run_of_another_command_is_rejected(
    start: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    run = interrupted(start)
    other = RunKind("search", Toy, ToyResult, prepare)
    with pytest.raises(
        PipelineError, match=r"not a run of `hinge search` but of `hinge search toys`"
    ):
        other.plan(str(store), tmp_path / "runs", Toy(), run.id)
