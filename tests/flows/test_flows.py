"""The flows as Prefect has them: run without a command, found again on the server."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields as dataclass_fields
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
from prefect.utilities.callables import parameter_schema

from flows.check.flow import check_flow
from flows.check.step_flow import check_step_flow
from flows.grid.flow import grid_flow
from flows.ingest.flow import ingest_flow
from flows.landscape.flow import landscape_flow
from flows.landscape.panels_flow import panels_flow
from flows.reproduce.flow import reproduce_flow
from flows.runs.record import ClusterSummary
from flows.search.flow import search_local_flow, search_random_flow
from flows.sweep.flow import sweep_flow
from flows.train.figures import draw_loss_curve
from flows.train.flow import TRAIN, train_flow
from pipeline.inputs.errors import PipelineError
from pipeline.training.parameters import METHODS, GradientDescent, Method, MiniBatches
from storage.errors import DataError
from tests.flows.conftest import Command, User, until

ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@pytest.fixture
def prefect(user: User) -> Iterator[Any]:
    """Prefect's settings as a worker of its own would have them, and a client."""
    with (
        user.settings(),
        temporary_settings({"flows.heartbeat_frequency": None}),
        get_client(sync_client=True) as client,
    ):
        yield client


def flow_run_of(client: Any, runs: Path, seconds: float = 20) -> Any:
    """The flow run whose results went to `runs`, once it has ended."""

    def ended() -> Any:
        found = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC)  # 200 at a time
        found = [run for run in found if run.parameters.get("runs") == str(runs)]
        return [run for run in found if run.state.type in ENDED]

    [run] = until(ended, "the flow run", seconds)
    return run


def task_runs_of(client: Any, flow_run: Any, number: int) -> dict[str, str]:
    """The names and states of the flow run's tasks, once all are on the server."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))

    def ended() -> Any:
        found = client.read_task_runs(flow_run_filter=wanted)
        states = [run for run in found if run.state and run.state.type in ENDED]
        return states if len(states) == number else None

    return {run.name.rsplit("-", 1)[0]: run.state.type for run in until(ended, "tasks", 20)}


def artifacts_of(client: Any, flow_run: Any) -> dict[str, Any]:
    """The flow run's artifacts by their keys."""
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
    return {artifact.key: artifact for artifact in client.read_artifacts(artifact_filter=wanted)}


