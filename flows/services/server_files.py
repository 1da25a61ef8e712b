"""The files of the local Prefect server: its state, its locks and its log.

See `flows.services.local_server`. This module does not import Prefect.
"""

import json
import os
import urllib.parse
import urllib.request
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from flows.services.process_identity import HostIdentity, ProcessIdentity
from storage.locks import is_locked

ANSWER_SECONDS = 5.0
"""Time limit for the answer of a running server."""


@dataclass(frozen=True)
class ServerState:
    """The process of a server, and the URL of its API."""

    process: ProcessIdentity | None = None
    url: str | None = None

    def write(self, descriptor: int) -> None:
        """Write the state to an empty file."""
        assert self.process is not None
        os.pwrite(
            descriptor,
            json.dumps({"process": self.process.to_json(), "url": self.url}).encode(),
            0,
        )

    @classmethod
    def from_json(cls, value: object) -> "ServerState":
        """Return the state that `write` wrote as `value`.

        Raises ValueError if `value` is not such a state.
        """
        match value:
            case {"process": process, **rest}:
                url = rest.get("url")
                return cls(
                    ProcessIdentity.from_json(process), url if isinstance(url, str) else None
                )
        raise ValueError(f"not the state of a server: {value!r}")


class ServerFiles:
    """The files of the server of one home and host. Nothing is created."""

    def __init__(self, home: Path) -> None:
        stem = home / "hinge" / f"server-{version('prefect')}-{HostIdentity.current().digest}"
        self.state = Path(f"{stem}.json")
        self.users = Path(f"{stem}.users")
        self.mutex = Path(f"{stem}.mutex")
        self.log = Path(f"{stem}.log")

    def is_there(self) -> bool:
        """Return whether a live server, which may not answer, holds the lock on the state file."""
        return is_locked(self.state)

    def read(self) -> ServerState:
        """Return the state, or an empty state if its process is not alive on this host."""
        try:
            state = ServerState.from_json(json.loads(self.state.read_bytes()))
        except (OSError, ValueError):  # not written yet, or not written by a server
            return ServerState()
        return state if state.process and state.process.is_alive() else ServerState()

    def url(self) -> str | None:
        """Return the URL of the API if the process in the state file answers there, else None."""
        state = self.read()
        if state.process is None or state.url is None:
            return None
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{state.url}/health", timeout=ANSWER_SECONDS) as response:
                answers = response.status == 200 and _listens(state.process, state.url)
        except OSError:
            return None
        return state.url if answers else None

    def last_line_of_log(self) -> str:
        """Return the last line that the server printed."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        lines = text.strip().splitlines()
        return lines[-1] if lines else "it ended and printed nothing"


def _listens(process: ProcessIdentity, url: str) -> bool:
    """Return whether this process, and no other, listens on the port of a URL."""
    port = urllib.parse.urlsplit(url).port
    try:
        connections = psutil.Process(process.pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(
        each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections
    )
