"""Deployments: their forms, what the server refuses, schedules, and `prefect.yaml`."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Event, Thread, current_thread, main_thread
from typing import Any
from uuid import UUID

import pytest
import yaml  # type: ignore[import-untyped]
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import PrefectHTTPStatusError, TerminationSignal
from prefect.runner import Runner
from prefect.settings import temporary_settings
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate

from flows.deployments.catalogue import CATALOGUE, CatalogueEntry, Defaults, make_deployments
from flows.deployments.ingest_first import POLL_SECONDS, ingest_or_wait
from flows.deployments.prefect_yaml import prefect_yaml
from flows.deployments.schedules import parse_schedules
from flows.deployments.serving import served
from flows.services.errors import ServerError
from flows.services.session import flow_session
from flows.sweep.flow import sweep_flow
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.stopping import pause
from pipeline.training.parameters import METHODS
from storage.claims import claim_store
from storage.dataset import open_dataset
from storage.location import Location
from storage.locks import is_locked
from tests.conftest import ROOT
from tests.flows.conftest import User, until

BY_COMMAND = {entry.command: entry for entry in CATALOGUE}

REQUIRED = {"store", "source"}
"""The parameters without a default: the store, and the source of an ingest."""

MAY_BE_NONE = {"extent", "path", "steps", "epochs"}
"""The fields of parameter classes that are None if they are not used."""

Json = dict[str, Any]


def forms(entry: CatalogueEntry) -> dict[str, Json]:
    """Return the fields of a deployment's form, by the name of their class and their own."""
    schema = parameter_schema(entry.load().fn)
    found = dict(schema.properties)
    for name, definition in schema.definitions.items():
        found |= {
            f"{name}.{field}": shown for field, shown in definition.get("properties", {}).items()
        }
    return found


def alternatives(shown: Json) -> list[Json]:
    """Return the types that a field may have, and those of its items."""
    types: list[Json] = shown.get("anyOf", [shown])
    return (
        [inner for each in types for inner in alternatives(each.get("items", {}))] + types
        if any("items" in each for each in types)
        else types
    )


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.command)
def test_form_describes_and_bounds_every_parameter(entry: CatalogueEntry) -> None:
    schema = parameter_schema(entry.load().fn)
    assert set(schema.required) == ({"store"} if entry.needs_store else {"source", "store"})
    for name, definition in schema.definitions.items():
        if "properties" in definition:
            assert definition["additionalProperties"] is False, name
    for name, shown in forms(entry).items():
        assert shown.get("description"), name
        assert shown.get("title") or "$ref" in shown, name
        own = name.split(".")[-1]
        assert "default" in shown or own in REQUIRED, name
        assert shown.get("default", 0) is not None or own in MAY_BE_NONE, name
        for each in alternatives(shown):
            if each.get("type") in {"integer", "number"}:
                assert each.keys() & {"minimum", "exclusiveMinimum"}, name


def test_form_states_the_bounds_in_words() -> None:
    shown = forms(BY_COMMAND["train"])
    assert (
        shown["MiniBatches.batch_size"]["description"]
        == "Images per mini-batch. Must be at least 1."
    )
    assert shown["SmoothedHinge.gap"]["description"].endswith("Must be above 0 and below 1.")


def test_flow_of_a_deployment_is_the_experiments_with_a_source() -> None:
    entry = BY_COMMAND["sweep"]
    deployed = entry.load()
    assert deployed.name == sweep_flow.name
    assert deployed.description == sweep_flow.description
    before, after = (parameter_schema(each.fn).properties for each in (sweep_flow, deployed))
    assert [*after] == ["store", "source", *[name for name in before if name != "store"]]


