"""Both searches as commands and flows, compared with plain loops over the formulas."""

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import ParameterTypeError
from prefect.settings import temporary_settings

from flows.cli import hinge as command_group
from flows.runs.directory import RunDirectory
from flows.runs.lifecycle import RunKind
from flows.runs.record import FinishedRecord, to_document
from flows.search.flow import (
    LOCAL_SEARCH,
    RANDOM_SEARCH,
    search_local_flow,
    search_random_flow,
)
from flows.services.console import to_json
from pipeline.inputs.random_streams import Purpose
from pipeline.inputs.weights import draw_weights
from pipeline.search.local_search import LocalSearch
from pipeline.search.random_search import RandomSearch
from storage.dataset import open_dataset
from storage.schema import CLASSES, SPLITS
from tests.flows.conftest import Command, Finished, User, until
from tests.flows.test_command import loss_in_numpy, read
from tests.flows.test_flows import artifacts_of, flow_run_of

RANDOM = RandomSearch(trials=37, scale=1e-3, seed=5)
LOCAL = LocalSearch(trials=37, seed=2)
GIVEN = {
    "random": ("--trials", 37, "--scale", 1e-3, "--seed", 5),
    "local": ("--trials", 37, "--seed", 2),
}
SAME = ("best_trial", "best_loss", "loss", "test_loss", "test_accuracy", "weights_sha256")


class Searched(NamedTuple):
    """A search that has ended, with the files that it wrote."""

    finished: Finished
    path: Path
    record: dict[str, Any]
    trials: list[dict[str, str]]

    @property
    def lines(self) -> list[str]:
        return [line for line in self.finished.err.splitlines() if line.startswith("in attempt")]


@pytest.fixture
def search(user: User, hinge: Command, store: Path, tmp_path: Path) -> Any:
    """Return a function that runs a search on the shared cluster."""

    def run(kind: str, *more: object) -> Searched:
        given = ("search", kind, "--store", store, *GIVEN[kind], *more)
        finished = hinge(*given, "--scheduler", user.scheduler)
        assert finished.status == 0, finished.err
        path = max(
            (tmp_path / "runs").glob(f"search-{kind}-*"), key=lambda run: run.stat().st_mtime
        )
        with (path / "trials.csv").open(newline="") as file:
            trials = list(csv.DictReader(file))
        return Searched(finished, path, json.loads((path / "result.json").read_text()), trials)

    return run


def same(record: dict[str, Any]) -> list[Any]:
    """Return the fields of a record that do not depend on workers or blocks."""
    return [record[name] for name in SAME]


