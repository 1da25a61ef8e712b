"""Deployments served by `hinge serve`: on a schedule, through the API, and from a missing store."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    DeploymentFilter,
    DeploymentFilterName,
)
from prefect.states import AwaitingRetry, Cancelling

from tests.flows.conftest import Command, User, first_result, until

SECONDS = 300.0
"""Time limit for flow runs on a busy machine."""


def completed_runs_of(client: SyncPrefectClient, deployment: str) -> list[FlowRun]:
    these = DeploymentFilter(name=DeploymentFilterName(any_=[deployment]))
    found = client.read_flow_runs(deployment_filter=these)
    return [each for each in found if each.state and each.state.is_completed()]


def completed(client: SyncPrefectClient, run: FlowRun) -> Callable[[], FlowRun | None]:
    """Return a function that returns the run when it has completed."""

    def look() -> FlowRun | None:
        now = client.read_flow_run(run.id)
        assert now.state is not None
        assert now.state.type.value not in {"FAILED", "CRASHED", "CANCELLED"}, now.state
        return now if now.state.is_completed() else None

    return look


def is_cancelled(client: SyncPrefectClient, run: FlowRun) -> bool:
    state = client.read_flow_run(run.id).state
    return state is not None and state.is_cancelled()


def artifact_keys(client: SyncPrefectClient, run: FlowRun) -> set[str | None]:
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
    return {each.key for each in client.read_artifacts(artifact_filter=of_run)}


@contextmanager
def serving(
    user: User, directory: Path, *options: object, end: int = signal.SIGTERM
) -> Iterator[dict[str, Any]]:
    """Hold `hinge serve` on the user's cluster in the block, and yield the addresses it prints.

    It ends with SIGTERM, or with SIGINT, which all its processes get, as from a terminal.
    """
    serve = user.start(
        *("serve", "--scheduler", user.scheduler, "--json", *options),
        cwd=directory,
        environment={"PREFECT_API_URL": user.api},
        stderr=None,
        start_new_session=True,  # a process group like that of a terminal's command
    )
    with serve:
        try:
            yield first_result(serve)
        finally:
            if end == signal.SIGINT:
                os.killpg(serve.pid, signal.SIGINT)
            else:
                serve.send_signal(end)
            serve.wait(60)
        assert serve.returncode == 0


def tasks_on(scheduler: Client) -> list[str]:
    """Return the keys of the tasks that workers are computing."""
    found: list[str] = scheduler.run_on_scheduler(
        lambda dask_scheduler: [
            str(task.key) for each in dask_scheduler.workers.values() for task in each.processing
        ]
    )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_end_of_the_workbench_interrupts_its_runs(
    user: User, store: Path, tmp_path: Path, number: int
) -> None:
    runs = tmp_path / "served"
    with user.settings(), get_client(sync_client=True) as client:
        with serving(user, tmp_path, "--store", store, "--runs", runs, end=number):
            deployment = client.read_deployment_by_name("search random/hinge-search-random")
            created = client.create_flow_run_from_deployment(
                deployment.id, parameters={"parameters": {"trials": 20_000}, "block": 4}
            )
            [journal] = until(lambda: [*runs.glob("*/journal.sqlite")], "the search", SECONDS)
        until(lambda: is_cancelled(client, created), "the cancelled state")
    record = json.loads((journal.parent / "result.json").read_text())
    assert record["status"] == "interrupted"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cancelled_run_frees_the_workers_and_its_retry_ends_bit_identical(
    user: User, hinge: Command, store: Path, tmp_path: Path
) -> None:
    parameters: Any = {"trials": 3_000, "seed": 4}
    undisturbed = hinge(
        *("search", "random", "--store", store, "--scheduler", user.scheduler),
        *("--trials", 3_000, "--seed", 4, "--json"),
    ).result
    runs = tmp_path / "served"
    with (
        serving(user, tmp_path, "--store", store, "--runs", runs),
        user.settings(),
        get_client(sync_client=True) as client,
        Client(user.scheduler, set_as_default=False) as scheduler,
    ):
        deployment = client.read_deployment_by_name("search random/hinge-search-random")
        created = client.create_flow_run_from_deployment(
            deployment.id, parameters={"parameters": parameters, "block": 4}
        )
        [journal] = until(lambda: [*runs.glob("*/journal.sqlite")], "the search", SECONDS)
        until(lambda: tasks_on(scheduler), "a task of the search", SECONDS)
        client.set_flow_run_state(created.id, Cancelling())
        until(
            lambda: "interrupted" in (journal.parent / "result.json").read_text(),
            "the interruption",
            SECONDS,
        )
        until(lambda: not tasks_on(scheduler), "the workers to be free", 5)
        until(lambda: is_cancelled(client, created), "the cancelled state")
        client.set_flow_run_state(created.id, AwaitingRetry(), force=True)
        until(completed(client, created), "the retried run", SECONDS)
    [record] = [json.loads(file.read_text()) for file in runs.glob("*/result.json")]
    assert record["status"] == "done"
    assert record["flow_run"]["id"] == str(created.id)
    for name in ("weights_sha256", "best_trial", "best_loss", "loss", "test_loss"):
        assert record[name] == undisturbed[name], name


@pytest.mark.slow
def test_served_deployments_run_on_a_schedule_and_through_the_api(
    user: User, tmp_path: Path
) -> None:
    """The store does not exist, so the first run ingests it, and the run beside it waits."""
    runs, store = tmp_path / "runs", tmp_path / "new.zarr"
    (tmp_path / "flows").mkdir()  # must not shadow the package
    (tmp_path / "flows" / "__init__.py").touch()
    given = ("--store", store, "--source", "synthetic:600", "--schedule", "sweep=5")
    with user.settings(), get_client(sync_client=True) as client:
        with serving(user, tmp_path, *given) as addresses:
            assert addresses["runs"] == str(runs)
            deployment = client.read_deployment_by_name("train/hinge-train")
            parameters: Any = {"method": "lbfgs", "steps": 2}
            created = client.create_flow_run_from_deployment(
                deployment.id, parameters={"parameters": parameters}
            )
            trained = until(completed(client, created), "a run of hinge-train", SECONDS)
            assert trained.parameters["store"] == str(store)
            assert "loss" in " ".join(map(str, artifact_keys(client, trained)))
            sweeps = partial(completed_runs_of, client, "hinge-sweep")
            until(lambda: len(sweeps()) >= 2, "two sweeps", SECONDS)
        assert all(sweep.auto_scheduled for sweep in sweeps())
        assert client.read_deployment_by_name("sweep/hinge-sweep").paused
    records = [json.loads(file.read_text()) for file in runs.glob("*/result.json")]
    [record] = [each for each in records if each["command"] == "train"]
    assert record["parameters"]["steps"] == 2
    assert record["status"] == "done"
    assert sum(each["command"] == "ingest" for each in records) == 1
