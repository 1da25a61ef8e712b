"""The life of a run, with a command made for the test: what is in its record at each turn."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from flows.console import Console, to_json
from flows.lifecycle import Begun, Kind, Plan
from flows.parameters import read_parameters
from flows.record import Run
from flows.session import Session
from pipeline.errors import PipelineError
from storage.dataset import open_dataset
from storage.errors import DataError
from tests.flows.conftest import User

HOLD = """
import sys
from pathlib import Path
from flows.record import Run
with Run(Path(sys.argv[1])).held():
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


TOY = Kind("search toys", Toy, ends=("done", "gave up"))


@pytest.fixture(scope="module")
def session(user: User) -> Iterator[Session]:
    with Client(user.scheduler) as client:
        yield Session(client, Console())


@pytest.fixture
def begin(session: Session, store: Path, tmp_path: Path) -> Callable[..., Any]:
    """Begin a new run, or go on with one."""
    return lambda resume=None: planned(store, tmp_path, resume).begun(session, {"extra": 1})


def planned(store: Path, tmp_path: Path, resume: str | None = None) -> Plan[Toy]:
    return TOY.plan(str(store), tmp_path / "runs", Toy(trials=5, seed=7), resume)


def interrupted(begin: Callable[..., Any], resume: str | None = None) -> Run:
    """A run that was begun and interrupted."""
    begun: Begun
    with pytest.raises(KeyboardInterrupt), begin(resume) as begun:
        raise KeyboardInterrupt
    return begun.run


def test_a_plan_makes_nothing(store: Path, tmp_path: Path) -> None:
    plan = planned(store, tmp_path)
    assert (plan.finished, plan.run, plan.dataset) == (None, None, open_dataset(str(store)))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="no store"):
        TOY.plan(str(tmp_path / "none.zarr"), tmp_path, Toy())
    with pytest.raises(PipelineError, match="runs cannot be kept"):
        TOY.plan(str(store), Path("/dev/null/runs"), Toy())


def test_a_run_says_what_it_is_while_it_goes_and_what_came_of_it_at_its_end(
    begin: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    with begin() as begun:
        first = begun.run.record
        assert first["run"] == begun.run.path.name
        assert begun.run.id.startswith("search-toys-")
        assert (first["command"], first["status"]) == ("search toys", "running")
        assert first["parameters"] == json.loads(json.dumps(asdict(Toy(trials=5, seed=7))))
        assert first["seed"] == 7
        assert first["data"]["fingerprint"] == open_dataset(str(store)).fingerprint
        assert first["cluster"] == {"workers": 2, "threads": 2, "extra": 1}
        assert {"started", "versions", "machine"} <= first.keys()
        record = begun.ended("gave up", {"best": 0.5}, {"searching": 1.5})
    assert begun.run.record == json.loads(to_json(record))
    assert begun.run.record == first | {
        "status": "gave up",
        "best": 0.5,
        "timings": {"searching": 1.5, "seconds": record["timings"]["seconds"]},
        "finished": record["finished"],
    }
    again = planned(store, tmp_path, begun.run.id)
    assert again.finished == begun.run.record
    assert again.path_of(record) == begun.run.path


def test_an_interrupted_run_says_how_to_go_on_and_keeps_what_it_was_given(
    begin: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt) as stopped, begin() as begun:
        raise KeyboardInterrupt
    command = f"hinge search toys --store {store} --resume {begun.run.path}"
    assert stopped.value.__notes__ == [f"`{command}` goes on"]
    record = begun.run.record
    assert record["status"] == "interrupted"
    plan = TOY.plan(str(store), tmp_path / "elsewhere", Toy(), str(begun.run.path))
    assert plan.parameters == Toy(trials=5, seed=7)
    assert plan.finished is None
    with begin(begun.run.id) as resumed:
        assert resumed.run == begun.run
        assert resumed.record["started"] == record["started"]
        assert resumed.run.record["status"] == "running"


def test_a_run_that_fails_says_why(begin: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="no way"), begin() as begun:
        raise ValueError("no way")
    record = begun.run.record
    assert (record["status"], record["error"]) == ("failed", "no way")


@pytest.mark.parametrize("parameters", [Toy(), Toy(2, 3, 4, Colour.BLUE, (), Range(0.1, 2), 5)])
def test_parameters_are_read_back_as_they_were(tmp_path: Path, parameters: Toy) -> None:
    run = Run.create(tmp_path, "toy")
    run.write_record({"parameters": asdict(parameters)})
    read = read_parameters(run, Toy)
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
    run = Run.create(tmp_path, "toy")
    run.write_record({"parameters": asdict(Toy()) | change})
    with pytest.raises(PipelineError, match=rf"^the record of run {run.id} .*{words}.*$"):
        read_parameters(run, Toy)
    for missing in asdict(Toy()):
        held = {name: value for name, value in asdict(Toy()).items() if name != missing}
        run.write_record({"parameters": held})
        with pytest.raises(PipelineError, match=f"another version .*{missing}"):
            read_parameters(run, Toy)


@pytest.mark.parametrize("parameters", [None, [], "x", 3])
def test_parameters_that_are_no_object_are_refused(tmp_path: Path, parameters: Any) -> None:
    run = Run.create(tmp_path, "toy")
    run.write_record({"parameters": parameters})
    with pytest.raises(PipelineError, match="cannot be read"):
        read_parameters(run, Toy)


def test_a_run_that_is_under_way_is_nobody_elses(
    begin: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    with begin() as begun:
        before = begun.run.record
        with pytest.raises(PipelineError, match=f"^run {begun.run.id} is under way"):
            planned(store, tmp_path, begun.run.id)
        assert begun.run.record == before
        begun.ended("done", {}, {})
        planned(store, tmp_path, begun.run.id)  # to look at what is finished is no work on it


def test_whoever_comes_second_between_plan_and_begin_changes_nothing(
    session: Session, begin: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    run = interrupted(begin)
    late = planned(store, tmp_path, run.id)
    with begin(run.id) as first:
        with pytest.raises(PipelineError, match="under way"), late.begun(session):
            pytest.fail("two have the run")
        assert run.record["status"] == "running"
        first.ended("done", {}, {})
        record = run.record
    with pytest.raises(PipelineError, match="gone on with meanwhile"), late.begun(session):
        pytest.fail("a finished run was begun again")
    assert run.record == record


def test_the_hold_of_a_killed_process_is_gone_with_it(begin: Callable[..., Any]) -> None:
    run = interrupted(begin)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, run.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(PipelineError, match="under way"), run.held():
            pytest.fail("two hold the run")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with run.held():
            pass


def test_a_directory_that_cannot_be_written_is_refused_before_the_work(
    begin: Callable[..., Any], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = interrupted(begin)
    (run.path / ".lock").unlink()
    (run.path / ".lock").mkdir()  # who is root can write whatever a permission says
    message = rf"^run {run.id} cannot be gone on with: {run.path} cannot be written"
    with pytest.raises(PipelineError, match=message):
        planned(store, tmp_path, run.id)
    (run.path / ".lock").rmdir()
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PipelineError, match=message):
        planned(store, tmp_path, run.id)
    assert {path.name for path in run.path.iterdir()} == {"result.json"}


def test_a_run_of_another_command_is_refused(
    begin: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    run = interrupted(begin)
    other = Kind("search", Toy)
    with pytest.raises(PipelineError, match=r"no run of `hinge search`, but .*search toys"):
        other.plan(str(store), tmp_path / "runs", Toy(), run.id)
