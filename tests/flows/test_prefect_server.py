"""The local Prefect server: started, shared, ended and replaced, with real processes."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import prefect
import psutil  # type: ignore[import-untyped]
import pytest
from prefect import flow
from prefect.settings import temporary_settings

from flows.services import local_server, server_ahead
from flows.services.errors import ServerError
from flows.services.local_server import LocalServer
from flows.services.prefect_server import prefect_server
from flows.services.process_identity import HostIdentity, ProcessIdentity
from flows.services.server_files import ServerFiles
from flows.services.tasks import task
from storage.locks import open_lock, try_lock
from tests.flows.conftest import HINGE, until
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
    fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS: enable the new namespace's loopback
with prefect_server() as url:
    print(url, flush=True)
    sys.stdin.readline()
    print(urllib.request.urlopen(url + "/health").status, flush=True)
"""

CONTAINER = (
    *("unshare", "--user", "--map-root-user", "--pid", "--net", "--mount-proc"),
    *("--fork", "--kill-child"),
)
"""Command prefix that runs a program in new namespaces, as a container does."""

RUN_A_FLOW = """
from prefect import flow
from flows.services.prefect_server import prefect_server
with prefect_server():
    flow(lambda: None, name="nothing")()
"""


LAUNCH = """
import sys
from flows.services.server_ahead import launch_server_ahead
launch_server_ahead()
assert "prefect" not in sys.modules
print(flush=True)
sys.stdin.read()
"""

IDLE = float(os.environ["HINGE_SERVER_IDLE_SECONDS"])


@task("double")
def double(number: int) -> int:
    return 2 * number


TASK_RUNS = 30


@flow
def double_often(number: int) -> int:
    for _ in range(TASK_RUNS):
        number = double(number)
    return number


@pytest.fixture(scope="session")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Prefect home in which a flow ran once, with a server that has ended."""
    home = tmp_path_factory.mktemp("used")
    with prefect_server(home):
        server = server_process(home)
        assert double_often(1) == 2**TASK_RUNS
    await_end(server)
    return home


@pytest.fixture
def home(used_home: Path, tmp_path: Path) -> Path:
    """A separate Prefect home for the test, with a migrated database."""
    return Path(shutil.copytree(used_home, tmp_path / "home"))


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PREFECT_HOME": str(home), **more}


@contextmanager
def command(home: Path, *, quiet: bool = False) -> Iterator["subprocess.Popen[str]"]:
    """Start another process that uses the server until its standard input is closed."""
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


def server_process(home: Path) -> psutil.Process:
    return psutil.Process(json.loads((home / STATE).read_text())["process"]["pid"])


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # its new parent may not wait for it
    except psutil.NoSuchProcess:
        return False


def await_end(server: psutil.Process, seconds: float = IDLE + 10) -> None:
    until(lambda: not runs(server), "the server to end", seconds)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_records_are_complete_when_the_server_has_ended(used_home: Path) -> None:
    with closing(sqlite3.connect(used_home / "prefect.db")) as database:
        flow_runs = database.execute("SELECT state_name FROM flow_run").fetchall()
        task_runs = database.execute("SELECT state_name FROM task_run").fetchall()
    assert flow_runs == [("Completed",)]
    assert task_runs == [("Completed",)] * TASK_RUNS


@pytest.mark.slow
def test_concurrent_commands_share_a_server_that_ends_after_the_last_one(home: Path) -> None:
    with command(home, quiet=True) as second, command(home) as first:
        url = url_of(first)
        assert url_of(second) == url
        first.communicate(timeout=30)
        assert first.returncode == 0
        time.sleep(IDLE + 1)
        assert answers(url)
        server = server_process(home)
        # Control-C in a terminal reaches its whole session, so the server needs its own.
        assert os.getsid(server.pid) not in (os.getsid(0), os.getsid(second.pid))
        second.send_signal(signal.SIGINT)
        second.communicate(timeout=30)
    await_end(server)


@pytest.mark.slow
def test_command_that_starts_soon_after_another_uses_its_server(home: Path) -> None:
    with prefect_server(home) as first:
        server = server_process(home)
    with prefect_server(home) as second:
        assert (second, server_process(home)) == (first, server)
        time.sleep(IDLE + 1)
        assert answers(second)


@pytest.mark.slow
def test_server_of_a_killed_command_is_used_by_the_next_and_ends_by_itself(home: Path) -> None:
    with command(home) as killed:
        left_over = url_of(killed)
        killed.kill()
        killed.wait()
    assert answers(left_over)
    with prefect_server(home) as url:
        assert url == left_over
        server = server_process(home)
    await_end(server)
    with prefect_server(home) as url:
        assert answers(url)
        assert server_process(home) != server


@contextmanager
def launching(home: Path, directory: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start another process that launches the server ahead and never uses it."""
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCH],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=environment(home, HINGE_SERVER_IDLE_SECONDS="60"),
    ) as process:
        url_of(process)  # it has launched the server
        yield process
        if process.poll() is None:
            process.communicate(timeout=30)


