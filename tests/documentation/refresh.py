"""Update a page's output and figures: `python -m tests.documentation.refresh PAGE`.

The script runs the page's examples on the real images, which `HINGE_CIFAR10` names. Output that
still matches stays unchanged, with its ellipses. Other output is replaced by the new output of the
command, with ellipses for text that varies and for the middle of long output. Figures are copied
from the runs. Review the changes before you commit them.
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import SkipTest

from sybil.example import SybilFailure

from tests.documentation.examples import Figure, Terminal, commands_in, output_matches
from tests.documentation.workspace import real_terminal, shared_workbench

VARYING = [
    (r"^Dask dashboard: .*$", "..."),
    (r"-\d{8}-\d{6}-[0-9a-f]{8}", "-..."),  # run names end with the time and a random number
    (r"\S*/work/", ".../"),
    (r"\d[\d,.]* per second", "... per second"),
    (r"^(took|time)( +).*$", r"\1\2..."),
]
"""Patterns of text that differs between two runs of a command, and their replacements."""

FIRST_LINES, LAST_LINES = 4, 12
"""The lines of long output that a page shows."""


def refresh(page: Path, terminal: Terminal) -> None:
    """Run the examples of a page, and update the output and the figures in the page."""
    document = terminal.read(page)
    text, end = "", 0
    for example in document:
        try:
            example.evaluate()
        except SybilFailure as failure:
            print(failure)
        except SkipTest:
            continue
        source = document.text[example.start : example.end]
        if example.start in terminal.printed:
            new = _with_output(example.parsed, terminal.printed[example.start])
            source = source.replace(example.parsed, new)
        if isinstance(example.parsed, Figure):
            _copy_figure(example.parsed, page.parent, terminal.directory)
        text += document.text[end : example.start] + source
        end = example.end
    page.write_text(text + document.text[end:])


def _with_output(block: str, printed: list[str]) -> str:
    lines = []
    for (command, expected), new in zip(commands_in(block), printed, strict=True):
        keep = not expected or output_matches(expected, new)
        lines.append(f"$ {command}{expected if keep else _with_ellipses(new)}")
    return "".join(lines)


def _with_ellipses(printed: str) -> str:
    for pattern, replacement in VARYING:
        printed = re.sub(pattern, replacement, printed, flags=re.MULTILINE)
    lines = printed.splitlines(keepends=True)
    if len(lines) > FIRST_LINES + LAST_LINES:
        lines[FIRST_LINES:-LAST_LINES] = ["...\n"]
    return "".join(lines)


def _copy_figure(figure: Figure, folder: Path, working: Path) -> None:
    (source,) = working.glob(figure.source)
    (folder / figure.path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / figure.path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        directory = Path(temporary)
        with shared_workbench(directory) as workbench:
            images = Path(os.environ["HINGE_CIFAR10"])
            refresh(Path(sys.argv[1]), real_terminal(directory, images, workbench))
