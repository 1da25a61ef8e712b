"""Completions of option values that the shell asks for. They import nothing else of hinge."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem


def complete_store(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete a directory."""
    return [CompletionItem(incomplete, type="dir")]


def complete_run(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the name of a run in the directory of `--runs`, or a directory."""
    return _items(_names(context, incomplete), incomplete)


def complete_own_run(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the name of a run of this command, or a directory."""
    own = "-".join([*context.command_path.split()[1:], ""])
    names = _names(context, incomplete)
    return _items((name for name in names if name.startswith(own)), incomplete)


def _items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Return the names, after an item for directories: it makes bash forget earlier items."""
    return [CompletionItem(incomplete, type="dir"), *map(CompletionItem, names)]


def _names(context: click.Context, prefix: str) -> Iterator[str]:
    """Yield the names of the runs that start with `prefix`, the last changed ones first."""
    runs = Path(context.params["runs"])
    records = [path for path in runs.glob("*/result.json") if path.parent.name.startswith(prefix)]
    for path in sorted(records, key=lambda path: path.stat().st_mtime, reverse=True):
        yield path.parent.name
