"""A user with a home of their own, who types `hinge ...`; and what all of them share.

One Prefect server, one Dask cluster and one small store serve all tests, because each takes
seconds to make. A command runs as a process of its own where that is what is tested, else in
this one, through the same function.
"""

import json
import os
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
from prefect.settings import temporary_settings

from flows.cli import run_command
from flows.services.prefect_server import starting_server

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
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The one JSON object that standard output holds."""
        result = json.loads(self.out)
        assert isinstance(result, dict)
        return result


class Started(subprocess.Popen[str]):
    """A process that a test which fails in its block ends, so that it tells of its failure."""

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, traceback)


@dataclass(frozen=True)
class User:
    """Where a user's commands run: an empty home and the server that they share."""

    home: Path
    api: str
    scheduler: str

    def environment(self, **more: str) -> dict[str, str]:
        """Nothing of the test's own surroundings but what a program needs to start."""
        kept = {name: os.environ[name] for name in ("PATH", "NUMBA_CACHE_DIR", "TMPDIR", "LANG")
                if name in os.environ}  # fmt: skip
        return {**kept, "HOME": str(self.home), **more}

    def start(self, *arguments: object, cwd: Path, **options: Any) -> "Started":
        """Start `hinge` as a process, in `cwd`."""
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
        """Run `hinge` as a process, in `cwd`, to its end."""
        return end(self.start(*arguments, cwd=cwd, environment=environment))

    def settings(self) -> SettingsContext:
        """Prefect's settings of this user, for what runs in this process."""
        return SettingsContext(**self._settings)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """What a context of theirs holds: Prefect takes 40 ms to make them."""
        with temporary_settings({"api.url": self.api, "home": self.home / ".prefect"}):
            return dict(get_settings_context())


def end(process: "subprocess.Popen[str]", seconds: float = 120) -> Finished:
    """Wait for a command."""
    with process:
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
    return Finished(process.returncode, out, err)


def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Poll `condition` until it holds, and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.01)
    return value


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """The user, with a Prefect server that stays up and a Dask cluster of two workers."""
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


Command = Callable[..., Finished]


@pytest.fixture
def hinge(user: User, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `hinge` in this process, its runs under the test's own directory.

    Prefect's API is the user's; for a cluster give `--scheduler`.
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
    """The ingest, with `--json`, of the store that most tests train on; run in `made`."""
    directory = tmp_path_factory.mktemp("made")
    return user.hinge(
        *("ingest", "synthetic:600", "--store", "small.zarr", "--shard-rows", "150"),
        *("--json", "--workers", "1"),
        cwd=directory,
    )


@pytest.fixture(scope="session")
def store(ingested: Finished) -> Path:
    """A store of 600 and 120 synthetic images, in 4 and 1 shards."""
    assert ingested.status == 0, ingested.err
    return Path(ingested.result["data"]["url"])


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved; their PNGs are written as well."""
    saved: list[Figure] = []
    save = Figure.savefig

    def noting(figure: Figure, path: Path) -> None:
        save(figure, path)
        saved.append(figure)

    monkeypatch.setattr(Figure, "savefig", noting)
    return saved