def problems(command: str, given: Json) -> list[str]:
    """Return what Prefect's server finds wrong with the parameters of a run."""
    schema = parameter_schema(BY_COMMAND[command].load().fn)
    needed = {"store": "/data/a.zarr", "runs": "/data/runs"}
    return [
        each.message for each in validate(needed | given, schema.model_dump(exclude_unset=True))
    ]


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("train", {"parameters": {"method": "gd", "steps": -5}}),
        ("train", {"parameters": {"method": "adam"}}),
        ("train", {"parameters": {"method": "lbfgs", "momentum": 0.9}}),
        ("train", {"parameters": {"method": "minibatch", "bach_size": 32}}),
        ("train", {"parameters": {"method": "gd", "init": "zeroes"}}),
        ("train", {"parameters": {"method": "gd", "schedule": "cosine"}}),
        ("train", {"parameters": {"method": "smoothed", "reg": 0}}),
        ("train", {"parameters": {"method": "smoothed", "reg_bias": False}}),
        ("train", {"checkpoint_every": "sometimes"}),
        ("train", {"workers": -1}),
        ("train", {"store": None}),
        ("search-random", {"parameters": {"trials": 0}}),
        ("search-random", {"block": 513}),
        ("search-local", {"parameters": {"step_scale": "small"}}),
        ("sweep", {"parameters": {"exponents": "-10..-1"}}),
        ("grid", {"parameters": {"step_sizes": [1e-7, -1e-7]}}),
        ("check", {"parameters": {"scheme": "backward"}}),
        ("check", {"parameters": {"examples": "last:5"}}),
        ("check-step", {"parameters": {"check": {"batch_size": 0}}}),
        ("landscape", {"parameters": {"dims": 3}}),
        ("panels", {"parameters": {"points": 1}}),
        ("reproduce", {"parameters": {"seed": -1}}),
        ("ingest", {"source": "download", "shard_rows": 0}),
    ],
    ids=str,
)  # fmt: skip
def test_form_refuses_bad_parameters(command: str, given: Json) -> None:
    assert problems(command, given)


def unchanged_form(command: str) -> Json:
    """Return what the form sends if nothing is changed: the default of every field."""
    schema = parameter_schema(BY_COMMAND[command].load().fn)
    unchanged = {
        name: shown["default"] for name, shown in schema.properties.items() if "default" in shown
    }
    return unchanged if BY_COMMAND[command].needs_store else unchanged | {"source": "synthetic"}


@pytest.mark.parametrize("command", BY_COMMAND)
def test_form_can_be_submitted_unchanged(command: str) -> None:
    given = unchanged_form(command)
    assert problems(command, given) == []
    BY_COMMAND[command].load().validate_parameters({"store": "/data/a.zarr", **given})


@pytest.mark.parametrize("method", METHODS)
def test_form_of_each_method_can_be_submitted_unchanged(method: str) -> None:
    """When a class is chosen in the form, it sends the default of every field of the class."""
    train = BY_COMMAND["train"].load()
    schema, kind = parameter_schema(train.fn), METHODS[method]
    assert {"$ref": f"#/definitions/{kind.__name__}"} in schema.properties["parameters"]["anyOf"]
    shown = schema.definitions[kind.__name__]["properties"]
    assert shown.keys() == {field.name for field in fields(kind)}
    given: Json = {"parameters": {name: field["default"] for name, field in shown.items()}}
    assert problems("train", given) == []
    made = train.validate_parameters({"store": "/data/a.zarr", **given})
    assert made["parameters"] == kind()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["sweep"], ["NAME=CRON", "'sweep'"]),
        (["sweeep=5"], ["NAME is one of", "sweeep"]),
        (["ingest=5"], ["NAME is one of"]),
        (["sweep="], ["NAME=CRON"]),
        (["sweep=at noon"], ["sweep", "cron", "'at noon'"]),
        (["sweep=0 25 * * *"], ["cron"]),
        (["sweep=-3"], ["at least 1 s", "-3"]),
        (["sweep=nan"], ["at least 1 s"]),
        (["sweep=60", "sweep=0 3 * * *"], ["two schedules for sweep"]),
    ],
)
def test_bad_schedule_is_refused_in_one_line(texts: list[str], words: list[str]) -> None:
    with pytest.raises(PipelineError) as refused:
        parse_schedules(texts, "a.zarr")
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_schedules_need_a_store() -> None:
    with pytest.raises(PipelineError, match="--store"):
        parse_schedules(["sweep=60"], "")
    assert parse_schedules([], "") == {}