@pytest.fixture(scope="module")
def training(store: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    return read(open_dataset(str(store)), "train")


def reference_lines(losses: list[float]) -> list[str]:
    """Return the lines that the notes' loop prints, one per trial."""
    lines, best = [], float("inf")
    for number, loss in enumerate(losses):
        best = min(best, loss)
        lines.append("in attempt %d the loss was %f, best %f" % (number, loss, best))  # noqa: UP031
    return lines


def test_random_search_matches_the_notes_loop(search: Any, training: Any) -> None:
    run = search("random", "--block", 8)
    weights = [RANDOM.weights(trial, 10) for trial in range(37)]
    losses = [loss_in_numpy(W, *training) for W in weights]
    best = int(np.argmin(losses))
    assert run.lines == reference_lines(losses)
    assert (run.record["trials"], run.record["best_trial"]) == (37, best)
    assert run.record["best_loss"] == pytest.approx(losses[best], rel=1e-12)
    np.testing.assert_array_equal(np.load(run.path / "weights.npy"), weights[best])
    assert [int(row["trial"]) for row in run.trials] == list(range(37))
    assert [float(row["loss"]) for row in run.trials] == pytest.approx(losses, rel=1e-12)
    so_far = [min(losses[: trial + 1]) for trial in range(37)]
    assert [float(row["best_so_far"]) for row in run.trials] == pytest.approx(so_far, rel=1e-12)


def test_local_search_matches_a_plain_loop(search: Any, training: Any) -> None:
    run = search("local")
    W = LOCAL.start(10)
    losses: list[float] = []
    accepted: list[int] = []
    initial = loss_in_numpy(W, *training)
    for number in range(37):
        [step] = draw_weights(2, Purpose.PERTURBATION, [number], 1e-4, 10).weights
        losses.append(loss_in_numpy(W + step, *training))
        if not accepted or losses[-1] < losses[accepted[-1]]:
            W = W + step
            accepted.append(number)
    assert len(accepted) >= 5
    lines = reference_lines(losses)
    for number in accepted:
        lines[number] += ", accepted"
    assert run.lines == lines
    assert (run.record["accepted"], run.record["best_trial"]) == (len(accepted), accepted[-1])
    assert run.record["initial_loss"] == pytest.approx(initial, rel=1e-12)
    np.testing.assert_array_equal(np.load(run.path / "weights.npy"), W)
    assert [row["trial"] for row in run.trials if row["accepted"] == "True"] == [
        *map(str, accepted)
    ]
    assert [float(row["loss"]) for row in run.trials] == pytest.approx(losses, rel=1e-12)


@pytest.mark.parametrize("kind", GIVEN)
def test_record_is_complete_and_matches_the_formulas(search: Any, store: Path, kind: str) -> None:
    run = search(kind, "--json")
    record, W = run.record, np.load(run.path / "weights.npy")
    assert run.finished.result == record
    assert (record["command"], record["status"]) == (f"search {kind}", "done")
    assert record["parameters"] == asdict(RANDOM if kind == "random" else LOCAL)
    assert record["loss"] == record["best_loss"]  # bit-identical: both are the same exact sum
    assert float(run.trials[record["best_trial"]]["loss"]) == record["best_loss"]
    assert record["trials_per_second"] > 0
    assert record["timings"].keys() == {"loading", "searching", "seconds"}
    for split in SPLITS:
        X, y = read(open_dataset(str(store)), split)
        accuracy = np.mean((X @ W.T).argmax(axis=1) == y)
        assert record[f"{split}_accuracy"] == pytest.approx(accuracy, abs=1e-9)
    pictures = {"trials.png", "histogram.png"} if kind == "random" else {"trials.png"}
    assert {path.name for path in run.path.glob("*.png")} == pictures
    for name in pictures:
        with Image.open(run.path / name) as picture:
            assert picture.format == "PNG"


@pytest.mark.slow
@pytest.mark.parametrize("kind", GIVEN)
def test_text_summary_matches_the_record(search: Any, kind: str) -> None:
    run = search(kind)
    said = dict(line.split(maxsplit=1) for line in run.finished.out.splitlines())
    assert said["status"].startswith("done after 37 trials, ")
    loss, trial = run.record["best_loss"], run.record["best_trial"]
    assert said["best"] == f"loss {loss:.6f} in trial {trial}"
    assert f"{run.record['test_accuracy']:.2%} of the test images" in said["accuracy"]
    assert run.record["weights_sha256"][:16] in said["weights"]
    assert len(run.finished.err.splitlines()) == 1 + 37  # the dashboard, and one line per trial


@pytest.mark.slow
def test_result_does_not_depend_on_the_block_size(search: Any) -> None:
    first = search("random", "--block", 5)
    cluster = first.record["cluster"]
    assert cluster.pop("versions")["numpy"] == np.__version__  # another process started the workers
    assert cluster == {"workers": 2, "threads": 2, "block": 5}
    second = search("random", "--block", 512)
    assert (same(first.record), first.trials) == (same(second.record), second.trials)


@pytest.mark.slow
@pytest.mark.parametrize("kind", GIVEN)
def test_result_does_not_depend_on_the_number_of_workers(
    user: User, search: Any, store: Path, tmp_path: Path, kind: str
) -> None:
    given = ("search", kind, "--store", store, *GIVEN[kind], "--workers", 1, "--json")
    alone = user.hinge(*given, cwd=tmp_path)
    assert alone.status == 0, alone.err
    assert alone.result["cluster"]["workers"] == 1
    assert same(alone.result) == same(search(kind).record)


def test_first_of_several_equal_trials_is_the_best() -> None:
    losses = np.array([9.5, 9.25, 9.5, 9.25])
    np.testing.assert_array_equal(RANDOM.best_weights(losses, 10), RANDOM.weights(1, 10))
    first_two = LOCAL.best_weights(losses[:2], 10)
    np.testing.assert_array_equal(LOCAL.best_weights(losses, 10), first_two)


# -- as Prefect flows


@pytest.fixture
def prefect(user: User) -> Iterator[Any]:
    with (
        user.settings(),
        temporary_settings({"flows.heartbeat_frequency": None}),
        get_client(sync_client=True) as client,
    ):
        yield client


def shown(client: Any, runs: Path) -> tuple[str, list[str], dict[str, Any]]:
    """Return the name, the task names and the artifacts of the flow run that wrote to `runs`."""
    flow_run = flow_run_of(client, runs)
    assert flow_run.state.type == "COMPLETED"
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))  # the server returns at most 200
    tasks = client.read_task_runs(flow_run_filter=wanted)
    return flow_run.name, [run.name for run in tasks], artifacts_of(client, flow_run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "spans"),
    [
        ("random", ["trials 0 to 15", "trials 16 to 31", "trials 32 to 36"]),
        ("local", ["trials 0 to 31", "trials 32 to 36"]),
    ],
)
def test_search_creates_a_flow_run_with_one_task_per_block(
    search: Any, tmp_path: Path, prefect: Any, kind: str, spans: list[str]
) -> None:
    run = search(kind, *(["--block", 16] if kind == "random" else []))

    def tasks() -> list[str] | None:
        found = sorted(name for name in shown(prefect, tmp_path / "runs")[1] if " to " in name)
        return found if len(found) >= len(spans) else None

    assert until(tasks, "the task runs") == spans
    name, _, artifacts = shown(prefect, tmp_path / "runs")
    assert name.startswith(f"{kind}-search 37 x ")
    names = {path.stem for path in run.path.glob("*.png")} | {"run", "result", "best-trials"}
    assert artifacts.keys() == {f"search-{kind}-synthetic-{name}" for name in names}
    best = json.loads(artifacts[f"search-{kind}-synthetic-best-trials"].data)
    by_loss = sorted(run.trials, key=lambda row: float(row["loss"]))[:10]
    assert [row["trial"] for row in best] == [int(row["trial"]) for row in by_loss]
    assert all(run.record["run"] in artifact.description for artifact in artifacts.values())


