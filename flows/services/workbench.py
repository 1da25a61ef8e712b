"""The workbench: the Prefect server and the Dask cluster that `hinge serve` holds for all commands.

A command finds the workbench of its user and host by two files in Prefect's home:

    <home>/hinge/workbench-<host>.json     its state; locked while it is alive
    <home>/hinge/workbench-<host>.users    a shared lock for each command that uses it

The state is valid only while its file is locked and the exact process that it names is alive (see
`flows.services.process_identity`), so a dead workbench leaves no valid state. <host> has the same
meaning as for the local server (`flows.services.local_server`).

Before a workbench ends, it writes into its state that it is stopping. The commands that use it then
interrupt themselves, and the workbench waits until they have released the users' file.

This module imports nothing heavy, so that a look for the workbench takes milliseconds.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from flows.services.errors import ServerError
from flows.services.process_identity import HostIdentity, ProcessIdentity
from storage.locks import is_locked, lock_shared, open_lock, release, try_lock

_CLAIM_SECONDS = 1.0
"""Time for which a claim ignores the short locks of commands that look at the state."""

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Workbench:
    """What commands must know about a workbench."""

    api: str
    """The URL of the Prefect API."""
    local: bool
    """Whether the API is that of the local server, which every command may join itself."""
    scheduler: str
    """The address of the Dask scheduler."""
    dashboard: str
    """The URL of the Dask dashboard."""
    cache: float
    """The fraction of the workers' memory that shards may fill between commands."""
    stopping: bool = False

    @property
    def page(self) -> str:
        """The URL of Prefect's page."""
        return self.api.removesuffix("/").removesuffix("/api")

    @property
    def remote_api(self) -> str | None:
        """The URL of the Prefect API if it is not that of the local server."""
        return None if self.local else self.api

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Return the workbench that `json` read as `value`; raise ValueError if it is none."""
        match value:
            case {
                "api": str(api),
                "local": bool(local),
                "scheduler": str(scheduler),
                "dashboard": str(dashboard),
                "cache": int() | float() as cache,
                "stopping": bool(stopping),
            }:
                return cls(api, local, scheduler, dashboard, cache, stopping)
        raise ValueError(f"not a workbench: {value!r}")


class WorkbenchFiles:
    """The files of the workbench of one home and host."""

    def __init__(self, home: Path) -> None:
        stem = home / "hinge" / f"workbench-{HostIdentity.current().digest}"
        self.state = stem.with_suffix(".json")
        self.users = stem.with_suffix(".users")

    def process(self) -> ProcessIdentity | None:
        """Return the live process that holds the workbench, which may still be starting."""
        return self._read()[0]

    def workbench(self) -> Workbench | None:
        """Return the workbench if there is one, which may be stopping."""
        return self._read()[1]

    def _read(self) -> tuple[ProcessIdentity | None, Workbench | None]:
        try:
            content = json.loads(self.state.read_bytes())
            process = ProcessIdentity.from_json(content["process"])
        except (OSError, ValueError, TypeError, KeyError):  # no workbench, or a starting one
            return None, None
        if not process.is_alive() or not is_locked(self.state):
            return None, None
        try:
            return process, Workbench.from_json(content.get("workbench"))
        except ValueError:  # it is starting
            return process, None


@dataclass(frozen=True)
class WorkbenchUse:
    """A command's use of the workbench."""

    files: WorkbenchFiles
    process: ProcessIdentity
    workbench: Workbench

    def is_there(self) -> bool:
        """Return whether the workbench's process is alive."""
        return self.files.process() == self.process

    def is_stopping(self) -> bool:
        """Return whether the workbench has announced its end."""
        workbench = self.files.workbench()
        return workbench is not None and workbench.stopping


@contextmanager
def join_workbench(home: Path) -> Iterator[WorkbenchUse | None]:
    """Use the workbench in the block; yield None if there is none that will stay.

    `home` is Prefect's home.
    """
    files = WorkbenchFiles(home)
    if files.workbench() is None:
        yield None
        return
    users = open_lock(files.users)
    try:
        lock_shared(users)
        process, workbench = files.process(), files.workbench()
        if process is None or workbench is None or workbench.stopping:  # it ends just now
            yield None
        else:
            yield WorkbenchUse(files, process, workbench)
    finally:
        release(users)


class WorkbenchClaim:
    """The lock of the process that holds the workbench."""

    def __init__(self, home: Path) -> None:
        """Claim the workbench; raise ServerError if another process holds it."""
        self._files = WorkbenchFiles(home)
        self._files.state.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._state = open_lock(self._files.state)
        self._workbench: Workbench | None = None
        deadline = time.monotonic() + _CLAIM_SECONDS
        while not try_lock(self._state):
            if time.monotonic() > deadline:
                os.close(self._state)
                raise ServerError(_refusal(self._files))
            time.sleep(_POLL_SECONDS)
        self._write()

    def announce(self, workbench: Workbench) -> None:
        """Let commands find the workbench."""
        self._workbench = workbench
        self._write()

    def dismiss_users(self, seconds: float) -> bool:
        """Ask the commands to end, and return whether all of them did within `seconds`."""
        if self._workbench is None:
            return True
        self.announce(replace(self._workbench, stopping=True))
        users, deadline = open_lock(self._files.users), time.monotonic() + seconds
        try:
            while not (ended := try_lock(users)) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            return ended
        finally:
            release(users)

    def release(self) -> None:
        """Give up the workbench."""
        os.ftruncate(self._state, 0)
        release(self._state)

    def _write(self) -> None:
        content: dict[str, object] = {"process": ProcessIdentity.current().to_json()}
        if self._workbench:
            content["workbench"] = asdict(self._workbench)
        # A shorter text is filled up, so that a reader never sees the end of the earlier one.
        encoded = json.dumps(content).encode().ljust(os.fstat(self._state).st_size)
        os.pwrite(self._state, encoded, 0)


@contextmanager
def claimed_workbench(home: Path) -> Iterator[WorkbenchClaim]:
    """Claim the workbench of this home and host for the block.

    Raises ServerError if another process holds it.
    """
    claim = WorkbenchClaim(home)
    try:
        yield claim
    finally:
        claim.release()


def _refusal(files: WorkbenchFiles) -> str:
    process, workbench = files.process(), files.workbench()
    holder = f"process {process.pid}" if process else f"the process that locks {files.state}"
    where = (
        f" (Prefect {workbench.page}, Dask {workbench.dashboard})" if workbench else ", and starts"
    )
    return f"`hinge serve` runs already: {holder} holds the workbench{where}; end that one first"
