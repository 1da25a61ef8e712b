"""What the page of a flow run shows: read back from the server with Prefect's client."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from distributed import Client
from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.sorting import FlowRunSort
from prefect.concurrency.sync import concurrency
from prefect.flow_engine import run_flow
from prefect.utilities.urls import url_for

from flows.cli import run_command
from flows.runs.report import TOPIC
from flows.services import retries
from flows.services.guarded_flow import BENCHMARK
from flows.services.prefect_server import prefect_server
from flows.sweep.flow import sweep_flow
from flows.train.flow import train_flow
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.stopping import request_stop
from pipeline.training import checkpoints
from pipeline.training.parameters import GradientDescent
from tests.flows.conftest import User, until


@pytest.fixture(scope="module")
def prefect(user: User) -> Iterator[Any]:
    with user.settings(), prefect_server(), get_client(sync_client=True) as client:
        yield client


@dataclass(frozen=True)
class Page:
    """A finished run, and its flow run as the server knows it."""

    record: dict[str, Any]
    flow_run: Any
    artifacts: dict[str, Any]
    """By key."""
    log: list[str]
    events: list[dict[str, Any]]
    """Prefect's events about the run."""
    dask_events: list[dict[str, Any]]


def page_of(prefect: Any, user: User, runs: Path) -> Page:
    """Return the page of the only run in `runs`."""
    [directory] = runs.iterdir()
    record = json.loads((directory / "result.json").read_text())
    flow_run = prefect.read_flow_run(record["flow_run"]["id"])
    ids = [flow_run.id]
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=ids))
    found = prefect.read_artifacts(artifact_filter=of_run)
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=ids))
    resource = {"resource": {"id": [f"hinge.run.{record['run']}"]}}

    def log() -> Any:
        messages = [line.message for line in prefect.read_logs(wanted, limit=200)]
        return messages if any("Finished in state" in line for line in messages) else None

    def events() -> Any:
        return prefect.request("POST", "/events/filter", json={"filter": resource}).json()["events"]

    with Client(user.scheduler) as client:
        sent = [event for _, event in client.get_events(TOPIC) if event["run"] == record["run"]]
    shown = {artifact.key: artifact for artifact in found}
    return Page(record, flow_run, shown, until(log, "the log"), until(events, "events"), sent)


def command(user: User, *given: object) -> int:
    return run_command([*map(str, given), "--scheduler", user.scheduler])


@pytest.fixture(scope="module")
def sweep(prefect: Any, user: User, store: Path, tmp_path_factory: Any) -> Page:
    runs = tmp_path_factory.mktemp("page") / "runs"
    assert command(user, "sweep", "--store", store, "--runs", runs) == 0
    return page_of(prefect, user, runs)


def test_flow_run_says_what_was_done_and_what_came_out(sweep: Page) -> None:
    assert sweep.flow_run.name == "sweep 1e-10..1e-1 at W0"
    assert set(sweep.flow_run.tags) == {"hinge", "sweep", "synthetic"}
    state, best = sweep.flow_run.state, sweep.record["best_loss"]
    assert (state.type, state.name) == ("COMPLETED", "Completed")
    assert state.message.startswith(f"best {best:.6f} at 1e-")
    assert "; exact " in state.message


def test_record_names_the_flow_run_and_its_page(sweep: Page, prefect: Any) -> None:
    assert sweep.record["flow_run"] == {
        "id": str(sweep.flow_run.id),
        "url": url_for(sweep.flow_run),
    }


def test_log_says_where_the_run_is_and_its_result(sweep: Page) -> None:
    text = "\n".join(sweep.log)
    for part in (
        f"run {sweep.record['run']} in /",
        "data: synthetic, ",
        "Dask dashboard: http",
        f"result: {sweep.flow_run.state.message}",
        f"best_loss: {sweep.record['best_loss']}",
    ):
        assert part in text


