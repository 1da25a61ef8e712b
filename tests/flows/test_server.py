"""The server is real in every test here: started, shared, killed and left as commands do it."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import prefect
import pytest
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.server.database import provide_database_interface
from prefect.settings import temporary_settings

from flows.services import local_server, server_process
from flows.services.errors import ServerError
from flows.services.local_server import LocalServer
from flows.services.prefect_server import prefect_server
from flows.services.process_identity import HostIdentity, ProcessIdentity
from storage.locks import open_lock, try_lock
from tests.flows.test_process_identity import ELSEWHERE

STATE = Path("hinge", f"server-{prefect.__version__}-{HostIdentity.current().digest}.json")

HOLD = """
import sys
from flows.services.prefect_server import prefect_server
with prefect_server() as url:
    print(url, flush=True)
    sys.stdin.read()
"""

HOLD_IN_A_CONTAINER = """
import fcntl, os, socket, struct, sys, urllib.request
from flows.services.prefect_server import prefect_server
with socket.socket() as any_socket:
    up = struct.pack("16sh", b"lo", 0x1)
    fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS: a new namespace's loopback is down
with prefect_server() as url:
    print(url, flush=True)
    sys.stdin.readline()
    print(urllib.request.urlopen(url + "/health").status, flush=True)
"""

CONTAINER = (
    *("unshare", "--user", "--map-root-user", "--pid", "--net", "--mount-proc"),
    *("--fork", "--kill-child"),
)
"""Runs a program in namespaces of its own, as a container does."""

RUN_A_FLOW = """
from prefect import flow
from flows.services.prefect_server import prefect_server
with prefect_server():
    flow(lambda: None, name="nothing")()
"""

MIGRATE = """
import asyncio
from prefect.server.database import provide_database_interface
asyncio.run(provide_database_interface().create_db())
"""


@task(cache_policy=NO_CACHE)
def double(number: int) -> int:
    return 2 * number


@flow
def doubled_twice(number: int) -> int:
    return double(double(number))


@pytest.fixture(scope="session")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which a flow ran once, under a server that has stopped."""
    home = tmp_path_factory.mktemp("used")
    with prefect_server(home):
        assert doubled_twice(3) == 12
    return home


@pytest.fixture
def home(used_home: Path, tmp_path: Path) -> Path:
    """A home of the test's own, its database migrated."""
    return Path(shutil.copytree(used_home, tmp_path / "home"))


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PREFECT_HOME": str(home), **more}


@contextmanager
def command(home: Path, *, quiet: bool = False) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds a server until its input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        text=True,
        env=environment(home),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def url_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def server_pid(home: Path) -> int:
    return int(json.loads((home / STATE).read_text())["process"]["pid"])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def schema(database: Path) -> dict[str, list[list[object]]]:
    """What a database's tables are made of, in an order that does not depend on their making."""
    connection = sqlite3.connect(database)
    try:
        objects = connection.execute("SELECT type, name FROM sqlite_master").fetchall()
        return {
            f"{kind} {name}": [
                sorted(
                    (
                        row[2:] if pragma == "foreign_key_list" else row
                        for row in connection.execute(f"PRAGMA {pragma}('{name}')")
                    ),
                    key=repr,
                )
                for pragma in ("table_xinfo", "foreign_key_list", "index_xinfo")
            ]
            for kind, name in objects
        } | {"revision": [connection.execute("SELECT * FROM alembic_version").fetchall()]}
    finally:
        connection.close()


@pytest.mark.slow
def test_records_of_a_flow_are_there_after_its_server_was_stopped(home: Path) -> None:
    with prefect_server(home), get_client(sync_client=True) as client:
        [flow_run] = client.read_flow_runs()
        task_runs = client.read_task_runs()
    assert flow_run.state_name == "Completed"
    assert [run.state_name for run in task_runs] == ["Completed", "Completed"]


@pytest.mark.slow
def test_commands_that_start_at_once_share_a_server_and_the_last_stops_it(home: Path) -> None:
    with command(home, quiet=True) as second, command(home) as first:
        url = url_of(first)
        assert url_of(second) == url
        first.communicate(timeout=30)
        assert first.returncode == 0
        assert answers(url)
        # Control-C in a terminal goes to the whole session: the server is not in it.
        assert os.getsid(server_pid(home)) not in (os.getsid(0), os.getsid(second.pid))
        second.send_signal(signal.SIGINT)
        second.communicate(timeout=30)
    assert not answers(url)


@pytest.mark.slow
def test_the_server_of_a_killed_command_is_reused_and_then_stopped(home: Path) -> None:
    with command(home) as killed:
        left_over = url_of(killed)
        killed.kill()
        killed.wait()
    assert answers(left_over)
    with prefect_server(home) as url:
        assert url == left_over
    assert not answers(left_over)


