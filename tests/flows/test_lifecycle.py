"""The life of a run, with a command made for the test: what is in its record at each turn."""

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
from pipeline.inputs.errors import PipelineError
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
    """One field of each type that parameters have."""

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


@dataclass(frozen=True, kw_only=True)
class ToyResult:
    best: Loss
    note: str | None = None


class ToyInputs(NamedTuple):
    """What planning a toy found out."""

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
    """Start a new run, or resume one."""
    return lambda resume=None: planned(store, tmp_path, resume).start(session)


def planned(store: Path, tmp_path: Path, resume: str | None = None) -> ToyPlan:
    return TOY.plan(str(store), tmp_path / "runs", Toy(trials=5, seed=7), resume)


def interrupted(start: Callable[..., Any], resume: str | None = None) -> RunDirectory:
    """A run that was started and interrupted."""
    run: ToyRun
    with pytest.raises(KeyboardInterrupt), start(resume) as run:
        raise KeyboardInterrupt
    return run.directory


def test_a_plan_makes_nothing(store: Path, tmp_path: Path) -> None:
    plan = TOY.plan(str(store), tmp_path / "runs", Toy(trials=5), width=3)
    assert (plan.finished, plan.request.directory) == (None, None)
    assert plan.dataset == open_dataset(str(store))
    assert plan.inputs == (10, 3)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="no store"):
        TOY.plan(str(tmp_path / "none.zarr"), tmp_path, Toy())
    with pytest.raises(PipelineError, match="runs cannot be kept"):
        TOY.plan(str(store), Path("/dev/null/runs"), Toy())
    with pytest.raises(PipelineError, match="width must be at least 1, not 0"):
        TOY.plan(str(store), tmp_path / "runs", Toy(), width=0)


def test_a_record_says_what_a_run_is_and_in_the_end_what_came_of_it(
    start: Callable[..., Any], store: Path, tmp_path: Path
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
        assert first["cluster"] == {"workers": 2, "threads": 2, "block": 1}
        assert {"started", "versions", "machine"} <= first.keys()
        record = run.finish(ToyResult(best=math.inf), {"searching": 1.5}, "gave up")
    assert run.directory.read_document() == first | {
        "status": "gave up",
        "best": None,  # JSON has no inf; and a note that there is not is left out
        "timings": {"searching": 1.5, "seconds": record.seconds},
        "finished": record.finished,
    }
    assert TOY.read(run.directory) == record
    again = planned(store, tmp_path, run.id)
    assert again.finished == record
    assert again.path_of(record) == run.directory.path


def test_an_interrupted_run_says_how_to_resume_and_keeps_its_parameters(
    start: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    run: ToyRun
    with pytest.raises(KeyboardInterrupt) as stopped, start() as run:
        raise KeyboardInterrupt
    command = f"hinge search toys --store {store} --resume {run.directory.path}"
    assert stopped.value.__notes__ == [f"`{command}` resumes it"]
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


def test_a_run_that_fails_says_why(start: Callable[..., Any]) -> None:
    run: ToyRun
    with pytest.raises(ValueError, match="no way"), start() as run:
        raise ValueError("no way")
    record = TOY.read(run.directory)
    assert (record.status, record.error) == ("failed", "no way")


@pytest.mark.parametrize("handed", [True, False])
def test_a_flow_uses_the_plan_that_it_is_handed_and_else_plans_itself(
    session: Session,
    store: Path,
    tmp_path: Path,
    handed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planned once in either case; a flow within the flow plans for itself."""
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
    assert calls == ["search toys"] * 2  # the run's, and that of the run within it


def test_a_record_of_another_version_is_refused_in_one_line(start: Callable[..., Any]) -> None:
    run: ToyRun
    with start() as run:
        run.finish(ToyResult(best=1.0), {})
    document = run.directory.read_document()
    for broken in ("best", "timings", "machine", "status"):
        run.directory.write_document({k: v for k, v in document.items() if k != broken})
        with pytest.raises(PipelineError, match=rf"^the record of run {run.id} .*{broken}"):
            TOY.read(run.directory)


@pytest.mark.parametrize("parameters", [Toy(), Toy(2, 3, 4, Colour.BLUE, (), Range(0.1, 2), 5)])
def test_parameters_are_read_back_as_they_were(tmp_path: Path, parameters: Toy) -> None:
    run = RunDirectory.create(tmp_path, "toy")
    run.write_document({"parameters": asdict(parameters)})
    read = read_parameters(run, run.read_document(), Toy)
    assert read == parameters
    assert type(read.colour) is Colour
    assert type(read.sizes) is tuple


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trials": "5"}, "trials '5'"),
        ({"trials": 0}, "at least 1"),
        ({"colour": "green"}, "colour 'green'"),
        ({"steps": 1.5}, "steps 1.5"),
        ({"more": 1}, "more"),
        ({"span": {"low": 0.0}}, "high"),
        ({"span": {"low": 0.0, "high": 1.0, "more": 1}}, "span"),
        ({"sizes": [None]}, "sizes"),
    ],
)
def test_other_parameters_are_refused_in_one_line(
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
def test_parameters_that_are_no_object_are_refused(tmp_path: Path, parameters: Any) -> None:
    run = RunDirectory.create(tmp_path, "toy")
    run.write_document({"parameters": parameters})
    with pytest.raises(PipelineError, match="cannot be read"):
        read_parameters(run, run.read_document(), Toy)


def test_a_run_that_is_under_way_is_nobody_elses(
    start: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    with start() as run:
        before = run.directory.read_document()
        with pytest.raises(PipelineError, match=f"^run {run.id} is under way"):
            planned(store, tmp_path, run.id)
        assert run.directory.read_document() == before
        run.finish(ToyResult(best=0.5), {})
        planned(store, tmp_path, run.id)  # to look at what is finished is no work on it


def test_whoever_comes_second_between_plan_and_start_changes_nothing(
    session: Session, start: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    run = interrupted(start)
    late = planned(store, tmp_path, run.id)
    with start(run.id) as first:
        with pytest.raises(PipelineError, match="under way"), late.start(session):
            pytest.fail("two have the run")
        assert TOY.read(run).status == "running"
        first.finish(ToyResult(best=0.5), {})
        record = run.read_document()
    with (
        pytest.raises(PipelineError, match="resumed by another process meanwhile"),
        late.start(session),
    ):
        pytest.fail("a finished run was started again")
    assert run.read_document() == record


def test_the_hold_of_a_killed_process_is_gone_with_it(start: Callable[..., Any]) -> None:
    run = interrupted(start)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, run.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(PipelineError, match="under way"), run.locked():
            pytest.fail("two hold the run")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with run.locked():
            pass


def test_a_directory_that_cannot_be_written_is_refused_before_the_work(
    start: Callable[..., Any], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = interrupted(start)
    (run.path / ".lock").unlink()
    (run.path / ".lock").mkdir()  # who is root can write whatever a permission says
    message = rf"^run {run.id} cannot be resumed: {run.path} cannot be written"
    with pytest.raises(PipelineError, match=message):
        planned(store, tmp_path, run.id)
    (run.path / ".lock").rmdir()
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PipelineError, match=message):
        planned(store, tmp_path, run.id)
    assert {path.name for path in run.path.iterdir()} == {"result.json"}


def test_a_run_of_another_command_is_refused(
    start: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    run = interrupted(start)
    other = RunKind("search", Toy, ToyResult, prepare)
    with pytest.raises(
        PipelineError, match=r"not a run of `hinge search` but of `hinge search toys`"
    ):
        other.plan(str(store), tmp_path / "runs", Toy(), run.id)