@pytest.mark.slow
def test_flows_called_directly_match_the_commands(
    user: User, search: Any, store: Path, tmp_path: Path, prefect: Any
) -> None:
    sent: Any = asdict(RANDOM)  # as the API sends it
    at_random = search_random_flow(
        str(store), sent, runs=str(tmp_path / "a"), block=9, scheduler=user.scheduler
    )
    assert same(to_document(at_random)) == same(search("random").record)
    assert at_random.parameters == RANDOM
    locally = search_local_flow(
        str(store), LOCAL, runs=str(tmp_path / "b"), scheduler=user.scheduler
    )
    assert same(to_document(locally)) == same(search("local").record)
    with pytest.raises(ParameterTypeError, match="block"):
        search_random_flow(str(store), RANDOM, runs=str(tmp_path / "c"), block=513)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("kind", "flow"), [("random", search_random_flow), ("local", search_local_flow)]
)
def test_commands_and_flows_have_the_same_defaults(kind: str, flow: Any) -> None:
    [group] = [command_group.commands["search"]]
    command = group.commands[kind]  # type: ignore[attr-defined]
    options = command.make_context(kind, ["--store", "any"]).params
    defaults = {name: each.default for name, each in signature(flow.fn).parameters.items()}
    for name, value in asdict(defaults["parameters"]).items():
        assert options[name] == value, name
    assert options["trials"] == 1000  # as in the notes
    assert options.get("block") == defaults.get("block")


# -- plans and records


