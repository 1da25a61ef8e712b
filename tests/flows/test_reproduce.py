"""`hinge reproduce`: each experiment runs once, even after interruptions; a report shows all."""

import base64
import json
import shlex
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.reproduce import flow as reproduction
from flows.reproduce.flow import REPRODUCE
from flows.runs.directory import RunDirectory
from flows.runs.lifecycle import RunKind
from flows.runs.record import FinishedRecord, RunRecord
from pipeline.inputs.errors import PipelineError
from pipeline.reproduce.parameters import Reproduction
from storage.dataset import open_dataset
from tests.flows.conftest import Command, Finished, User, end, until
from tests.flows.test_command import loss_in_numpy, read
from tests.flows.test_landscape import sampled
from tests.flows.test_refusals import late, left, refused
from tests.flows.test_reproduction_report import DRAWN_FOR_THE_PAGE, Page

NAMES = [
    *("panels", "line", "random search", "local search", "numerical gradient", "gradient check"),
    *("differences", "sweep", "gradient descent", "step sizes", "mini-batches", "regularised"),
    *("l-bfgs", "path"),
]
PICTURES = {
    ("panels", "panels.png"),
    ("line", "landscape.png"),
    ("random search", "trials.png"),
    ("local search", "trials.png"),
    ("gradient check", "errors.png"),
    ("differences", "steps.png"),
    ("sweep", "steps.png"),
    ("gradient descent", "loss.png"),
    ("step sizes", "curves.png"),
    ("l-bfgs", "loss.png"),
    ("path", "landscape.png"),
}
"""The experiments' figures that the report embeds."""
LAWS = 5
"""The number of comparisons that do not need the real images."""


def records_of(run: Path) -> dict[str, bytes]:
    """Return the records of the finished parts, keyed by their directories."""
    files = run.glob("parts/*/*/result.json")
    contents = {str(file.parent): file.read_bytes() for file in files}
    return {
        path: content
        for path, content in contents.items()
        if json.loads(content)["status"] not in ("running", "interrupted")
    }


def rewrite_as_old(run: Path) -> None:
    """Rewrite all records of an unfinished reproduction in the format of version 0."""
    for file in (run / "result.json", *run.glob("parts/*/*/result.json")):
        document = json.loads(file.read_text())
        assert document.pop("record_version") == 1
        document["command"] = {"panels": "landscape --panels"}.get(
            document["command"], document["command"]
        )
        file.write_text(json.dumps(document))


@dataclass(frozen=True)
class Stop:
    """A process that was stopped before it finished."""

    finished: Finished
    record: dict[str, Any]
    parts: dict[str, bytes]
    """The records of the finished parts."""
    begun: set[str]
    """The directories of all runs, finished or not."""


@dataclass(frozen=True)
class Reproduced:
    """A reproduction in three processes; the first was terminated, and the second was killed.

    The records of the first process were rewritten in the format of version 0.
    """

    run: Path
    terminated: Stop
    killed: Stop
    last: Finished

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.run / "result.json").read_text())
        return record


