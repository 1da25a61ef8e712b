"""Flows in Prefect: flows called without a command, and flow runs read from the server."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, default_client
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, ParameterTypeError
from prefect.settings import temporary_settings

from flows.check.flow import check_flow
from flows.check.step_flow import check_step_flow
from flows.grid.flow import grid_flow
from flows.ingest.flow import ingest_flow
from flows.landscape.flow import landscape_flow
from flows.landscape.panels_flow import panels_flow
from flows.reproduce.flow import reproduce_flow
from flows.runs.record import ClusterSummary
from flows.runs.report import RunReport
from flows.search.flow import search_local_flow, search_random_flow
from flows.sweep.flow import sweep_flow
from flows.train.figures import draw_loss_curve
from flows.train.flow import TRAIN, train_flow
from pipeline.inputs.errors import PipelineError
from pipeline.training.parameters import GradientDescent, Method, MiniBatches
from storage.errors import DataError
from tests.flows.conftest import Command, User, until

ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@pytest.fixture
def prefect(user: User) -> Iterator[Any]:
    """A Prefect client.

    Its settings turn off heartbeats, and also apply to flows that a test calls.
    """
    with (
        user.settings(),
        temporary_settings({"flows.heartbeat_frequency": None}),
        get_client(sync_client=True) as client,
    ):
        yield client


def flow_run_of(client: Any, runs: Path, seconds: float = 20) -> Any:
    """Wait until the flow run with the parameter `runs` has ended, and return it."""

    def ended() -> Any:
        found = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC)  # the latest 200
        found = [run for run in found if run.parameters.get("runs") == str(runs)]
        return [run for run in found if run.state.type in ENDED]

    [run] = until(ended, "the flow run", seconds)
    return run


def task_runs_of(client: Any, flow_run: Any, number: int) -> dict[str, str]:
    """Wait until `number` task runs of the flow run have ended; return their names and states."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))

    def ended() -> Any:
        found = client.read_task_runs(flow_run_filter=wanted)
        states = [run for run in found if run.state and run.state.type in ENDED]
        return states if len(states) == number else None

    return {run.name: run.state.type for run in until(ended, "tasks", 20)}


def artifacts_of(client: Any, flow_run: Any) -> dict[str, Any]:
    """Return the flow run's artifacts by key."""
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
    return {artifact.key: artifact for artifact in client.read_artifacts(artifact_filter=wanted)}


def test_command_creates_a_flow_run_with_tasks_and_artifacts(
    user: User, hinge: Command, store: Path, tmp_path: Path, prefect: Any
) -> None:
    given = ("train", "--store", store, "--steps", 3, "--scheduler", user.scheduler, "--json")
    result = hinge(*given).result
    flow_run = flow_run_of(prefect, tmp_path / "runs")
    assert flow_run.state.type == "COMPLETED"
    assert flow_run.parameters["parameters"]["steps"] == 3
    assert task_runs_of(prefect, flow_run, 4) == dict.fromkeys(
        ["train", "evaluate on train", "evaluate on test", "save results"], "COMPLETED"
    )
    shown = artifacts_of(prefect, flow_run)
    series = "train-gd-synthetic"
    assert shown.keys() == {f"{series}-{name}" for name in ("run", "result", "loss")}
    assert all(result["run"] in artifact.description for artifact in shown.values())
    table = {row["result"]: row["value"] for row in json.loads(shown[f"{series}-result"].data)}
    assert table["status"] == "done"
    assert table["test_accuracy"] == result["test_accuracy"]
    picture = shown[f"{series}-loss"].data.split("data:image/png;base64,")[1].removesuffix(")")
    drawn = tmp_path / "runs" / result["run"] / "loss.png"
    assert base64.b64decode(picture) == drawn.read_bytes()


@pytest.mark.slow
def test_training_flow_run_is_named_by_its_parameters_or_the_run_to_resume(
    user: User, hinge: Command, store: Path, tmp_path: Path, prefect: Any
) -> None:
    given = ("train", "--store", store, "--scheduler", user.scheduler, "--json")
    result = hinge(*given, "--steps", 2, "--method", "minibatch").result
    assert flow_run_of(prefect, tmp_path / "runs").name == "minibatch 2 x 256 x 1e-7 seed 0"
    with pytest.raises(PipelineError, match="no run"):
        train_flow(str(store), resume=result["run"], runs=str(tmp_path / "elsewhere"))
    assert flow_run_of(prefect, tmp_path / "elsewhere").name == f"{result['run']}, resumed"
    with pytest.raises(DataError):
        train_flow("nothing.zarr", runs=str(tmp_path / "nowhere"))
    assert flow_run_of(prefect, tmp_path / "nowhere").name == "gd 200 x 1e-7"


