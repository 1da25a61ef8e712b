"""A reproduction that is interrupted at random moments ends at once and resumes bit-identically.

`HINGE_INTERRUPTIONS` is the number of moments, `HINGE_INTERRUPTION_SEED` draws the same ones again.
The test prints where the interruptions arrived and how long the ends took (`pytest -s` shows it).
"""

import json
import os
import random
import re
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from flows.services.interruption import SIGNALS
from tests.flows.conftest import User, until

MOMENTS = int(os.environ.get("HINGE_INTERRUPTIONS", "3"))
SEED = int(os.environ.get("HINGE_INTERRUPTION_SEED", str(time.time_ns() % 1_000_000)))

SECONDS = 2.0
"""Time limit for the end of a command, on an idle machine."""

KERNEL_SECONDS = 5.0
"""The same with a kernel under way, or while a cluster starts on two cores."""

MARKER = "HINGE_INTERRUPTED_TEST"
"""An environment variable by which the processes of a command are found."""


@dataclass(frozen=True)
class Ended:
    """The end of a command."""

    status: int
    where: str
    """The part that was running at the signal, or what came before or after the run."""
    seconds: float
    """From the signal to the end."""


def processes(mark: str) -> list[str]:
    """Return the command lines of the running processes that a command has started."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        try:
            alive = process.info["status"] != psutil.STATUS_ZOMBIE
            if alive and process.environ().get(MARKER) == mark:
                found.append(shlex.join(process.info["cmdline"] or []))
        except psutil.Error:
            continue
    return found


def status_of(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["status"])


def running_part(runs: Path) -> str:
    """Return the name of the part that is running, or `between parts` or `before the run`."""
    for run in runs.glob("reproduce-*"):
        if status_of(run) != "running":
            return "before the run"
        parts = {file: status_of(file.parent) for file in run.glob("parts/*/*/result.json")}
        names = [file.parts[-3] for file, status in parts.items() if status == "running"]
        return names[0] if names else "between parts"
    return "before the run"


def interrupt(user: User, store: Path, directory: Path, delay: float, number: int) -> Ended:
    """Start or resume a reproduction, send it a signal after `delay` seconds, and check its end."""
    runs, mark = directory / "runs", f"{os.getpid()}-{time.monotonic_ns()}"
    earlier = [*runs.glob("reproduce-*")]
    resume = ["--resume", earlier[0]] if earlier else []
    given = ("reproduce", "--store", store, *resume, "--workers", 1)
    process = user.start(
        *given,
        cwd=directory,
        environment={"PREFECT_API_URL": user.api, MARKER: mark},
        start_new_session=True,
    )
    with process:
        deadline = time.monotonic() + delay
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        where = running_part(runs)
        if number == signal.SIGINT:  # as the terminal does, to all processes
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        sent = time.monotonic()
        _, err = process.communicate(timeout=120)
    seconds = time.monotonic() - sent
    until(lambda: not processes(mark), f"the processes to end: {processes(mark)}", 10)
    if process.returncode in (0, 1):  # it had finished
        return Ended(process.returncode, "after the run", seconds)
    lines = [line for line in err.splitlines() if line.startswith("hinge: ")]
    assert (process.returncode, len(lines)) == (130, 1), (where, err)
    assert "Traceback" not in err, (where, err)
    started = [*runs.glob("reproduce-*")]
    said = f"`hinge reproduce --store {store} --resume {{}}` resumes it"
    shown = [f"hinge: interrupted; {said.format(f'runs/{run.name}')}" for run in started]
    shown += [f"hinge: interrupted; {said.format(run)}" for run in started]
    assert lines[0] in ["hinge: interrupted", *shown], (where, err)
    if where != "before the run":
        assert lines[0] in shown, (where, err)
    assert [status_of(run) for run in started] in ([], ["interrupted"]), where
    return Ended(130, where, seconds)


CHANGING = ("started", "finished", "seconds", "per_second", "timings", "run", "cluster", "machine")
"""Parts of the names of a record's values that differ from run to run."""


RUN_ID = re.compile(r"\b\d{8}-\d{6}-[0-9a-f]{8}\b")
"""The part of the name of a run's directory that differs from run to run."""


def lasting(value: Any) -> Any:
    """Return a record without the values, and parts of texts, that differ from run to run."""
    if isinstance(value, dict):
        return {
            name: lasting(each)
            for name, each in value.items()
            if not any(part in name for part in CHANGING)
        }
    if isinstance(value, str):
        return RUN_ID.sub("ID", value)
    return [lasting(each) for each in value] if isinstance(value, list) else value


def results(run: Path) -> Iterator[tuple[str, Any]]:
    """Yield the lasting values of all records, and the content of all tables and weights."""
    for file in sorted(run.glob("parts/*/*/*")):
        name = f"{file.parts[-3]}/{file.name}"
        if file.name == "result.json":
            yield name, lasting(json.loads(file.read_text()))
        elif file.suffix in {".csv", ".npy"}:
            yield name, file.read_bytes()


def finish(user: User, store: Path, directory: Path) -> Path:
    """Run or resume a reproduction to its end, and return its directory."""
    earlier = [*(directory / "runs").glob("reproduce-*")]
    resume = ["--resume", earlier[0]] if earlier else []
    given = ("reproduce", "--store", store, *resume, "--workers", 1)
    finished = user.hinge(*given, cwd=directory, PREFECT_API_URL=user.api)
    assert finished.status in (0, 1), finished.err
    [run] = (directory / "runs").iterdir()
    assert status_of(run) == "done"
    return run


@pytest.mark.slow
@pytest.mark.timeout(600 + 180 * MOMENTS)
def test_reproduction_interrupted_at_random_moments_resumes_bit_identically(
    user: User, store: Path, tmp_path: Path
) -> None:
    print(f"\n{MOMENTS} moments, HINGE_INTERRUPTION_SEED={SEED}")
    draw = random.Random(SEED)
    whole = tmp_path / "whole"
    whole.mkdir()
    start = time.monotonic()
    expected = dict(results(finish(user, store, whole)))
    longest = time.monotonic() - start
    ends = list[Ended]()
    while len(ends) < MOMENTS:
        directory = tmp_path / f"interrupted-{len(ends)}"
        directory.mkdir()
        while len(ends) < MOMENTS:
            number = draw.choice(SIGNALS)
            ends.append(interrupt(user, store, directory, draw.uniform(0, longest), number))
            print(f"{number.name} {ends[-1]}", flush=True)
            if ends[-1].status != 130:
                break
        assert dict(results(finish(user, store, directory))) == expected
    _report(ends)
    limit = float(os.environ.get("HINGE_INTERRUPTION_SECONDS", KERNEL_SECONDS))
    assert max(each.seconds for each in ends) <= limit


def _report(ends: list[Ended]) -> None:
    """Print where the signals arrived, and how long the ends took."""
    for where, count in Counter(each.where for each in ends).most_common():
        took = sorted(each.seconds for each in ends if each.where == where)
        print(f"{where}: {count}, {took[0]:.2f} to {took[-1]:.2f} s")
    late = sum(each.seconds > SECONDS for each in ends)
    print(f"{late} of {len(ends)} took longer than {SECONDS:g} s")