def test_artifacts_have_keys_by_experiment_and_data(sweep: Page) -> None:
    progress = "sweep-synthetic-sweep-progress"  # on a busy machine the sweep takes over 5 s
    assert sweep.artifacts.keys() - {progress} == {
        f"sweep-synthetic-{name}" for name in ("run", "step-sizes", "result", "loss")
    }
    assert all(sweep.record["run"] in each.description for each in sweep.artifacts.values())
    links = sweep.artifacts["sweep-synthetic-run"].data
    assert "[Dask dashboard](http" in links
    assert f"{sweep.record['run']}`" in links


def test_start_and_end_are_events_for_automations_and_for_the_dashboard(sweep: Page) -> None:
    [event] = sweep.events
    assert event["event"] == "hinge.run.done"
    assert event["payload"] == {"status": "done", "result": sweep.flow_run.state.message}
    assert event["resource"]["hinge.data"] == "synthetic"
    first, *progress, last = sweep.dask_events
    assert (first["event"], first["command"]) == ("started", "sweep")
    assert first["flow_run_url"] == sweep.record["flow_run"]["url"]
    assert first["parameters"]["exponents"] == "-10:-1"
    assert (progress[-1]["what"], progress[-1]["done"], progress[-1]["total"]) == ("sweep", 10, 10)
    assert (last["event"], last["status"]) == ("finished", "done")
    assert last["result"] == sweep.flow_run.state.message


def test_diverged_run_is_completed_and_called_diverged(
    prefect: Any, user: User, store: Path, tmp_path: Path
) -> None:
    given = ("train", "--store", store, "--runs", tmp_path / "runs", "--steps", 9)
    assert command(user, *given, "--step-size", "1e300") == 1
    page = page_of(prefect, user, tmp_path / "runs")
    state = page.flow_run.state
    assert (state.type, state.name) == ("COMPLETED", "Diverged")
    assert state.message.startswith("diverged: loss ")
    assert [event["event"] for event in page.events] == ["hinge.run.diverged"]