@pytest.mark.slow
def test_artifacts_of_a_diverged_run_report_the_divergence(
    user: User,
    hinge: Command,
    store: Path,
    tmp_path: Path,
    prefect: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    titles: list[str] = []

    def noted(*given: Any, title: str, **more: Any) -> None:
        titles.append(title)
        draw_loss_curve(*given, title=title, **more)

    monkeypatch.setattr("flows.train.figures.draw_loss_curve", noted)
    # A worker would draw with the function that it imports.
    monkeypatch.setattr(RunReport, "draw", lambda _report, path, draw: draw(path))
    given = ("train", "--store", store, "--steps", 30, "--scheduler", user.scheduler)
    assert hinge(*given, "--step-size", "1e300").status == 1
    [title] = titles
    assert title.endswith(", step size 1e+300, diverged")
    shown = artifacts_of(prefect, flow_run_of(prefect, tmp_path / "runs"))
    assert shown["train-gd-synthetic-loss"].description.startswith("Loss, diverged;")
    rows = {
        row["result"]: row["value"] for row in json.loads(shown["train-gd-synthetic-result"].data)
    }
    assert rows["status"] == "diverged"
    assert rows["loss"] in ("inf", "nan")


@pytest.mark.slow
def test_ingest_creates_a_flow_run(
    user: User, hinge: Command, tmp_path: Path, prefect: Any
) -> None:
    given = ("ingest", "synthetic:40", "--store", tmp_path / "s.zarr")
    assert hinge(*given, "--scheduler", user.scheduler).status == 0
    flow_run = flow_run_of(prefect, tmp_path / "runs")
    assert flow_run.state.type == "COMPLETED"
    assert flow_run.name == f"ingest synthetic:40 to {tmp_path / 's.zarr'}"
    assert set(task_runs_of(prefect, flow_run, 2).values()) == {"COMPLETED"}


def test_failed_flow_run_has_the_state_failed_on_the_server(
    user: User, hinge: Command, store: Path, tmp_path: Path, prefect: Any
) -> None:
    damaged = shutil.copytree(store, tmp_path / "damaged.zarr")
    [file] = filter(Path.is_file, (damaged / "train" / "images" / "c" / "0").rglob("*"))
    file.write_bytes(file.read_bytes()[:-1000])
    finished = hinge("train", "--store", damaged, "--steps", 3, "--scheduler", user.scheduler)
    assert finished.status == 2
    flow_run = flow_run_of(prefect, tmp_path / "runs")
    assert flow_run.state.type == "FAILED"
    assert "train/images" in flow_run.state.message


def test_flow_with_json_parameters_matches_the_command(
    user: User, hinge: Command, store: Path, tmp_path: Path, prefect: Any
) -> None:
    """As in a scheduled run, the flow gets JSON parameters and opens its own session.

    Its weights are bit-identical to those of the command.
    """
    before = open_client()
    sent: Any = {"method": "minibatch", "steps": 5, "batch_size": 32, "init": "normal:1e-3"}
    record = train_flow(
        str(store),
        sent,
        runs=str(tmp_path / "scheduled"),
        scheduler=user.scheduler,
    )
    assert record.status == "done"
    assert record.parameters == MiniBatches(steps=5, batch_size=32, init="normal:1e-3")
    typed = hinge(
        *("train", "--store", store, "--method", "minibatch", "--steps", 5, "--batch-size", 32),
        *("--init", "normal:1e-3", "--scheduler", user.scheduler, "--json"),
    )
    assert typed.result["weights_sha256"] == record.result.weights_sha256
    assert flow_run_of(prefect, tmp_path / "scheduled").state.type == "COMPLETED"
    assert open_client() is before  # the flow has closed its own client


def open_client() -> Client | None:
    """Return the newest Dask client that is open, or None."""
    try:
        client: Client = default_client()
    except ValueError:
        return None
    return client


@pytest.mark.slow
def test_flow_starts_its_own_cluster(store: Path, tmp_path: Path, prefect: Any) -> None:
    record = train_flow(str(store), GradientDescent(steps=2), runs=str(tmp_path), workers=1)
    assert record.cluster == ClusterSummary(workers=1, threads=1, placement="all-workers")


@pytest.mark.parametrize(
    "parameters",
    [
        {"method": "gd", "steps": 0},
        {"method": "gd", "batch_size": 32},
        {"method": "smoothed", "reg": 0},
        {"method": "adam", "steps": 5},
    ],
    ids=["no steps", "parameter of another method", "no regulariser", "unknown method"],
)
def test_invalid_parameters_raise_parameter_type_error(
    store: Path, tmp_path: Path, prefect: Any, parameters: Any
) -> None:
    with pytest.raises(ParameterTypeError):
        train_flow(str(store), parameters, runs=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "called",
    [
        check_flow,
        check_step_flow,
        grid_flow,
        landscape_flow,
        panels_flow,
        reproduce_flow,
        search_local_flow,
        search_random_flow,
        sweep_flow,
        train_flow,
    ],
    ids=lambda called: str(called.name),
)
def test_null_parameters_are_replaced_by_defaults(called: Any) -> None:
    sent = dict.fromkeys(["resume", "workers", "scheduler"])
    taken = called.validate_parameters({"store": "a.zarr", **sent})
    assert [taken[name] for name in sent] == ["", 0, ""]


def test_parameters_without_a_method_are_for_gradient_descent() -> None:
    """Deployments that were made before each method had its own class do not send a method."""
    taken = train_flow.validate_parameters({"store": "a.zarr", "parameters": {"steps": 5}})
    assert taken["parameters"] == GradientDescent(steps=5)


def test_flows_raise_errors_that_the_caller_can_fix(
    store: Path, tmp_path: Path, prefect: Any
) -> None:
    with pytest.raises(DataError, match="no store"):
        train_flow(str(tmp_path / "nothing.zarr"), runs=str(tmp_path / "runs"))
    with pytest.raises(PipelineError, match="no run"):
        train_flow(str(store), resume="nothing", runs=str(tmp_path / "runs"))
    with pytest.raises(PipelineError, match="runs cannot be stored"):
        ingest_flow("synthetic:40", str(tmp_path / "s.zarr"), runs="/dev/null/runs")
    assert list(tmp_path.iterdir()) == []


def test_resumed_run_keeps_its_parameters(
    user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    """The enumerations are restored too; the pipeline uses them to distinguish the methods."""
    given = ("train", "--store", store, "--steps", 2, "--scheduler", user.scheduler, "--json")
    run = hinge(*given).result["run"]
    plan = TRAIN.plan(str(store), tmp_path / "runs", GradientDescent(steps=9), run)
    assert plan.parameters == GradientDescent(steps=2)
    assert plan.parameters.method is Method.GD


SERVE = """
import sys
from flows.search.flow import search_random_flow
search_random_flow.serve(name=sys.argv[1], print_starting_message=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, 1])
def test_cancelled_scheduled_run_is_recorded_and_can_be_resumed(
    user: User, hinge: Command, store: Path, tmp_path: Path, prefect: Any, workers: int | None
) -> None:
    """The run belongs to a deployment and uses an existing cluster or its own."""
    runs = tmp_path / "runs"
    parameters = {"trials": 2_000}
    cluster = {"workers": workers} if workers else {"scheduler": user.scheduler}
    sent = {"store": str(store), "runs": str(runs), "parameters": parameters, "block": 8, **cluster}
    environment = user.environment(PREFECT_API_URL=user.api)
    name, command = f"with {workers} workers", [sys.executable, "-c", SERVE]
    with subprocess.Popen([*command, name], env=environment, cwd=tmp_path) as server:
        try:
            deployment = until(lambda: deployment_of(prefect, f"search random/{name}"), name)
            created = prefect.create_flow_run_from_deployment(deployment.id, parameters=sent)
            [journal] = until(lambda: [*runs.glob("*/journal.sqlite")], "a run", 90)
            prefect.set_flow_run_state(created.id, State(type=StateType.CANCELLING))
            flow_run = flow_run_of(prefect, runs, 60)
        finally:
            stop(server)
    assert flow_run.id == created.id
    assert flow_run.state.type == "CANCELLED", flow_run.state
    record = json.loads((journal.parent / "result.json").read_text())
    assert record["status"] == "interrupted"
    given = ("search", "random", "--store", store, "--scheduler", user.scheduler)
    assert hinge(*given, "--resume", journal.parent).status == 0


def stop(server: "subprocess.Popen[bytes]") -> None:
    """Stop the process that serves a deployment.

    Prefect's SIGTERM handler raises SystemExit. If this happens in a callback of a weak reference,
    Python prints the exception and continues. The signal is therefore sent again.
    """
    for _ in range(6):
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(10)
            return
    server.kill()


def deployment_of(client: Any, name: str) -> Any:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None