@pytest.mark.slow
def test_server_of_a_refused_command_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    refused = subprocess.run(
        [HINGE, "sweep", "--store", "nothing.zarr"],
        cwd=tmp_path / "here",
        env=environment(tmp_path, HINGE_SERVER_IDLE_SECONDS="60"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    files = ServerFiles(tmp_path)
    assert files.state.stat().st_size > 0  # it had been launched
    until(lambda: not files.is_there(), "the server to end", 10)
    assert [*(tmp_path / "here").iterdir()] == []


@pytest.mark.slow
def test_idle_server_that_is_launched_ahead_waits_for_its_use(home: Path) -> None:
    with prefect_server(home):
        server = server_process(home)
    with launching(home, home.parent):  # it only keeps the one that is there
        time.sleep(IDLE + 3)
        assert runs(server)
    await_end(server)


@pytest.mark.slow
def test_server_whose_home_is_removed_ends(home: Path) -> None:
    with prefect_server(home):
        server = server_process(home)
    shutil.rmtree(home, ignore_errors=True)  # the server may still write to it
    await_end(server)


@pytest.mark.slow
def test_server_that_is_to_end_with_the_command_has_written_its_records(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HINGE_SERVER_IDLE_SECONDS", "0")
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        database.execute("DELETE FROM task_run")
        database.commit()
        with prefect_server(home):
            server = server_process(home)
            double_often(1)
        assert not runs(server)
        states = database.execute("SELECT state_name FROM task_run").fetchall()
    assert states == [("Completed",)] * TASK_RUNS


@pytest.mark.slow
def test_server_launched_ahead_ends_with_a_command_that_does_not_use_it(home: Path) -> None:
    with launching(home, home.parent):
        server = server_process(home)
    await_end(server, 10)


@pytest.mark.slow
def test_server_launched_ahead_stays_for_another_command_that_uses_it(home: Path) -> None:
    with launching(home, home.parent) as launcher, command(home) as other:
        server, url = server_process(home), url_of(other)
        launcher.communicate(timeout=30)
        time.sleep(3)
        assert answers(url)
        assert server_process(home) == server
        other.communicate(timeout=30)
    time.sleep(IDLE + 3)
    assert runs(server)  # for 60 s after its last use
    server.terminate()
    await_end(server)


@pytest.mark.slow
def test_server_that_hangs_while_it_ends_is_killed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_server, "_END_SECONDS", 1.0)
    with prefect_server(home):
        server = server_process(home)
    users = open_lock(ServerFiles(home).users)
    assert try_lock(users)  # as the server does when it begins to end
    server.suspend()
    threading.Timer(3, os.close, [users]).start()  # the end of the process would release it
    with prefect_server(home) as url:
        assert answers(url)
        assert not runs(server)


@contextmanager
def stranger(state: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start an unrelated process that holds the lock on a state file."""
    state.parent.mkdir(parents=True, exist_ok=True)
    lock = open_lock(state)
    assert try_lock(lock)
    with subprocess.Popen(["sleep", "600"], pass_fds=[lock]) as process:
        os.close(lock)  # the process keeps the lock
        try:
            yield process
        finally:
            process.kill()


def write_state(state: Path, process: object) -> None:
    state.write_text(json.dumps({"process": process, "url": "http://127.0.0.1:9/api"}))


@pytest.mark.parametrize("where", [*ELSEWHERE, "garbage", "an earlier release's file"])
def test_process_that_is_not_the_server_is_never_signalled(
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
        with pytest.raises(
            ServerError, match=f"gave up waiting for the .* that holds the lock on {state} to"
        ):
            server.join()
        server.leave()
        assert process.poll() is None


@contextmanager
def foreign_server() -> Iterator[int]:
    """Answer every request with status 200, as another Prefect server might; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_answer_of_another_process_on_the_port_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_server, "START_SECONDS", 0.2)
    monkeypatch.setattr(local_server, "STOP_SECONDS", 0.2)
    with foreign_server() as port, stranger(tmp_path / STATE) as process:
        identity = ProcessIdentity.of(process.pid)
        assert identity is not None
        url = f"http://127.0.0.1:{port}"
        assert answers(url)
        (tmp_path / STATE).write_text(json.dumps({"process": identity.to_json(), "url": url}))
        server = LocalServer(tmp_path)
        monkeypatch.setattr(server, "_end_if_unused", lambda: None)
        with pytest.raises(ServerError, match="gave up waiting"):
            server.join()
        server.leave()


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [False, True])
def test_start_is_repeated_if_another_process_takes_the_port(
    home: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    with foreign_server() as taken:
        free_port, ports = local_server._free_port, [taken]
        monkeypatch.setattr(
            local_server, "_free_port", lambda wanted: ports.pop() if ports else free_port(wanted)
        )
        if ahead:
            server = server_ahead._launched[home] = LocalServer(home)
            server.launch()
        with prefect_server(home) as url:
            assert url != f"http://127.0.0.1:{taken}/api"
            assert answers(url)
            assert runs(server_process(home))
    assert ports == []


def test_server_that_hangs_without_users_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_server, "START_SECONDS", 0.2)
    with stranger(tmp_path / STATE) as process:
        identity = ProcessIdentity.of(process.pid)
        assert identity is not None
        write_state(tmp_path / STATE, identity.to_json())
        server = LocalServer(tmp_path)
        with pytest.raises(ServerError, match="gave up waiting"):
            server.join()  # it waits for a new server
        new = server_process(tmp_path)
        server.leave()
        assert process.wait(timeout=10) == -signal.SIGTERM
    await_end(new)


def test_time_that_is_not_a_number_is_refused_before_a_server_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HINGE_SERVER_IDLE_SECONDS", "a while")
    server = LocalServer(tmp_path)
    with pytest.raises(ServerError, match="HINGE_SERVER_IDLE_SECONDS is 'a while', not a number"):
        server.join()
    server.leave()
    assert not ServerFiles(tmp_path).is_there()


@pytest.mark.slow
def test_containers_that_share_a_home_have_separate_servers(home: Path) -> None:
    if subprocess.run([*CONTAINER, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not allow new namespaces")

    def container() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*CONTAINER, sys.executable, "-c", HOLD_IN_A_CONTAINER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(home),
        )

    with command(home) as outside, container() as first, container() as second:
        # Each has a network of its own, so all three may have the same URL.
        urls = [url_of(process) for process in (outside, first, second)]
        states = [*(home / "hinge").glob("server-*.json")]
        assert len(states) == 3  # a server is started only by the command that writes its state
        assert all(each.stat().st_size > 0 for each in states)
        second.communicate("\n", timeout=60)
        assert second.returncode == 0
        out, _ = first.communicate("\n", timeout=60)
        assert out == "200\n"
        assert answers(urls[0])
        outside.communicate("\n", timeout=60)


@pytest.mark.slow
def test_state_file_without_a_lock_is_ignored(home: Path) -> None:
    write_state(home / STATE, ProcessIdentity.current().to_json())
    with prefect_server(home) as url:
        assert url != "http://127.0.0.1:9/api"
        assert answers(url)


@pytest.mark.slow
def test_configured_api_that_does_not_answer_fails_at_once() -> None:
    started = time.monotonic()
    with (
        temporary_settings({"api.url": "http://127.0.0.1:9/api"}),
        pytest.raises(ServerError, match=r"^the Prefect API at http://127\.0\.0\.1:9/api .*$"),
        prefect_server(),
    ):
        pass
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_configured_api_is_used_and_left_running(home: Path) -> None:
    with prefect_server(home) as url:
        with temporary_settings({"api.url": url}), prefect_server() as named:
            assert named == url
        assert answers(url)


@pytest.mark.slow
def test_server_that_cannot_start_raises_an_error_that_names_its_log(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_text("not a database, but long enough for SQLite to read" * 100)
    with (
        pytest.raises(ServerError, match=r"^no Prefect server: .*\.log\)$"),
        prefect_server(tmp_path),
    ):
        pass


@pytest.mark.slow
def test_server_writes_nothing_to_stdout_or_outside_its_home(home: Path, tmp_path: Path) -> None:
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