@pytest.fixture(scope="module")
def made() -> dict[str, RunnerDeployment]:
    """The deployments by their names, with schedules of two of them."""
    schedules = parse_schedules(["sweep=0 3 * * *", "grid = 90"], "a.zarr")
    return {each.name: each for each in make_deployments(Defaults(Path("runs")), schedules)}


def test_schedule_is_part_of_its_deployment(made: dict[str, RunnerDeployment]) -> None:
    schedules = {name: deployment.schedules or [] for name, deployment in made.items()}
    [sweep] = schedules.pop("hinge-sweep")
    [grid] = schedules.pop("hinge-grid")
    assert sweep.schedule.cron == "0 3 * * *"  # type: ignore[union-attr]
    assert grid.schedule.interval.total_seconds() == 90  # type: ignore[union-attr]
    assert not any(schedules.values())


def test_second_run_waits_unless_a_schedule_would_pile_runs_up(
    made: dict[str, RunnerDeployment],
) -> None:
    for name, deployment in made.items():
        assert deployment.concurrency_limit == 1
        assert deployment.concurrency_options
        scheduled = name in {"hinge-sweep", "hinge-grid"}
        expected = "CANCEL_NEW" if scheduled else "ENQUEUE"
        assert deployment.concurrency_options.collision_strategy == expected


def test_prefect_yaml_is_that_of_the_catalogue(made: dict[str, RunnerDeployment]) -> None:
    """If this fails: python -m flows.deployments.prefect_yaml > prefect.yaml."""
    text = (ROOT / "prefect.yaml").read_text()
    assert text == prefect_yaml()
    written = {each["name"]: each for each in yaml.safe_load(text)["deployments"]}
    assert written.keys() == made.keys()
    for name, deployment in made.items():
        assert written[name]["entrypoint"] == deployment.entrypoint
        assert written[name]["tags"] == deployment.tags


@dataclass(frozen=True)
class Registered:
    """A server on which all deployments are registered, without a process that serves them."""

    client: SyncPrefectClient
    ids: dict[str, UUID]
    created: list[UUID]

    def create_run(self, command: str, given: Json) -> FlowRun:
        """Create a flow run of a deployment, which no process starts."""
        run = self.client.create_flow_run_from_deployment(
            self.ids[f"hinge-{command}"], parameters={"store": "/data/a.zarr", **given}
        )
        self.created.append(run.id)
        return run

    def delete_runs(self) -> None:
        """Delete the runs, which a `hinge serve` of another test would start."""
        for run in self.created:
            self.client.delete_flow_run(run)


