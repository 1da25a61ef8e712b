"""The head start of the local Prefect server: when it is launched, and for which home."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.services import server_ahead
from flows.services.server_ahead import launch_server_ahead, take_launched
from flows.services.workbench import Workbench, claimed_workbench


class Recorded:
    """A handle on a local server that records what is asked of it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.calls = list[str]()

    def launch(self) -> None:
        self.calls.append("launch")

    def leave(self) -> None:
        self.calls.append("leave")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prefect's home of a command that starts in an empty directory, without Prefect."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(server_ahead, "LocalServer", Recorded)
    monkeypatch.setattr(server_ahead, "_launched", {})
    monkeypatch.setattr(server_ahead, "prefect_is_imported", lambda: False)
    for name in server_ahead._NAMING_ANOTHER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def launched(home: Path) -> bool:
    launch_server_ahead()
    server = take_launched(home)
    return server is not None and server.calls == ["launch"]  # type: ignore[attr-defined]


def test_server_is_launched_once_for_the_home_in_the_environment(home: Path) -> None:
    launch_server_ahead()
    assert launched(home)
    assert take_launched(home) is None


@pytest.mark.parametrize("settings", ["another home", "another API"])
def test_server_that_the_settings_do_not_want_is_left(settings: str, home: Path) -> None:
    launch_server_ahead()
    [ahead] = server_ahead._launched.values()
    assert take_launched(home / "other" if settings == "another home" else None) is None
    assert ahead.calls == ["launch", "leave"]  # type: ignore[attr-defined]


CONFIGURED: dict[str, Callable[[Path, pytest.MonkeyPatch], object]] = {
    "another API": lambda _, patch: patch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api"),
    "another API, in lower case": lambda _, patch: patch.setenv("prefect_api_url", "http://x/api"),
    "a profile": lambda _, patch: patch.setenv("PREFECT_PROFILE", "cloud"),
    "the file of the profiles": lambda home, _: (home / "profiles.toml").touch(),
    "a file of settings here": lambda *_: Path("prefect.toml").touch(),
    "settings among the variables here": lambda *_: Path(".env").write_text("prefect_api_url=x"),
    "settings of the project here": lambda *_: Path("pyproject.toml").write_text(
        "[tool]\nprefect.api.url = 'http://x/api'"
    ),
    "a damaged file of the project here": lambda *_: Path("pyproject.toml").write_text("[tool"),
    "Prefect, already imported": lambda _, patch: patch.setattr(
        server_ahead, "prefect_is_imported", lambda: True
    ),
}


@pytest.mark.parametrize("case", CONFIGURED)
def test_settings_that_may_name_another_server_prevent_the_launch(
    case: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CONFIGURED[case](home, monkeypatch)
    assert not launched(home)


def test_project_that_only_depends_on_prefect_does_not_prevent_the_launch(home: Path) -> None:
    Path("pyproject.toml").write_text('[project]\ndependencies = ["prefect"]')
    assert launched(home)


def test_workbench_prevents_the_launch(home: Path) -> None:
    workbench = Workbench("http://127.0.0.1:1/api", True, "tcp://127.0.0.1:2", "", 0.5)
    with claimed_workbench(home) as claim:
        claim.announce(workbench)
        assert not launched(home)
    assert launched(home)
