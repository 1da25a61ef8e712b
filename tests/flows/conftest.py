"""Fixtures that run `hinge` as a user with an empty home directory would.

All tests share one Prefect server, one Dask cluster and one small store, because each takes seconds
to create. Most tests call the command's function in this process. Tests of the process itself start
`hinge` as a separate process.
"""

import json
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from prefect.context import SettingsContext, get_settings_context
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import temporary_settings

from flows.cli import run_command
from flows.services.prefect_server import starting_server
from flows.services.server_files import ANSWER_SECONDS
from tests.environment import clean_environment

HINGE = Path(sysconfig.get_path("scripts")) / "hinge"

CLUSTER = """
import sys
from pipeline.cluster.connect import connect
with connect(workers=2) as client:
    print(client.scheduler.address, flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Finished:
    """The exit status and output of a command that has ended."""

    status: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object that the command printed to standard output."""
        result = json.loads(self.out)
        assert isinstance(result, dict)
        return result


class Started(subprocess.Popen[str]):
    """A process that is killed if its `with` block raises, so that the test fails at once."""

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, traceback)


@dataclass(frozen=True)
class User:
    """The environment of a user's commands: an empty home, a Prefect API and a Dask scheduler."""

    home: Path
    api: str
    scheduler: str

    def environment(self, **more: str) -> dict[str, str]:
        """Return only the environment variables that a program needs to start, and `more`."""
        return clean_environment(self.home, **more)

    def start(self, *arguments: object, cwd: Path, **options: Any) -> "Started":
        """Start `hinge` as a separate process in `cwd`."""
        environment = self.environment(**options.pop("environment", {}))
        return Started(
            [HINGE, *map(str, arguments)],
            cwd=cwd,
            env=environment,
            **{
                "text": True,
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **options,
            },
        )

    def hinge(self, *arguments: object, cwd: Path, **environment: str) -> Finished:
        """Run `hinge` as a separate process in `cwd`, and wait until it ends."""
        return end(self.start(*arguments, cwd=cwd, environment=environment))

    def settings(self) -> SettingsContext:
        """Return this user's Prefect settings, for code that runs in this process."""
        return SettingsContext(**self._settings)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """The fields of the settings context, cached because Prefect takes 40 ms to create them."""
        with temporary_settings({"api.url": self.api, "home": self.home / ".prefect"}):
            return dict(get_settings_context())


def end(process: "subprocess.Popen[str]", seconds: float = 120) -> Finished:
    """Wait until a command ends, for at most `seconds`; then kill it if it still runs."""
    with process:
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
    return Finished(process.returncode, out, err)


def first_result(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Return the JSON object that a command with `--json` prints while it still runs."""
    assert process.stdout is not None
    result = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
    assert isinstance(result, dict)
    return result


def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Poll `condition` until its value is true, and return the value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.01)
    return value


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """A user with a running Prefect server and a Dask cluster of two workers."""
    home = tmp_path_factory.mktemp("home")
    with starting_server(home / ".prefect") as server:
        api = server.wait()
        with subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as cluster:
            assert cluster.stdout is not None
            yield User(home, api, cluster.stdout.readline().strip())
            cluster.communicate(timeout=30)
            # Without this, the end of pytest would try for a minute to send the rest of the logs
            # of flows that ran in this process to the server, which has ended.
            EventsWorker.drain_all(timeout=ANSWER_SECONDS)
            APILogWorker.drain_all(timeout=ANSWER_SECONDS)


Command = Callable[..., Finished]


@pytest.fixture
def hinge(user: User, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `hinge` in this process, with its runs in the test's directory.

    It uses the user's Prefect server. Give `--scheduler` to use the user's Dask cluster.
    """

    def run(*arguments: object) -> Finished:
        capfd.readouterr()
        given = [str(argument) for argument in arguments]
        if "--runs" not in given:
            given += ["--runs", str(tmp_path / "runs")]
        with user.settings():
            status = run_command(given)
        return Finished(status, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def ingested(user: User, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The finished `hinge ingest --json` that created the store of most tests."""
    directory = tmp_path_factory.mktemp("made")
    return user.hinge(
        *("ingest", "synthetic:600", "--store", "small.zarr", "--shard-rows", "150"),
        *("--json", "--workers", "1"),
        cwd=directory,
    )


@pytest.fixture(scope="session")
def store(ingested: Finished) -> Path:
    """A store of 600 synthetic training images in 4 shards and 120 test images in 1 shard."""
    assert ingested.status == 0, ingested.err
    return Path(ingested.result["data"]["url"])


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """A list to which every saved figure is appended; the PNG files are written too."""
    saved: list[Figure] = []
    save = Figure.savefig

    def save_and_append(figure: Figure, path: Path, **options: Any) -> None:
        save(figure, path, **options)
        saved.append(figure)

    monkeypatch.setattr(Figure, "savefig", save_and_append)
    return saved