@contextmanager
def stranger(state: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that holds the lock on a state file and knows nothing of servers."""
    state.parent.mkdir(parents=True, exist_ok=True)
    lock = open_lock(state)
    assert try_lock(lock)
    with subprocess.Popen(["sleep", "600"], pass_fds=[lock]) as process:
        os.close(lock)  # the lock stays with the process
        try:
            yield process
        finally:
            process.kill()


def write_state(state: Path, process: object) -> None:
    state.write_text(json.dumps({"process": process, "url": "http://127.0.0.1:9/api"}))


@pytest.mark.parametrize("where", [*ELSEWHERE, "garbage", "an earlier release's file"])
def test_a_process_that_is_not_the_server_is_never_signalled(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_server, "START_SECONDS", 0.2)
    state = tmp_path / STATE
    with stranger(state) as process:
        identity = ProcessIdentity.of(process.pid)
        assert identity is not None
        if where in ELSEWHERE:
            write_state(state, ELSEWHERE[where](identity).to_json())
        elif where == "garbage":
            state.write_text("[1, 2")
        else:
            state.write_text(f'{{"pid": {process.pid}, "url": "http://127.0.0.1:9/api"}}')
        server = LocalServer(tmp_path)
        with pytest.raises(ServerError, match=f"gave up waiting for the .* that holds {state} to"):
            server.join()
        server.leave()
        assert process.poll() is None


def test_the_process_that_is_the_server_is_signalled(tmp_path: Path) -> None:
    with stranger(tmp_path / STATE) as process:
        identity = ProcessIdentity.of(process.pid)
        assert identity is not None
        write_state(tmp_path / STATE, identity.to_json())
        LocalServer(tmp_path).leave()
        assert process.wait(timeout=10) == -signal.SIGTERM


@pytest.mark.slow
def test_containers_that_share_a_home_have_a_server_each(home: Path) -> None:
    if subprocess.run([*CONTAINER, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody make namespaces")

    def container() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*CONTAINER, sys.executable, "-c", HOLD_IN_A_CONTAINER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(home),
        )

    with command(home) as outside, container() as first, container() as second:
        urls = [url_of(process) for process in (outside, first, second)]
        assert len(set(urls)) == 3
        assert len([*(home / "hinge").glob("*.json")]) == 3
        second.communicate("\n", timeout=60)
        assert second.returncode == 0
        out, _ = first.communicate("\n", timeout=60)
        assert out == "200\n"
        assert answers(urls[0])


def test_a_database_that_another_host_made_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "prefect.db"

    def migrate_slowly(interface: object, engine: Any) -> None:
        Path(engine.url.database).write_text("ours")
        database.write_text("theirs, and in use")

    monkeypatch.setattr(server_process, "_migrate", migrate_slowly)
    with temporary_settings({"server.database.connection_url": f"sqlite+aiosqlite:///{database}"}):
        server_process.create_database(provide_database_interface())
    assert database.read_text() == "theirs, and in use"
    assert [*tmp_path.iterdir()] == [database]


@pytest.mark.slow
def test_a_state_file_that_no_server_holds_is_ignored(home: Path) -> None:
    write_state(home / STATE, ProcessIdentity.current().to_json())
    with prefect_server(home) as url:
        assert url != "http://127.0.0.1:9/api"
        assert answers(url)


@pytest.mark.slow
def test_a_named_api_that_does_not_answer_is_one_line_at_once() -> None:
    started = time.monotonic()
    with (
        temporary_settings({"api.url": "http://127.0.0.1:9/api"}),
        pytest.raises(ServerError, match=r"^the Prefect API at http://127\.0\.0\.1:9/api .*$"),
        prefect_server(),
    ):
        pass
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_a_named_api_is_used_and_left_running(home: Path) -> None:
    with prefect_server(home) as url:
        with temporary_settings({"api.url": url}), prefect_server() as named:
            assert named.rstrip("/") == url
        assert answers(url)


@pytest.mark.slow
def test_a_server_that_cannot_start_is_one_line_that_names_its_log(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_text("not a database, and long enough to be looked at" * 100)
    with (
        pytest.raises(ServerError, match=r"^no Prefect server: .*\.log\)$"),
        prefect_server(tmp_path),
    ):
        pass


@pytest.mark.slow
def test_nothing_on_standard_output_and_nothing_outside_the_home(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "here").mkdir()
    finished = subprocess.run(
        [sys.executable, "-c", RUN_A_FLOW],
        env=environment(
            home,
            HOME=str(tmp_path / "user"),
            TMPDIR=str(tmp_path / "user"),
            HTTP_PROXY="http://127.0.0.1:9",
        ),
        cwd=tmp_path / "here",
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""
    assert [*(tmp_path / "user").iterdir(), *(tmp_path / "here").iterdir()] == []
    assert (home / STATE).with_suffix(".log").read_text() == ""


@pytest.mark.slow
def test_a_fresh_database_is_the_one_that_prefect_makes(used_home: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", MIGRATE], env=environment(tmp_path), check=True)
    assert schema(used_home / "prefect.db") == schema(tmp_path / "prefect.db")
