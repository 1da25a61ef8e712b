"""What a command shows: lines and progress for a person, or one JSON object for a program.

Standard output belongs to the result: a summary, or with `--json` the object alone.
Everything else goes to standard error, and progress bars only to a terminal.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import rich.console
import rich.progress

Advance = Callable[[int, str], None]
"""Called with how much is done and a few words about it."""


@dataclass(frozen=True)
class Console:
    """Where a command writes; `json` makes standard output hold the JSON object alone."""

    json: bool = False
    quiet: bool = False
    """Whether nothing is said by the way."""

    def note(self, text: str) -> None:
        """Say something by the way; where a progress bar is shown, above it."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def result(
        self, result: Mapping[str, Any], summary: Mapping[str, str], table: Iterable[str] = ()
    ) -> None:
        """Give the command's result: all as JSON, else a table and the summary, line by line."""
        if self.json:
            print(to_json(result))
            return
        for line in table:
            print(line)
        width = max(map(len, summary))
        for name, text in summary.items():
            print(f"{name:{width}}  {text}")

    @contextmanager
    def progress(self, what: str, total: int | None) -> Iterator[Advance]:
        """Show a progress bar while the block runs; `total` None where it is not known yet."""
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[words]}"),
        )
        screen = rich.console.Console(stderr=True)
        with rich.progress.Progress(
            *columns, console=screen, disable=not screen.is_terminal
        ) as bar:
            task = bar.add_task(what, total=total, words="")
            yield lambda done, words: bar.update(task, completed=done, words=words)


def to_json(value: Any) -> str:
    """Write a result as JSON; a number that is none (inf, nan) becomes null.

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
    """Return a NumPy scalar as what Python has for it, and anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value
