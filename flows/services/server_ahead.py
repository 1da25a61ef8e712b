"""A head start for the local Prefect server, before this process imports Prefect.

The import takes as long as a third of the server's start, and only after it Prefect's settings say
whether a local server is wanted at all. So this module guesses it from the places where these
settings usually are. A wrong guess does no harm: a server that its command does not use ends with
the command at the latest (see `flows.services.server_start`).
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from flows.services.local_server import LocalServer
from flows.services.workbench import WorkbenchFiles

_launched = dict[Path, LocalServer]()
"""The server that this process has launched and not used, by Prefect's home."""


def launch_server_ahead() -> None:
    """Start the local server in the background if this process will probably use it."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser().absolute()
    if not _may_be_configured(home) and WorkbenchFiles(home).workbench() is None:
        with suppress(OSError):  # the command itself will say that a directory cannot be written
            server = _launched[home] = LocalServer(home)
            server.launch()


def local_server(home: Path) -> LocalServer:
    """Return the handle on the local server of a home, launched ahead or not.

    A server that was launched for another home ends.
    """
    server = _launched.pop(home, None) or LocalServer(home)
    for unused in _launched.values():
        unused.leave()
    _launched.clear()
    return server


def _may_be_configured(home: Path) -> bool:
    """Return whether Prefect has been imported, or has settings that may name another server."""
    return (
        "prefect" in sys.modules
        or any(name in os.environ for name in ("PREFECT_API_URL", "PREFECT_PROFILE"))
        or any(path.exists() for path in (home / "profiles.toml", Path("prefect.toml")))
        or any(_mentions(path) for path in (Path(".env"), Path("pyproject.toml")))
    )


def _mentions(path: Path) -> bool:
    """Return whether the file may contain settings of Prefect."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return False
    return "PREFECT_" in text.upper() or "[tool.prefect" in text
