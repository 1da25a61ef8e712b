"""The flows as Prefect has them: run without a command, found again on the server."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import default_client
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.exceptions import ParameterTypeError
from prefect.settings import temporary_settings

from flows.ingest import ingest_flow
from flows.train import TrainingPlan, train_flow
from pipeline.errors import PipelineError
from pipeline.training import Method, TrainingParameters
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


def flow_run_of(client: Any, runs: Path) -> Any:
    """The flow run whose results went to `runs`, once it has ended."""

    def ended() -> Any:
        found = [run for run in client.read_flow_runs() if run.parameters["runs"] == str(runs)]
        return [run for run in found if run.state.type in ENDED]

    [run] = until(ended, "the flow run", 20)
    return run


def task_runs_of(client: Any, flow_run: Any, number: int) -> dict[str, str]:
    """The names and states of the flow run's tasks, once all are on the server."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))

    def ended() -> Any:
        found = client.read_task_runs(flow_run_filter=wanted)
        states = [run for run in found if run.state and run.state.type in ENDED]
        return states if len(states) == number else None

    return {run.name.rsplit("-", 1)[0]: run.state.type for run in until(ended, "tasks", 20)}


def test_a_command_is_a_flow_run_with_its_tasks_and_a_table(
    user: User, hinge: Command, store: Path, tmp_path: Path, prefect: Any
) -> None:
    given = ("train", "--store", store, "--steps", 3, "--scheduler", user.scheduler, "--json")
    result = hinge(*given).result
    flow_run = flow_run_of(prefect, tmp_path / "runs")
    assert flow_run.state.type == "COMPLETED"
    assert flow_run.parameters["parameters"]["steps"] == 3
    assert task_runs_of(prefect, flow_run, 4) == dict.fromkeys(
        ["train", "evaluate on train", "evaluate on test", "keep results"], "COMPLETED"
    )
    [table] = prefect.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
    )
    assert (table.key, table.type) == ("training", "table")
    assert result["run"] in table.description
    assert str(result["test_accuracy"]) in table.data


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
    sent: Any = {"method": "minibatch", "steps": 5, "batch_size": 32, "init": "normal:1e-3"}
    record = train_flow(
        str(store),
        sent,
        runs=str(tmp_path / "scheduled"),
        scheduler=user.scheduler,
    )
    assert record["status"] == "done"
    assert record["parameters"]["method"] == "minibatch"
    typed = hinge(
        *("train", "--store", store, "--method", "minibatch", "--steps", 5, "--batch-size", 32),
        *("--init", "normal:1e-3", "--scheduler", user.scheduler, "--json"),
    )
    assert typed.result["weights_sha256"] == record["weights_sha256"]
    assert flow_run_of(prefect, tmp_path / "scheduled").state.type == "COMPLETED"
    with pytest.raises(ValueError, match="No clients found"):
        default_client()  # the flow closed the one it opened


def test_a_flow_starts_a_cluster_of_its_own(store: Path, tmp_path: Path, prefect: Any) -> None:
    record = train_flow(str(store), TrainingParameters(steps=2), runs=str(tmp_path), workers=1)
    assert record["cluster"] == {"workers": 1, "threads": 1, "placement": "all-workers"}


@pytest.mark.parametrize("parameters", [{"steps": 0}, {"steps": 5, "method": "adam"}, {}])
def test_the_api_refuses_parameters_that_are_none(
    store: Path, tmp_path: Path, prefect: Any, parameters: Any
) -> None:
    with pytest.raises(ParameterTypeError):
        train_flow(str(store), parameters, runs=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_flows_raise_what_a_caller_can_mend(store: Path, tmp_path: Path, prefect: Any) -> None:
    with pytest.raises(DataError, match="no store"):
        train_flow(str(tmp_path / "nothing.zarr"), runs=str(tmp_path / "runs"))
    with pytest.raises(PipelineError, match="no run"):
        train_flow(str(store), resume="nothing", runs=str(tmp_path / "runs"))
    with pytest.raises(PipelineError, match="runs cannot be kept"):
        ingest_flow("synthetic:40", str(tmp_path / "s.zarr"), runs="/dev/null/runs")
    assert list(tmp_path.iterdir()) == []


def test_a_run_to_go_on_with_has_the_parameters_it_was_given(
    user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    """The enumerations too, by which the pipeline tells one method from another."""
    given = ("train", "--store", store, "--steps", 2, "--scheduler", user.scheduler, "--json")
    run = hinge(*given).result["run"]
    plan = TrainingPlan.resumed(str(store), tmp_path / "runs", run)
    assert plan.parameters == TrainingParameters(steps=2)
    assert plan.parameters.method is Method.GD
