"""The output of a command: lines and a progress bar for a person, or JSON for a program.

Standard output receives only the result: a summary, or one JSON object with `--json`.
Everything else goes to standard error. Progress bars are shown only on a terminal.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import rich.console
import rich.progress

from flows.services.progress import Reading, Sink

_BAR_SECONDS = 0.1
"""The time between two updates of a progress bar."""


@dataclass(frozen=True)
class Console:
    """The output of one command."""

    json: bool = False
    """Whether to write the result as one JSON object instead of lines."""
    quiet: bool = False
    """Whether to suppress progress notes."""

    def note(self, text: str) -> None:
        """Print a progress note to standard error, above the progress bar if there is one."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def result(
        self, result: Mapping[str, Any], summary: Mapping[str, str], table: Iterable[str] = ()
    ) -> None:
        """Print the result: as JSON, or as the table and one line per entry of the summary."""
        if self.json:
            print(to_json(result))
            return
        for line in table:
            print(line)
        width = max(map(len, summary))
        for name, text in summary.items():
            print(f"{name:{width}}  {text}")

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[list[Sink]]:
        """Show a progress bar during the block, and yield its sink; none without a terminal."""
        screen = rich.console.Console(stderr=True)
        if not screen.is_terminal:
            yield []
            return
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[words]}"),
        )
        with rich.progress.Progress(*columns, console=screen) as bar:
            task = bar.add_task(what, total=total, words="")

            def show(reading: Reading) -> None:
                bar.update(task, completed=reading.done, words=reading.words)

            yield [Sink(show, _BAR_SECONDS)]


def to_json(value: Any) -> str:
    """Return a result as JSON; a non-finite number (inf, nan) becomes null.

    Examples:
        >>> print(to_json({"loss": math.inf, "steps": 3}))
        {
          "loss": null,
          "steps": 3
        }
    """
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = python_scalar(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def python_scalar(value: Any) -> Any:
    """Convert a NumPy scalar to the Python type; return any other value unchanged."""
    return value.item() if isinstance(value, np.generic) else value