def test_a_command_is_a_flow_run_with_its_tasks_a_table_and_a_picture(
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
    assert shown.keys() == {"training", "loss"}
    assert all(result["run"] in artifact.description for artifact in shown.values())
    table = {row["result"]: row["value"] for row in json.loads(shown["training"].data)}
    assert table["status"] == "done"
    assert table["test_accuracy"] == result["test_accuracy"]
    picture = shown["loss"].data.split("data:image/png;base64,")[1].removesuffix(")")
    drawn = tmp_path / "runs" / result["run"] / "loss.png"
    assert base64.b64decode(picture) == drawn.read_bytes()


@pytest.mark.slow
def test_a_training_run_is_named_by_its_method_and_data(
    user: User, hinge: Command, store: Path, tmp_path: Path, prefect: Any
) -> None:
    given = ("train", "--store", store, "--scheduler", user.scheduler, "--json")
    result = hinge(*given, "--steps", 2, "--method", "minibatch").result
    assert flow_run_of(prefect, tmp_path / "runs").name == "minibatch on synthetic"
    with pytest.raises(PipelineError, match="no run"):
        train_flow(str(store), resume=result["run"], runs=str(tmp_path / "elsewhere"))
    assert flow_run_of(prefect, tmp_path / "elsewhere").name == f"{result['run']}, resumed"
    with pytest.raises(DataError):
        train_flow("nothing.zarr", runs=str(tmp_path / "nowhere"))
    assert flow_run_of(prefect, tmp_path / "nowhere").name == "gd on nothing.zarr"


@pytest.mark.slow
def test_the_picture_and_the_table_of_a_diverged_run_say_so(
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

    monkeypatch.setattr("flows.train.results.draw_loss_curve", noted)
    given = ("train", "--store", store, "--steps", 30, "--scheduler", user.scheduler)
    assert hinge(*given, "--step-size", "1e300").status == 1
    [title] = titles
    assert title.endswith(", step size 1e+300, diverged")
    shown = artifacts_of(prefect, flow_run_of(prefect, tmp_path / "runs"))
    assert shown["loss"].description.endswith("diverged")
    rows = {row["result"]: row["value"] for row in json.loads(shown["training"].data)}
    assert rows["status"] == "diverged"
    assert rows["loss"] in ("inf", "nan")


@pytest.mark.slow
def test_an_ingest_is_a_flow_run_too(
    user: User, hinge: Command, tmp_path: Path, prefect: Any
) -> None:
    given = ("ingest", "synthetic:40", "--store", tmp_path / "s.zarr")
    assert hinge(*given, "--scheduler", user.scheduler).status == 0
    flow_run = flow_run_of(prefect, tmp_path / "runs")
    assert flow_run.state.type == "COMPLETED"
    assert flow_run.name == f"synthetic:40 to {tmp_path / 's.zarr'}"
    assert set(task_runs_of(prefect, flow_run, 2).values()) == {"COMPLETED"}


def test_a_failing_flow_is_failed_on_the_server(
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


def test_a_flow_runs_without_a_command_and_with_parameters_as_the_api_sends_them(
    user: User, hinge: Command, store: Path, tmp_path: Path, prefect: Any
) -> None:
    """As from a schedule: JSON in, a session of its own, and the same bits as by the command."""
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
    assert open_client() is before  # the flow closed the one it opened


def open_client() -> Client | None:
    """The newest that has not been closed."""
    try:
        client: Client = default_client()
    except ValueError:
        return None
    return client


@pytest.mark.slow
def test_a_flow_starts_a_cluster_of_its_own(store: Path, tmp_path: Path, prefect: Any) -> None:
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
)
def test_the_api_refuses_parameters_that_are_none(
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
def test_the_api_may_send_null_for_what_it_leaves_to_the_flow(called: Any) -> None:
    sent = dict.fromkeys(["resume", "workers", "scheduler"])
    taken = called.validate_parameters({"store": "a.zarr", **sent})
    assert [taken[name] for name in sent] == ["", 0, ""]


def test_parameters_without_a_method_are_those_of_gradient_descent() -> None:
    """As the API had it before methods had classes of their own."""
    taken = train_flow.validate_parameters({"store": "a.zarr", "parameters": {"steps": 5}})
    assert taken["parameters"] == GradientDescent(steps=5)


def test_the_flows_raise_what_a_caller_can_fix(store: Path, tmp_path: Path, prefect: Any) -> None:
    with pytest.raises(DataError, match="no store"):
        train_flow(str(tmp_path / "nothing.zarr"), runs=str(tmp_path / "runs"))
    with pytest.raises(PipelineError, match="no run"):
        train_flow(str(store), resume="nothing", runs=str(tmp_path / "runs"))
    with pytest.raises(PipelineError, match="runs cannot be kept"):
        ingest_flow("synthetic:40", str(tmp_path / "s.zarr"), runs="/dev/null/runs")
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_has_the_parameters_it_was_given(
    user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    """The enumerations too, by which the pipeline tells one method from another."""
    given = ("train", "--store", store, "--steps", 2, "--scheduler", user.scheduler, "--json")
    run = hinge(*given).result["run"]
    plan = TRAIN.plan(str(store), tmp_path / "runs", GradientDescent(steps=9), run)
    assert plan.parameters == GradientDescent(steps=2)
    assert plan.parameters.method is Method.GD


FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    # what a person sees of each method in Prefect: its class, and some defaults and bounds
    "gd": ("GradientDescent", {"steps": 200, "step_size": 1e-7, "placement": "auto"}),
    "minibatch": ("MiniBatches", {"steps": 3000, "batch_size": 256, "step_size": 1e-7}),
    "lbfgs": ("LBFGS", {"steps": 30, "tolerance": 0.0, "reg": 0.0}),
    "smoothed": ("SmoothedHinge", {"steps": 200, "gap": 1e-3, "reg": 1e3, "reg_bias": True}),
}
NUMBERS = {"integer", "number"}


def alternatives(field: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = field.get("anyOf", [field])
    return found


def test_prefect_has_a_form_for_every_method() -> None:
    schema = parameter_schema(train_flow.fn)
    methods = schema.properties["parameters"]["discriminator"]["mapping"]
    assert methods == {method: f"#/definitions/{name}" for method, (name, _) in FORMS.items()}
    for method, (name, defaults) in FORMS.items():
        form = schema.definitions[name]
        fields = form["properties"]
        assert form["description"]
        assert not form["additionalProperties"]
        assert "required" not in form
        assert fields.keys() == {field.name for field in dataclass_fields(METHODS[method])}
        assert fields["method"]["const"] == method
        assert {field: fields[field]["default"] for field in defaults} == defaults
        for field, shown in fields.items():
            described = (
                schema.definitions[shown["$ref"].split("/")[-1]] if "$ref" in shown else shown
            )
            assert "default" in shown, (method, field)
            assert field == "method" or described["description"], (method, field)
            for each in alternatives(shown):
                if each.get("type") in NUMBERS:
                    assert each.keys() & {"minimum", "exclusiveMinimum"}, (method, field)
    assert schema.properties["parameters"]["default"]["method"] == "gd"
    assert schema.properties["checkpoint_every"]["default"] == "auto"
    assert alternatives(schema.properties["checkpoint_every"])[0]["minimum"] == 0
    assert schema.required == ["store"]
    assert all(shown["description"] for shown in schema.properties.values())


SERVE = """
import sys
from flows.search.flow import search_random_flow
search_random_flow.serve(name=sys.argv[1], print_starting_message=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, 1])
def test_a_scheduled_run_that_is_cancelled_says_so_and_can_be_resumed(
    user: User, hinge: Command, store: Path, tmp_path: Path, prefect: Any, workers: int | None
) -> None:
    """A run of a deployment, on a cluster that is there and on one of its own."""
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
    """End what serves a deployment.

    Prefect's handler of SIGTERM raises SystemExit, and where that strikes in a callback of a
    weak reference Python prints it, and goes on: so it is sent again.
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
