"""The runs in a directory, as `hinge runs` lists them.

Only the JSON of the records is read, not their typed form, which would import every experiment. A
record that another version or another program wrote is listed, too, with what it says.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.runs.directory import RunDirectory
from pipeline.inputs.errors import PipelineError
from storage.locks import is_locked

IN_PROGRESS, STOPPED = "in progress", "stopped"
"""The two meanings of the status `running` in a record: a process works on the run, or not."""

UNREADABLE, NO_RECORD = "unreadable", "no record"
"""The statuses of a directory with a damaged record, and of one without a record."""


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """One directory in the directory of the runs."""

    run: str
    """The run's name: the name of its directory."""
    command: str | None = None
    """The command as typed after `hinge`."""
    status: str
    """The status in the record, or one of the statuses of this module."""
    data: str | None = None
    """The name of the data."""
    started: str
    """UTC, ISO 8601. Without a record: when the directory was last changed."""
    result: str = ""
    """The result in one line, or why there is none."""

    def age(self, now: datetime) -> str:
        """Return the time since the run started, such as `5 min`.

        Examples:
            >>> run = ListedRun(run="a", status="done", started="2026-01-01T00:00:00+00:00")
            >>> times = [(1, 0, 0), (1, 0, 59), (1, 2, 59), (1, 23, 0), (9, 0, 0)]
            >>> [run.age(datetime(2026, 1, *time, 1, tzinfo=UTC)) for time in times]
            ['1 s', '59 min', '2 h', '23 h', '8 d']
        """
        seconds = max(0, int((now - datetime.fromisoformat(self.started)).total_seconds()))
        for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
            if seconds >= length:
                return f"{seconds // length} {unit}"
        return f"{seconds} s"


def list_runs(runs: Path) -> list[ListedRun]:
    """Return the runs in a directory, newest first; none if the directory does not exist.

    Raises PipelineError if `runs` cannot be read.
    """
    try:
        paths = [path for path in runs.iterdir() if not path.name.startswith(".")]
        found = [_listed(path) for path in paths if path.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PipelineError(
            f"the runs in {runs} cannot be listed: {error.strerror}; name their directory with "
            "--runs"
        ) from error
    return sorted(found, key=lambda run: (datetime.fromisoformat(run.started), run.run))[::-1]


def _listed(path: Path) -> ListedRun:
    changed = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    if not (path / "result.json").exists():
        return ListedRun(run=path.name, status=NO_RECORD, started=changed)
    try:
        return _from_document(path, RunDirectory(path).read_document(), changed)
    except PipelineError as error:
        return ListedRun(run=path.name, status=UNREADABLE, started=changed, result=str(error))


def _from_document(path: Path, document: Mapping[str, Any], changed: str) -> ListedRun:
    command, status = document.get("command"), document.get("status")
    if not isinstance(command, str) or not isinstance(status, str):
        problem = RunDirectory(path).unreadable("it does not name a command and a status")
        return ListedRun(run=path.name, status=UNREADABLE, started=changed, result=str(problem))
    data = document.get("data")
    return ListedRun(
        run=path.name,
        command=command,
        status=_true_status(path, status),
        data=str(data["name"]) if isinstance(data, Mapping) and "name" in data else None,
        started=_time(document.get("started")) or changed,
        result=_result(document),
    )


def _true_status(path: Path, status: str) -> str:
    """Return whether a process works on a run whose record says `running`, else the status."""
    if status != "running":
        return status
    try:
        return IN_PROGRESS if is_locked(path / ".lock") else STOPPED
    except OSError:  # the run of another user
        return status


def _time(value: Any) -> str | None:
    """Return a time of a record in UTC, or None if it is not a time."""
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return time.isoformat() if time.tzinfo else None


def _result(document: Mapping[str, Any]) -> str:
    """Return the summary in a record, else its error, else its loss (in earlier versions)."""
    for field in ("summary", "error"):
        if isinstance(text := document.get(field), str):
            return " ".join(text.split())
    for field, name in (("best_loss", "best loss"), ("loss", "loss"), ("minimum", "lowest loss")):
        if isinstance(loss := document.get(field), float) and math.isfinite(loss):
            return f"{name} {loss:.6f}"
    return ""
