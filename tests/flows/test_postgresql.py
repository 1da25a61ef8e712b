"""Prefect's server on PostgreSQL: Debian's, in a directory and on a port of its own.

SQLite accepts what PostgreSQL refuses, such as `Infinity` in JSON. So the runs include one that
diverges to infinity.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas import TaskRun
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from flows.services.prefect_server import starting_server
from tests.flows.conftest import User, until
from tests.flows.test_flow_run_page import page_of

UNPRIVILEGED: dict[str, Any] = (
    {} if os.getuid() else {"user": "nobody", "group": "nogroup", "extra_groups": []}
)
"""Who runs PostgreSQL, which refuses to run as root."""


def postgresql_program(name: str) -> Path:
    """Return a program of the newest PostgreSQL. Debian installs it outside of the path."""
    installed = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    found = shutil.which(name) or max(
        installed, default=None, key=lambda path: float(path.parts[-3])
    )
    if found is None:
        pytest.skip(f"PostgreSQL's {name} is missing; install Debian's package postgresql")
    return Path(found)


def run(*command: object) -> str:
    """Run a program of PostgreSQL to its end, and return its output."""
    ended = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd="/",
        **UNPRIVILEGED,
    )
    assert ended.returncode == 0, ended.stderr
    return str(ended.stdout)


@contextmanager
def postgresql(directory: Path) -> Iterator[str]:
    """Run a new PostgreSQL on a free port of the loopback interface, and yield its address."""
    initdb, postgres = postgresql_program("initdb"), postgresql_program("postgres")
    run(initdb, "--username=prefect", "--auth=trust", "--no-sync", "--pgdata", directory / "data")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={directory}", "fsync=off")
    options = [part for setting in settings for part in ("-c", setting)]
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen(
            [postgres, "-D", directory / "data", "-p", str(port), *options],
            stdout=log,
            stderr=log,
            cwd="/",
            **UNPRIVILEGED,
        ) as process,
    ):
        try:
            until(lambda: answers(port, process), "PostgreSQL")
            yield f"prefect@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # disconnects its clients and ends
            process.wait(30)


def answers(port: int, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, "PostgreSQL has ended"
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of an empty database."""
    with tempfile.TemporaryDirectory() as directory:  # pytest's are closed to other users
        if UNPRIVILEGED:
            shutil.chown(directory, "nobody", "nogroup")
        with postgresql(Path(directory)) as address:
            yield address


@pytest.fixture(scope="module")
def on_postgresql(
    database: str, user: User, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[User]:
    """A user whose Prefect server stores everything in the database."""
    home = tmp_path_factory.mktemp("home-postgresql")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"postgresql+asyncpg://{database}")
        with starting_server(home / ".prefect") as server:
            yield replace(user, home=home, api=server.wait())
    assert not [*home.rglob("*.db")]  # SQLite's


@dataclass(frozen=True)
class Case:
    """A command, and what its flow run must have."""

    command: tuple[str, ...]
    message: str
    """A part of the message of the final state."""
    tasks: set[str]
    """The names of the task runs, besides `save results`."""
    series: str
    """The beginning of the keys of its artifacts."""
    artifacts: set[str]
    """The ends of the keys, besides those of the links, the result and the progress."""
    status: int = 0


CASES = {
    "sweep": Case(
        ("sweep",),
        "best ",
        {"gradient", "losses", "exact minimum"},
        "sweep-synthetic",
        {"step-sizes", "loss"},
    ),
    "search": Case(
        ("search", "random", "--trials", "30"),
        "best ",
        {"load", "trials 0 to 29", "evaluate on train", "evaluate on test"},
        "search-random-synthetic",
        {"best-trials", "trials", "histogram"},
    ),
    "check": Case(
        ("check", "--method", "black-box", "--coordinates", "50"),
        " 0 wrong; ",
        {"gradient", "differences", "black box"},
        "check-full-black-box-synthetic",
        {"worst", "histogram", "errors", "crossings"},
    ),
    "diverged": Case(
        ("train", "--steps", "9", "--step-size", "1e300"),
        "diverged: loss ",
        {"train", "evaluate on train", "evaluate on test"},
        "train-gd-synthetic",
        {"loss"},
        status=1,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_flow_run_on_postgresql_is_complete(
    name: str, on_postgresql: User, database: str, store: Path, tmp_path: Path
) -> None:
    case = CASES[name]
    scheduler = on_postgresql.scheduler
    ended = on_postgresql.hinge(
        *(*case.command, "--store", store, "--runs", "runs", "--scheduler", scheduler),
        cwd=tmp_path,
        PREFECT_API_URL=on_postgresql.api,
    )
    assert ended.status == case.status, ended.err
    with on_postgresql.settings(), get_client(sync_client=True) as client:
        page = page_of(client, on_postgresql, tmp_path / "runs")
        flow_run = page.flow_run
        this = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
        tasks = case.tasks | {"save results"}
        until(lambda: completed(client.read_task_runs(flow_run_filter=this)) == tasks, "its tasks")
    assert flow_run.state.type == "COMPLETED"
    assert case.message in flow_run.state.message
    shown = {key for key in page.artifacts if not key.endswith("-progress")}
    assert shown == {f"{case.series}-{end}" for end in case.artifacts | {"run", "result"}}
    assert f"result: {flow_run.state.message}" in "\n".join(page.log)
    # The rows are in PostgreSQL, and not in a database that the server has fallen back to.
    query = f"select name, state_type from flow_run where id = '{flow_run.id}'"
    address = f"postgresql://{database}"
    rows = run(postgresql_program("psql"), address, "--tuples-only", "--no-align", "-c", query)
    assert rows == f"{flow_run.name}|COMPLETED\n"


def completed(tasks: list[TaskRun]) -> set[str]:
    """Return the names of the task runs that have completed."""
    return {each.name for each in tasks if each.state and each.state.is_completed()}
