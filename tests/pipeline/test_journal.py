"""The journal: entries are stored completely or not at all, and a killed writer loses none."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.inputs.errors import PipelineError
from pipeline.journals.journal import Journal

WRITER = """
import sys
from pathlib import Path
import numpy as np
from pipeline.journals.journal import Journal
with Journal(Path(sys.argv[1])) as journal:
    for number in range(10**6):
        journal.append(number=number, values=np.full(30_000, float(number)))
        print(number, flush=True)
"""


def test_entries_are_read_in_the_order_of_appending(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        journal.append(a=np.arange(3), b=1.5)
        journal.append(c=np.zeros((2, 2)))
    with Journal(tmp_path / "journal") as journal:
        first, second = journal
        assert (first["a"].tolist(), float(first["b"])) == ([0, 1, 2], 1.5)
        assert second["c"].shape == (2, 2)
        journal.append(d=1)
        assert len(list(journal)) == 3


def test_appended_entries_survive_a_killed_writer(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout
        written = [int(next(writer.stdout)) for _ in range(40)]
        os.kill(writer.pid, signal.SIGKILL)
    with Journal(path) as journal:
        entries = list(journal)
    assert len(entries) >= len(written)
    for number, entry in enumerate(entries):
        assert int(entry["number"]) == number
        np.testing.assert_array_equal(entry["values"], np.full(30_000, float(number)))


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be one" * 100])
def test_file_that_is_not_a_journal_raises_pipeline_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal").write_bytes(content)
    with pytest.raises(PipelineError, match="is not a journal of this run"):
        Journal(tmp_path / "journal")


def test_truncated_journal_raises_pipeline_error(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.append(a=np.arange(20_000))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(PipelineError, match="is not a journal"), Journal(path) as journal:
        list(journal)


def test_flipped_bit_raises_pipeline_error(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    values = np.arange(100.0)
    with Journal(path) as journal:
        journal.append(a=values)
    content = bytearray(path.read_bytes())
    content[content.index(values.tobytes()) + 50] ^= 1
    path.write_bytes(content)
    with pytest.raises(PipelineError, match="Bad CRC-32"), Journal(path) as journal:
        list(journal)


def test_failed_append_raises_os_error(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        with sqlite3.connect(path) as other:
            other.execute("DROP TABLE entries")
        other.close()
        with pytest.raises(OSError, match="cannot be written"):
            journal.append(a=1)
