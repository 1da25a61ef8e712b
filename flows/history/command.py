"""The command `hinge runs`, which lists recorded runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.command_line.exit_status import EXIT_DONE
from flows.command_line.options import output_options

if TYPE_CHECKING:
    from flows.history.listing import ListedRun

STATUSES = (
    *("in progress", "stopped", "done", "converged", "diverged", "interrupted", "failed"),
    *("unreadable", "no record"),
)
"""The statuses that the shell completes."""


@click.command(name="runs")
@click.option(
    "--command",
    metavar="COMMAND",
    help="Only runs of this command, such as train or 'search random'.",
)
@click.option(
    "--status",
    metavar="STATUS",
    shell_complete=lambda _context, _option, typed: [
        status for status in STATUSES if status.startswith(typed)
    ],
    help="Only runs with this status, such as done, interrupted or 'in progress'.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    default=20,
    show_default=True,
    help="Number of runs to list: the newest N.",
)
@output_options
def list_recorded_runs(
    command: str | None, status: str | None, limit: int, runs: Path, as_json: bool
) -> int:
    """List the runs in a directory, newest first.

    A run whose record says that it is running is `in progress` if a process works on it, and
    `stopped` if its process was killed. Such a run can be resumed.
    """
    from flows.history.listing import list_runs
    from flows.services.console import Console

    found = [
        run
        for run in list_runs(runs)
        if command in {None, run.command} and status in {None, run.status}
    ]
    shown = found[:limit]
    document = {"directory": str(runs.absolute()), "runs": list(map(vars, shown))}
    Console(json=as_json).result(document, _summary(runs, len(shown), len(found)), _table(shown))
    return EXIT_DONE


def _summary(runs: Path, shown: int, found: int) -> dict[str, str]:
    count = f"{shown} of {found} (--limit N lists more)" if shown < found else str(found or "none")
    return {"runs": f"{count} in {runs}"}


def _table(runs: Sequence["ListedRun"]) -> list[str]:
    """Return a header and one line per run, in columns; nothing if there are no runs."""
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    rows = [("run", "status", "data", "age", "result")] if runs else []
    rows += [(run.run, run.status, run.data or "", run.age(now), run.result) for run in runs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