def test_interrupted_run_says_how_to_resume_it(
    prefect: Any, user: User, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoints.save

    def save_and_stop(*given: Any) -> None:
        save(*given)
        request_stop()

    monkeypatch.setattr(checkpoints, "save", save_and_stop)
    given = ("train", "--store", store, "--runs", tmp_path / "runs", "--steps", 50)
    assert command(user, *given, "--checkpoint-every", 10) == 130
    page = page_of(prefect, user, tmp_path / "runs")
    state, words = page.flow_run.state, f"interrupted; `hinge train --store {store} --resume "
    assert (state.type, state.name) == ("CRASHED", "Interrupted")
    assert state.message.startswith(words)
    assert page.record["run"] in state.message
    assert f"{page.record['run']}: {state.message}" in page.log
    assert [event["event"] for event in page.events] == ["hinge.run.interrupted"]


@pytest.mark.slow
def test_long_run_shows_its_progress(prefect: Any, user: User, store: Path, tmp_path: Path) -> None:
    """The step size is so small that the loss does not reach zero, which would end the run."""
    given = ("train", "--store", store, "--runs", tmp_path / "runs", "--method", "minibatch")
    assert command(user, *given, "--steps", 40_000, "--step-size", 1e-9) == 0
    page = page_of(prefect, user, tmp_path / "runs")
    progress = page.artifacts["train-minibatch-synthetic-train-progress"]
    assert (progress.type, float(progress.data)) == ("progress", 100.0)
    assert progress.description.startswith("train: 40,000 of 40,000, loss ")
    lines = [line for line in page.log if line.startswith("train: ")]
    assert lines
    assert "per second" in lines[0]
    sent = [event for event in page.dask_events if event["event"] == "progress"]
    assert len(sent) >= 10
    assert sent[-1]["loss"] > 0
    assert sent[-1]["rate"] > 0


def deployed(prefect: Any, flow: Any, name: str, parameters: dict[str, Any]) -> Any:
    """Create a flow run of a new deployment, as a schedule would, and return it."""
    flow_id = prefect.create_flow(flow)
    tags = ["hinge", flow.name]  # as in the catalogue
    deployment = prefect.create_deployment(flow_id, name=name, tags=tags)
    return prefect.create_flow_run_from_deployment(deployment, parameters=parameters)


def test_run_of_a_deployment_resumes_after_a_fault_and_ends_bit_identical(
    prefect: Any, user: User, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test images cannot be read until the first attempt, which has trained, has failed."""
    monkeypatch.setattr(retries, "RETRY_DELAY_SECONDS", 1)
    own = shutil.copytree(store, tmp_path / "own.zarr")
    hidden, images = tmp_path / "hidden", own / "test" / "images" / "c"
    undisturbed = train_flow(
        str(own), GradientDescent(steps=20), runs=str(tmp_path / "a"), scheduler=user.scheduler
    )
    images.rename(hidden)
    runs = tmp_path / "runs"
    sent = {"store": str(own), "parameters": {"steps": 20}, "runs": str(runs)}
    flow_run = deployed(prefect, train_flow, "retried", sent | {"scheduler": user.scheduler})
    returned = list[Any]()
    attempt = Thread(
        target=in_settings(user, lambda: returned.append(run_flow(train_flow, flow_run=flow_run)))
    )
    attempt.start()

    def state_name() -> str:
        name: str = prefect.read_flow_run(flow_run.id).state.name
        return name

    until(lambda: state_name() == "AwaitingRetry", "the first attempt to fail")
    [directory] = runs.iterdir()
    checkpoint = (directory / "checkpoint.npz").stat().st_mtime_ns
    assert json.loads((directory / "result.json").read_text())["status"] == "failed"
    hidden.rename(images)
    attempt.join()
    assert [*runs.iterdir()] == [directory]
    assert (directory / "checkpoint.npz").stat().st_mtime_ns == checkpoint  # no step was repeated
    record = json.loads((directory / "result.json").read_text())
    assert record["status"] == returned[0].status == "done"
    assert record["weights_sha256"] == undisturbed.result.weights_sha256
    assert record["test_loss"] == undisturbed.result.test_loss
    ended = prefect.read_flow_run(flow_run.id)
    assert (ended.state.type, ended.run_count) == ("COMPLETED", 2)
    assert {"hinge", "train", "gd", "synthetic"} <= set(ended.tags)


def test_bad_input_of_a_deployment_fails_at_once_in_one_line(
    prefect: Any, user: User, store: Path, tmp_path: Path
) -> None:
    sent = {"store": str(store), "resume": "nothing", "runs": str(tmp_path / "runs")}
    flow_run = deployed(prefect, train_flow, "refused", sent)
    with pytest.raises(PipelineError, match="no run 'nothing'"):
        run_flow(train_flow, flow_run=flow_run)
    ended = prefect.read_flow_run(flow_run.id)
    assert (ended.state.type, ended.run_count) == ("FAILED", 1)
    assert ended.state.message.startswith("no run 'nothing' in ")


def test_only_one_benchmark_runs_at_a_time(
    prefect: Any, user: User, store: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"

    def benchmark() -> None:
        with tags(BENCHMARK):
            sweep_flow(str(store), runs=str(runs), scheduler=user.scheduler)

    prefect.upsert_global_concurrency_limit_by_name("hinge-benchmark", 1)
    thread = Thread(target=in_settings(user, benchmark))
    with ExitStack() as other:
        other.enter_context(concurrency("hinge-benchmark", strict=True))
        thread.start()
        until(lambda: flow_run_of(prefect, runs), "the benchmark's flow run")
        time.sleep(0.5)
        assert not runs.exists()  # it waits
    thread.join()
    assert len([*runs.iterdir()]) == 1


def flow_run_of(prefect: Any, runs: Path) -> Any:
    """Return the running flow run with the parameter `runs`, if there is one."""
    found = prefect.read_flow_runs(sort=FlowRunSort.START_TIME_DESC)
    running = [run for run in found if run.state.type == "RUNNING"]
    return next((run for run in running if run.parameters.get("runs") == str(runs)), None)


def in_settings(user: User, function: Callable[[], Any]) -> Callable[[], None]:
    """Return the function for a thread, which does not inherit the settings of this one."""

    def run() -> None:
        with user.settings():
            function()

    return run
