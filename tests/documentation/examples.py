"""Run the examples in README.md and docs/ with Sybil.

* A `python` block is executed; one that starts with `>>>` is a doctest.
* In a `console` block, a line that starts with `$ ` is a command. Bash runs it, and it must exit
  with status 0. What it prints (standard output and standard error) must match the lines below
  it, where `...` stands for any text. A command without lines below it may print anything.
* A `text` block is a diagram or an excerpt of a file. It must not contain a command.
* `<!-- figure: figures/loss.png from runs/*/loss.png -->` names a committed figure, and the file of
  a run that it is a copy of. The commands above it must have written that file.
* `<!-- skip: next "reason" -->` skips the next block. `<!-- invisible-code-block: console` starts a
  block that readers do not see. Sybil defines both.
"""

import doctest
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

MATCHING = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

_FIGURE = re.compile(r"<!-- figure: (?P<figure>\S+) from (?P<source>\S+) -->")


class Command(NamedTuple):
    """A command of a console block, and the output that the page shows for it."""

    text: str
    """The command, without `$ `. A backslash at the end of a line continues it on the next line."""
    expected: str
    """The output that the page shows; empty if the page shows none."""


class Figure(NamedTuple):
    """A committed figure, and the file of a run that it is a copy of."""

    path: Path
    """Relative to the page."""
    source: str
    """A glob pattern, relative to the directory in which the commands run."""


def commands_in(block: str) -> Iterator[Command]:
    """Split a console block into its commands.

    Raises:
        ValueError: The block does not start with a command.
    """
    lines = iter(block.splitlines(keepends=True))
    text, expected = "", ""
    for line in lines:
        if line.startswith("$ "):
            if text:
                yield Command(text, expected)
            text, expected = line[2:], ""
            while text.endswith("\\\n"):
                text += next(lines)
        elif text:
            expected += line
        else:
            raise ValueError(f"a console block starts with `$ `, not with {line!r}")
    yield Command(text, expected)


def find_command(example: Example) -> str | None:
    """Return an error message if a text block contains a command, which would not run."""
    commands = re.findall(r"^\s*\$ .*", example.parsed, re.MULTILINE)
    return f"commands in a text block are not run: {commands}" if commands else None


def output_matches(expected: str, printed: str) -> bool:
    """Compare output like doctest: `...` stands for any text, and any white space is equal."""
    return doctest.OutputChecker().check_output(expected, printed, MATCHING)


@dataclass(frozen=True)
class Terminal:
    """A directory and an environment in which the examples of one page run in order."""

    directory: Path
    environment: Mapping[str, str]
    seconds: float = 600.0
    """The time limit for one command."""
    printed: dict[int, list[str]] = field(default_factory=dict)
    """The output of the commands of each console block, by the block's position in the page."""

    def run(self, command: str) -> str:
        """Run a command and return its output.

        Raises:
            AssertionError: The exit status of the command is not 0.
        """
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.directory,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self.seconds,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}{done.stdout}exit status {done.returncode}"
        return done.stdout

    def run_block(self, example: Example) -> str | None:
        """Run a console block, and return the differences in its output, or None if it matches."""
        differences = []
        printed = self.printed.setdefault(example.start, [])
        for command, expected in commands_in(example.parsed):
            printed.append(self.run(command))
            if expected and not output_matches(expected, printed[-1]):
                differences.append(f"$ {command}expected:\n{expected}printed:\n{printed[-1]}")
        return "\n".join(differences) or None

    def find_figure(self, example: Example) -> str | None:
        """Return the problem with a figure's source or with its committed copy, or None."""
        figure: Figure = example.parsed
        if not (Path(example.path).parent / figure.path).exists():
            return f"{figure.path} does not exist"
        found = [*self.directory.glob(figure.source)]
        return None if len(found) == 1 else f"{figure.source} should name one file, not {found}"

    def read(self, page: Path) -> Document:
        """Parse a page into examples that run in this terminal."""
        return Sybil(
            [
                PythonCodeBlockParser(doctest_optionflags=MATCHING),
                CodeBlockParser("console", self.run_block),
                CodeBlockParser("text", find_command),
                self._figures,
                SkipParser(),
            ]
        ).parse(page)

    def _figures(self, document: Document) -> Iterable[Region]:
        for match in _FIGURE.finditer(document.text):
            figure = Figure(Path(match["figure"]), match["source"])
            yield Region(match.start(), match.end(), figure, self.find_figure)
