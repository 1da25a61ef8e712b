"""A head start for the local Prefect server, before this process imports Prefect.

The import takes as long as a third of the server's start, and only after it Prefect's settings say
whether a local server is wanted at all. So this module guesses it from the places where these
settings usually are. After a wrong guess, or if the command is refused, the server ends again (see
`flows.services.server_start`).
"""

import os
import sys
import tomllib
from contextlib import suppress
from pathlib import Path

from flows.services.errors import ServerError
from flows.services.local_server import LocalServer
from flows.services.workbench import WorkbenchFiles

_launched = dict[Path, LocalServer]()
"""The server that this process has launched and not used yet, by Prefect's home."""

_NAMING_ANOTHER = {"PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"}
"""Variables that may name another server; Prefect ignores their case."""


def launch_server_ahead() -> None:
    """Start the local server in the background if this process will probably use it."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser().absolute()
    with suppress(OSError, ServerError, ValueError):  # if it matters, the command will say it
        if not (_launched or _may_be_configured(home) or WorkbenchFiles(home).workbench()):
            server = _launched[home] = LocalServer(home)
            server.launch()


def take_launched(home: Path | None) -> LocalServer | None:
    """Return the handle on the server that was launched ahead for this home, if any.

    A server that was launched for another home ends. None stands for no local server.
    """
    server = _launched.pop(home, None) if home else None
    for unused in _launched.values():
        unused.leave()
    _launched.clear()
    return server


def _may_be_configured(home: Path) -> bool:
    """Return whether Prefect has been imported, or has settings that may name another server."""
    return (
        prefect_is_imported()
        or not _NAMING_ANOTHER.isdisjoint(map(str.upper, os.environ))
        or any(path.exists() for path in (home / "profiles.toml", Path("prefect.toml")))
        or "PREFECT_" in _text(Path(".env")).upper()
        or "prefect" in tomllib.loads(_text(Path("pyproject.toml"))).get("tool", {})
    )


def prefect_is_imported() -> bool:
    """Return whether it is too late for a head start: Prefect's settings say what is wanted."""
    return "prefect" in sys.modules


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