OLD_RECORDS: dict[str, dict[str, Any]] = {
    "random": {
        "run": "search-random-20261126-182008-cc4c0262",
        "parameters": {"trials": 200, "scale": 0.0001, "seed": 0},
        "cluster": {"workers": 2, "threads": 2, "block": 32},
        "trials": 200,
        "best_trial": 45,
        "best_loss": 8.42135258972798,
        "loss": 8.42135258972798,
        "test_loss": 8.468275052011577,
        "train_accuracy": 0.1297,
        "test_accuracy": 0.1244,
        "weights_sha256": "a161cb46259a74d2897e59f904fb7ba475cca587def81b73203ebbc980448158",
        "trials_per_second": 49.658704784727675,
        "timings": {"loading": 1.1, "searching": 4.027491270000041, "seconds": 6.264},
    },
    "local": {
        "run": "search-local-20261126-182023-0c842edc",
        "parameters": {"trials": 200, "init_scale": 0.001, "step_scale": 0.0001, "seed": 0},
        "cluster": {"workers": 2, "threads": 2},
        "trials": 200,
        "best_trial": 197,
        "best_loss": 16.61385069590158,
        "loss": 16.61385069590158,
        "test_loss": 16.504482904356305,
        "train_accuracy": 0.15238,
        "test_accuracy": 0.1538,
        "weights_sha256": "2f976bedac3b4fdb08b225e0c7923bb3bebbcb2b3fb0c9c41077da09664f870b",
        "trials_per_second": 4.050223759305795,
        "accepted": 42,
        "initial_loss": 21.445718973196655,
        "timings": {
            "loading": 1.6418876309999746,
            "searching": 49.37998784399997,
            "seconds": 52.99337472000002,
        },
    },
}
"""Records of finished searches written by version 0, without the fields in `OLD_HEADER`."""

OLD_HEADER: dict[str, Any] = {
    "status": "done",
    "seed": 0,
    "data": {
        "url": "cifar10.zarr",
        "name": "cifar10",
        "source": "CIFAR-10, binary version",
        "fingerprint": "4e553a0ce32eebf263dcc689c7ddffcf6ac3642318a9729eb20c3baea9422b9f",
        "format_version": 1,
        "classes": list(CLASSES),
        "rows": {"train": 50000, "test": 10000},
        "shards": {"train": 10, "test": 2},
        "shard_rows": 5000,
        "chunk_rows": 250,
    },
    "started": "2026-11-26T18:20:08+00:00",
    "finished": "2026-11-26T18:20:14+00:00",
    "versions": {"python": "3.11.7", "hinge": "0.1.0", "numpy": "2.4.6"},
    "machine": {"system": "Linux-6.18", "processor": "x86_64", "cores": 2},
}


@pytest.mark.parametrize(("kind", "of"), [("random", RANDOM_SEARCH), ("local", LOCAL_SEARCH)])
def test_version_0_record_opens(tmp_path: Path, kind: str, of: Any) -> None:
    old = OLD_HEADER | OLD_RECORDS[kind] | {"command": f"search {kind}"}
    (tmp_path / "result.json").write_text(json.dumps(old))
    record = of.read(RunDirectory(tmp_path))
    assert isinstance(record, FinishedRecord)
    assert record.parameters == of.parameters(**old["parameters"])
    assert record.result == of.result(**{each.name: old[each.name] for each in fields(of.result)})
    summary = {"summary": record.in_words()}
    assert json.loads(to_json(to_document(record))) == old | summary | {"record_version": 0}


JOURNAL_IDENTITIES = {
    "random": """{
  "command": "search random",
  "parameters": {
    "trials": 37,
    "scale": 0.001,
    "seed": 5
  },
  "fingerprint": "FINGERPRINT"
}""",
    "local": """{
  "command": "search local",
  "parameters": {
    "trials": 37,
    "init_scale": 0.001,
    "step_scale": 0.0001,
    "seed": 2
  },
  "fingerprint": "FINGERPRINT"
}""",
}
"""The identities that journals contain. They must not change, so that old runs can resume."""


@pytest.mark.parametrize("kind", JOURNAL_IDENTITIES)
def test_journal_identity_has_not_changed_between_versions(
    store: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "random":
        inputs = RANDOM_SEARCH.plan(str(store), tmp_path, RANDOM, block=8).inputs
    else:
        inputs = LOCAL_SEARCH.plan(str(store), tmp_path, LOCAL).inputs
    fingerprint = open_dataset(str(store)).fingerprint
    assert inputs.journal_identity == JOURNAL_IDENTITIES[kind].replace("FINGERPRINT", fingerprint)


@pytest.mark.parametrize("kind", GIVEN)
def test_command_plans_its_search_once(
    search: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[str] = []
    plan = RunKind.plan

    def counted(of: Any, *given: Any, **options: Any) -> Any:
        planned.append(of.command)
        return plan(of, *given, **options)

    monkeypatch.setattr(RunKind, "plan", counted)
    search(kind)
    assert planned == [f"search {kind}"]
