"""Console output: results on standard output, everything else on standard error."""

import json
import math
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flows.services.console import Console, to_json

PROGRESS = """
from flows.services.console import Console
from flows.services.progress import watch_progress
with Console().bar("train", 40) as sinks, watch_progress("train", 40, sinks) as advance:
    for step in range(1, 41):
        advance(step, f"loss {step}")
    Console().note("a note\\nand [red] too")
"""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def plain(value: Any) -> Any:
    """Return the value as it is read back from JSON, with None for non-finite numbers."""
    if isinstance(value, float) and (math.isnan(value) or abs(value) == math.inf):
        return None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def fail_on_constant(constant: str) -> None:
    raise AssertionError(f"{constant} is not valid JSON")


@given(JSON)
@example(math.nan)
@example({"losses": [9.0, -math.inf]})
def test_json_of_any_result_is_valid_and_reads_back_equal(value: Any) -> None:
    assert json.loads(to_json(value), parse_constant=fail_on_constant) == plain(value)


def test_numpy_scalars_become_json_values() -> None:
    result = {"a": np.float64(0.5), "b": np.int64(3), "c": np.float32("inf"), "d": np.bool_(True)}
    assert json.loads(to_json(result)) == {"a": 0.5, "b": 3, "c": None, "d": True}


def test_result_is_one_line_per_entry_or_one_json_object(capfd: pytest.CaptureFixture[str]) -> None:
    result, summary = {"loss": 0.5}, {"loss": "0.5000", "files": "there"}
    Console().result(result, summary)
    assert capfd.readouterr() == ("loss   0.5000\nfiles  there\n", "")
    Console(json=True).result(result, summary)
    out, err = capfd.readouterr()
    assert (json.loads(out), err) == (result, "")


def test_notes_go_only_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    for console in (Console(), Console(json=True)):
        console.note("a note")
    assert capfd.readouterr() == ("", "a note\n" * 2)


def test_progress_bar_is_hidden_without_a_terminal() -> None:
    shown = subprocess.run([sys.executable, "-c", PROGRESS], capture_output=True, check=True)
    assert (shown.stdout, shown.stderr) == (b"", b"a note\nand [red] too\n")


def test_progress_bar_on_a_terminal_shows_progress_text_and_notes() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRESS],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = read_terminal(ours)
    out, _ = process.communicate()
    assert (process.returncode, out) == (0, b"")
    assert all(part in shown for part in ("train", "40/40", "loss 40"))
    for note in "a note", "and [red] too":  # each on its own line, with the bar redrawn below
        assert "40/40" in shown.split(f"{note}\r\n")[1]


def read_terminal(descriptor: int) -> str:
    """Return everything that is written to a terminal until the other side is closed."""
    shown = b""
    with open(descriptor, "rb", buffering=0) as terminal:
        try:
            while block := terminal.read(4096):
                shown += block
        except OSError:  # raised on Linux when no process has the terminal open
            pass
    return shown.decode(errors="replace")  # Control-C may cut the output inside a character
