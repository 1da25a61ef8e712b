"""What a command shows, and where: results on standard output, the rest on standard error."""

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
with Console().progress("train", 40) as advance:
    for step in range(1, 41):
        advance(step, f"loss {step}")
    Console().note("by the way\\nand [red] too")
"""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def plain(value: Any) -> Any:
    """The value with null in place of what JSON has no number for, as JSON gives it back."""
    if isinstance(value, float) and (math.isnan(value) or abs(value) == math.inf):
        return None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@given(JSON)
@example(math.nan)
@example({"losses": [9.0, -math.inf]})
def test_whatever_a_result_holds_the_json_is_valid_and_says_the_same(value: Any) -> None:
    assert json.loads(to_json(value), parse_constant=refuse) == plain(value)


def test_numpy_scalars_of_a_result_are_numbers() -> None:
    result = {"a": np.float64(0.5), "b": np.int64(3), "c": np.float32("inf"), "d": np.bool_(True)}
    assert json.loads(to_json(result)) == {"a": 0.5, "b": 3, "c": None, "d": True}


def test_a_result_is_a_line_a_fact_or_one_object(capfd: pytest.CaptureFixture[str]) -> None:
    result, summary = {"loss": 0.5}, {"loss": "0.5000", "look at": "there"}
    Console().result(result, summary)
    assert capfd.readouterr() == ("loss     0.5000\nlook at  there\n", "")
    Console(json=True).result(result, summary)
    out, err = capfd.readouterr()
    assert (json.loads(out), err) == (result, "")


def test_a_note_never_reaches_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    for console in (Console(), Console(json=True)):
        console.note("by the way")
    assert capfd.readouterr() == ("", "by the way\n" * 2)


def test_no_bar_where_nobody_looks() -> None:
    shown = subprocess.run([sys.executable, "-c", PROGRESS], capture_output=True, check=True)
    assert (shown.stdout, shown.stderr) == (b"", b"by the way\nand [red] too\n")


def test_a_bar_on_a_terminal_shows_how_far_and_the_words() -> None:
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
    for note in "by the way", "and [red] too":  # lines of their own; the bar is drawn below again
        assert "40/40" in shown.split(f"{note}\r\n")[1]


def read_terminal(descriptor: int) -> str:
    """Read until the other side is closed."""
    shown = b""
    with open(descriptor, "rb", buffering=0) as terminal:
        try:
            while block := terminal.read(4096):
                shown += block
        except OSError:  # what Linux says of a terminal that nobody has open
            pass
    return shown.decode(errors="replace")  # what is typed may flush half a letter away