@pytest.fixture(scope="module")
def server(user: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    deployments = make_deployments(Defaults(tmp_path_factory.mktemp("runs")), {})
    with user.settings(), get_client(sync_client=True) as client:
        ids = dict[str, UUID]()
        for each in deployments:
            registered = each.apply()
            assert isinstance(registered, UUID)
            ids[each.name] = registered
        server = Registered(client, ids, [])
        yield server
        server.delete_runs()


@pytest.mark.slow
def test_server_validates_the_parameters_of_a_run(server: Registered) -> None:
    with pytest.raises(PrefectHTTPStatusError, match="Validation failed"):
        server.create_run("train", {"parameters": {"method": "gd", "steps": -5}})
    for entry in CATALOGUE:
        created = server.create_run(entry.command, unchanged_form(entry.command))
        entry.load().validate_parameters(created.parameters)


@pytest.mark.slow
def test_deployments_have_absolute_paths_tags_and_limits(server: Registered) -> None:
    deployment = server.client.read_deployment_by_name("reproduce/hinge-reproduce")
    assert Path(deployment.parameters["runs"]).is_absolute()
    assert deployment.tags == ["hinge", "reproduce", "benchmark"]
    assert deployment.global_concurrency_limit
    assert deployment.global_concurrency_limit.limit == 1
    assert deployment.description
    assert deployment.version
    assert deployment.enforce_parameter_schema


@pytest.mark.slow
def test_run_waits_while_another_process_ingests_its_store(user: User, tmp_path: Path) -> None:
    store, released = str(tmp_path / "new.zarr"), Event()

    @flow
    def waiting() -> None:
        with flow_session(scheduler=user.scheduler):
            ingest_or_wait("synthetic:40", store, str(tmp_path / "runs"))

    with user.settings(), ThreadPoolExecutor() as threads:
        with_claim = threads.submit(hold_claim, store, released)
        until(lambda: is_locked(Path(Location.parse(store).claim.url)), "the claim")
        ingested = threads.submit(copy_context().run, waiting)
        time.sleep(2 * POLL_SECONDS)
        assert not ingested.done()
        released.set()
        ingested.result()
        with_claim.result()
    assert open_dataset(store).train_rows == 40


def test_only_one_of_several_runs_begins_the_ingest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ingest that has begun has no claim on the store until it writes."""
    begun, made = list[str](), Event()

    def slow_ingest(source: str, _store: str, runs: str) -> None:
        begun.append(source)
        time.sleep(0.5)
        made.set()

    module = "flows.deployments.ingest_first"
    monkeypatch.setattr(f"{module}.store_exists", lambda _: made.is_set())
    monkeypatch.setattr(f"{module}.ingest_flow", slow_ingest)
    monkeypatch.setattr(f"{module}.get_run_logger", logging.getLogger)
    monkeypatch.setattr(f"{module}.POLL_SECONDS", 0.05)
    store = str(tmp_path / "directory" / "new.zarr")
    with temporary_settings({"home": tmp_path / "home"}), ThreadPoolExecutor() as threads:
        runs = [
            threads.submit(copy_context().run, ingest_or_wait, str(i), store, "runs")
            for i in range(3)
        ]
        for run in runs:
            run.result()
    assert len(begun) == 1
    assert list((tmp_path / "home" / "hinge").iterdir()) == []
    assert not (tmp_path / "directory").exists()


def hold_claim(store: str, released: Event) -> None:
    with claim_store(Location.parse(store)):
        assert released.wait(60)


@pytest.mark.slow
def test_cancelled_run_stops_waiting_for_an_ingest(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect sends SIGTERM. Its handler raises an exception, which the work must not get."""
    store, waiting = str(tmp_path / "new.zarr"), list[Thread]()

    def cancel_and_pause(_seconds: float) -> None:
        waiting.append(current_thread())
        os.kill(os.getpid(), signal.SIGTERM)
        pause(60)
        raise AssertionError("the wait was not stopped")

    monkeypatch.setattr("flows.deployments.ingest_first.pause", cancel_and_pause)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with (
            claim_store(Location.parse(store)),
            user.settings(),
            pytest.raises(TerminationSignal),
        ):
            BY_COMMAND["sweep"].load()(
                store, "synthetic:40", runs=str(tmp_path / "runs"), scheduler=user.scheduler
            )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(waiting) == 1
    assert waiting[0] is not main_thread()
    assert not Path(store).exists()


@pytest.mark.slow
def test_end_of_the_runner_is_an_error_of_the_workbench(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's runner gives up after several failed requests."""

    async def give_up(_runner: Runner) -> None:
        raise RuntimeError("Service exceeded error threshold.")

    monkeypatch.setattr(Runner, "start", give_up)
    with user.settings(), served([]) as check:

        def failed() -> bool:
            with suppress(ServerError):
                check()
                return False
            return True

        until(failed, "the end of the runner")
        with pytest.raises(ServerError, match=r"deployments are no longer run: Service exceeded"):
            check()