@pytest.fixture(scope="module")
def reproduced(user: User, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    directory = tmp_path_factory.mktemp("reproduced")
    scheduler = ("--scheduler", user.scheduler)

    def stop(
        part: str, sent: signal.Signals, *given: object, old: bool = False
    ) -> tuple[Path, Stop]:
        """Start or resume a reproduction, and send it a signal while `part` is running."""
        process = user.start("reproduce", *given, *scheduler, cwd=directory)
        with process:
            found = f"runs/*/parts/{part}/*/journal.sqlite"
            until(lambda: [*directory.glob(found)] or process.poll() is not None, part, 120)
            process.send_signal(sent)
            out, err = process.communicate(timeout=60)
        [run] = (directory / "runs").iterdir()
        if old:
            rewrite_as_old(run)
        record = json.loads((run / "result.json").read_text())
        begun = {str(path) for path in run.glob("parts/*/*")}
        return run, Stop(Finished(process.returncode, out, err), record, records_of(run), begun)

    run, terminated = stop("random-search", signal.SIGTERM, "--store", store, "--seed", 3, old=True)
    typed = terminated.finished.err.split("`")[1]
    _, killed = stop("local-search", signal.SIGKILL, *shlex.split(typed)[2:])
    last = user.start("reproduce", "--store", store, "--resume", run, *scheduler, cwd=directory)
    return Reproduced(run, terminated, killed, end(last, 400))


@pytest.mark.slow
def test_interrupted_reproduction_resumes_and_reruns_no_finished_part(
    reproduced: Reproduced, store: Path
) -> None:
    run, terminated, killed = reproduced.run, reproduced.terminated, reproduced.killed
    assert (terminated.finished.status, terminated.finished.out) == (130, "")
    told = terminated.finished.err.splitlines()[-1]
    typed = f"`hinge reproduce --store {store} --resume runs/{run.name}`"
    assert told == f"hinge: interrupted; {typed} resumes it"
    assert (terminated.record["status"], killed.record["status"]) == ("interrupted", "running")
    assert (killed.finished.status, killed.finished.out) == (-signal.SIGKILL, "")
    assert {Path(path).parent.name for path in terminated.parts} == {"panels", "line"}
    assert len(killed.parts) == 3  # the random search is finished
    now = records_of(run)
    for stop in (terminated, killed):
        assert {path: now[path] for path in stop.parts} == stop.parts  # not run again
        assert stop.begun <= {str(path) for path in run.glob("parts/*/*")}
    assert len(terminated.begun) == 3
    assert len(killed.begun) == 5
    assert len(now) == len(NAMES)
    # the unfinished search with a version 0 record ran again from scratch; the other one resumed
    assert len([*run.glob("parts/random-search/*")]) == 2
    assert len([*run.glob("parts/local-search/*")]) == 1


@pytest.mark.slow
def test_reproduction_record_has_every_part_and_comparison(
    reproduced: Reproduced, store: Path
) -> None:
    record, last = reproduced.record, reproduced.last
    assert last.status == (0 if record["agree"] else 1), last.err
    assert (record["command"], record["status"], record["seed"]) == ("reproduce", "done", 3)
    assert record["data"]["fingerprint"] == open_dataset(str(store)).fingerprint
    assert len(record["comparisons"]) == LAWS
    for each in record["comparisons"]:
        assert each["agrees"] is True, each  # these claims hold for any images
    assert record["agree"] is True
    assert len(record["not_comparable"]) == 18 - LAWS + 1
    assert all(each["why"] for each in record["not_comparable"])
    assert list(record["parts"]) == NAMES
    seconds = 0.0
    for name, place in record["parts"].items():
        path = Path(place) if Path(place).is_absolute() else reproduced.run.parents[1] / place
        assert path.parent == reproduced.run / "parts" / name.replace(" ", "-")
        part = json.loads((path / "result.json").read_text())
        assert part["run"] == path.name
        assert part["data"] == record["data"]
        assert part["seed"] in (3, None)
        assert record["timings"][name] == part["timings"]["seconds"]
        seconds += part["timings"]["seconds"]
    assert record["seconds"] > seconds  # it includes all three processes


@pytest.mark.slow
def test_duplicates_are_copies_of_the_images_in_the_store(
    reproduced: Reproduced, store: Path
) -> None:
    copies = reproduced.record["duplicates"]
    rows = 600
    assert (copies["unique"], copies["copies"], copies["rows"]) == (rows, 1_200, 1_200 * rows)
    assert copies["same_bits"] is True
    sequence = np.random.SeedSequence(3, spawn_key=(1, 0))
    W = 1e-3 * np.random.Generator(np.random.Philox(sequence)).standard_normal((10, 3073))
    data = sampled(read(open_dataset(str(store)), "train"), rows, 3)
    assert copies["loss"] == pytest.approx(loss_in_numpy(W, *data), rel=1e-6)


@pytest.mark.slow
def test_report_is_valid_and_embeds_the_figures_of_the_parts(reproduced: Reproduced) -> None:
    run, record = reproduced.run, reproduced.record
    assert left(run / "report") == {"index.html", *(f"{name}.png" for name in DRAWN_FOR_THE_PAGE)}
    page = Page.of((run / "report" / "index.html").read_text(encoding="utf-8"))
    assert page.wrong == []
    assert "loud" in page.classes  # the images are synthetic
    assert record["data"]["source"] in page.text
    assert run.name in page.text
    files = [run / "report" / f"{name}.png" for name in DRAWN_FOR_THE_PAGE]
    for part, file in PICTURES:
        files += (run / "parts" / part.replace(" ", "-")).glob(f"*/{file}")
    drawn = {base64.b64encode(file.read_bytes()).decode() for file in files}
    assert {image["src"].partition("base64,")[2] for image in page.images} == drawn
    for path in records_of(run):
        assert Path(path).name in page.text
    for each in record["comparisons"]:
        assert f"{each['name']} {each['ours']} {each['notes']}" in page.text
    assert page.text.count("✓ agrees") == LAWS


@pytest.mark.slow
def test_reproduction_prints_a_summary_and_resume_prints_it_again(
    reproduced: Reproduced, hinge: Command, store: Path
) -> None:
    lines, err = reproduced.last.out.splitlines(), reproduced.last.err.splitlines()
    assert err[0].startswith("Dask dashboard: ")
    told = [line for line in err if line.startswith("[")]
    for number, name in enumerate(NAMES, 1):
        assert told[number - 1].startswith(f"[{number}/14] {name}: ")
    assert [line.split("  ")[0] for line in lines[:LAWS]] == ["agrees"] * LAWS
    summary = {line.split("  ")[0]: line for line in lines[LAWS:]}
    assert summary["run"].endswith(reproduced.run.name)
    assert f"{LAWS} of {LAWS} comparisons" in summary["agree"]
    assert summary["files"].endswith(f"{reproduced.run.name}/report/index.html")

    before = {path: path.stat().st_mtime_ns for path in reproduced.run.rglob("*")}
    again = hinge("reproduce", "--store", store, "--resume", reproduced.run)
    assert (again.status, again.err) == (0, "")  # it starts no cluster
    assert again.out == reproduced.last.out
    as_json = hinge("reproduce", "--store", store, "--resume", reproduced.run, "--json")
    assert as_json.result == reproduced.record
    assert {path: path.stat().st_mtime_ns for path in reproduced.run.rglob("*")} == before


def finished_run(runs: Path, store: Path, **changes: Any) -> Path:
    """Write the record of a finished reproduction in the format of version 0."""
    run = RunDirectory(runs / "reproduce-ended")
    run.path.mkdir(parents=True)
    one = {"name": "a law", "ours": "so", "notes": "so", "agrees": True, "how": "equal"}
    run.write_document({
        "run": run.id,
        "command": "reproduce",
        "status": "done",
        "parameters": {"seed": 0},
        "seed": 0,
        "data": asdict(open_dataset(str(store)).summary()),
        "cluster": {"workers": 2, "threads": 2},
        "started": "2026-01-01T00:00:00+00:00",
        "versions": {"python": "3.11.7"},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
        "comparisons": [one],
        "not_comparable": [{"name": "a loss", "ours": "1", "notes": "2", "why": "another"}],
        "agree": True,
        "parts": {"panels": "runs/reproduce-ended/parts/panels/landscape-panels-1"},
        "duplicates": {
            "unique": 600,
            "copies": 1_200,
            "rows": 720_000,
            "loss": 9.5,
            "same_bits": True,
            "seconds_unique": 0.01,
            "seconds_copied": 1.5,
            "seconds": 1.75,
        },
        "report": "runs/reproduce-ended/report/index.html",
        "seconds": 1.0,
        "timings": {"panels": 0.5, "seconds": 2.0},
        "finished": "2026-01-01T00:00:02+00:00",
        **changes,
    })  # fmt: skip
    return run.path


INTERRUPTED = """
{"run": "reproduce-20261126-183501-e49cd5e9", "command": "reproduce", "status": "interrupted",
 "parameters": {"seed": 0}, "seed": 0,
 "data": {"url": "c.zarr", "name": "cifar10", "source": "CIFAR-10, binary version",
          "fingerprint": "4e553a0ce32eebf263dcc689c7ddffcf6ac3642318a9729eb20c3baea9422b9f",
          "format_version": 1,
          "classes": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse",
                      "ship", "truck"],
          "rows": {"train": 50000, "test": 10000}, "shards": {"train": 10, "test": 2},
          "shard_rows": 5000, "chunk_rows": 250},
 "cluster": {"workers": 2, "threads": 2}, "started": "2026-11-26T18:35:01+00:00",
 "versions": {"python": "3.11.7", "hinge": "0.1.0", "numpy": "2.4.6", "numba": "0.68.1",
              "dask": "2026.8.0", "distributed": "2026.8.0", "zarr": "3.1.6", "prefect": "3.8.8"},
 "machine": {"system": "Linux-6.18.44-x86_64-with-glibc2.36", "processor": "x86_64", "cores": 2},
 "finished": "2026-11-26T18:35:03+00:00"}
"""
"""A record in the format of version 0."""


def test_reproduction_records_of_version_0_open(store: Path, tmp_path: Path) -> None:
    interrupted = RunDirectory(tmp_path / "interrupted")
    interrupted.path.mkdir()
    (interrupted.path / "result.json").write_text(INTERRUPTED)
    record = REPRODUCE.read(interrupted)
    assert type(record) is RunRecord
    assert (record.record_version, record.status) == (0, "interrupted")
    assert record.parameters == Reproduction(seed=0)
    assert record.data is not None
    assert record.data.fingerprint.startswith("4e553a0c")

    finished = REPRODUCE.read(RunDirectory(finished_run(tmp_path, store)))
    assert isinstance(finished, FinishedRecord)
    [law], [loss] = finished.result.comparisons, finished.result.not_comparable
    assert (law.name, law.agrees, loss.why) == ("a law", True, "another")
    assert (finished.result.duplicates.rows, finished.result.duplicates.loss) == (720_000, 9.5)
    assert (finished.result.seconds, finished.seconds) == (1.0, 2.0)


def test_reproduction_is_planned_once(
    user: User, hinge: Command, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each experiment would plan its own run, but here no experiment runs."""
    planned, plan = list[str](), RunKind.plan

    def counting(kind: RunKind[Any, Any, Any], *given: Any, **more: Any) -> Any:
        planned.append(kind.command)
        return plan(kind, *given, **more)

    def run_none(*_: object) -> None:
        raise PipelineError("enough")

    monkeypatch.setattr(RunKind, "plan", counting)
    monkeypatch.setattr(reproduction, "run_experiments", run_none)
    late(hinge("reproduce", "--store", store, "--scheduler", user.scheduler), "enough")
    assert planned == ["reproduce"]
    [run] = (tmp_path / "runs").iterdir()
    record = REPRODUCE.read(RunDirectory(run))
    assert (record.status, record.error) == ("failed", "enough")


@pytest.mark.parametrize("agrees", [True, False])
def test_exit_status_is_1_if_a_comparison_differs(
    hinge: Command, store: Path, tmp_path: Path, agrees: bool
) -> None:
    one = {"name": "a law", "ours": "so", "notes": "thus", "agrees": agrees, "how": "equal"}
    run = finished_run(tmp_path / "runs", store, comparisons=[one], agree=agrees)
    finished = hinge("reproduce", "--store", store, "--resume", run.name)
    assert (finished.status, finished.err) == (0 if agrees else 1, "")
    said = f"{'agrees ' if agrees else 'DIFFERS'}  a law  so (notes: thus)"
    assert finished.out.splitlines()[0] == said
    assert f"{int(agrees)} of 1 comparisons" in finished.out


# -- invalid input


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", ["--store", "hinge reproduce --help"]),
        ("--store nothing.zarr", ["nothing.zarr", "ingest"]),
        (f"--store STORE --seed {2**64}", ["seed", str(2**64)]),
        ("--store STORE --seed -1", ["--seed", "-1"]),
        ("--store STORE --seed some", ["--seed", "some"]),
        ("--store STORE --trials 5", ["--trials"]),
        ("--store STORE --resume reproduce-1970", ["no run 'reproduce-1970'"]),
        ("--store STORE --resume reproduce-ended --seed 1", ["--seed", "resumed"]),
        ("--store STORE --workers 0", ["--workers"]),
        ("--store STORE --workers 1 --scheduler tcp://127.0.0.1:9", ["--workers", "--scheduler"]),
        ("--store STORE --runs runs/reproduce-ended/result.json/x", ["--runs"]),
    ],
    ids=str,
)
def test_reproduce_rejects_invalid_options(
    hinge: Command,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    finished_run(tmp_path / "runs", store)
    typed = [str(store) if word == "STORE" else word for word in given.split()]
    refused(hinge("reproduce", *typed), *words)
    assert left(tmp_path) == {"runs"}
    assert left(tmp_path / "runs") == {"reproduce-ended"}
    assert left(tmp_path / "runs" / "reproduce-ended") == {"result.json"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda record: record.update(command="train"),
            ["not a run of `hinge reproduce`", "train"],
        ),
        (lambda record: record["data"].update(fingerprint="0" * 64), ["other data", "000000"]),
        (lambda record: record.update(parameters={"seed": -1}), ["parameters", "seed"]),
        (lambda record: record.pop("status"), ["status"]),
    ],
)
def test_reproduce_rejects_a_run_that_it_cannot_resume(
    hinge: Command,
    store: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    words: list[str],
) -> None:
    run = RunDirectory(finished_run(tmp_path / "runs", store))
    document = run.read_document()
    change(document)
    run.write_document(document)
    refused(hinge("reproduce", "--store", store, "--resume", run.id), run.id, *words)
    assert run.read_document() == document


def test_reproduce_rejects_fewer_images_than_a_mini_batch(
    user: User, hinge: Command, tmp_path: Path
) -> None:
    store = tmp_path / "few.zarr"
    given = ("--store", store, "--scheduler", user.scheduler, "--runs", tmp_path / "ingests")
    assert hinge("ingest", "synthetic:255", *given).status == 0
    before = left(tmp_path)
    refused(hinge("reproduce", "--store", store), "from 1 to 255, the number of images", "256")
    assert left(tmp_path) == before
