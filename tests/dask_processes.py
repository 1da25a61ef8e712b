"""Schedulers and workers of Dask in processes of their own, with or without hinge installed."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

_MAIN = "import sys; {path}from distributed.cli.{program} import main; main()"

WITH_HINGE = [sys.executable, "-P"]
WITHOUT_HINGE = [sys.executable, "-I", "-S"]
"""Python without the `.pth` files of this environment, so that it does not find hinge."""


@contextmanager
def _dask_process(
    program: str,
    *arguments: str,
    python: Sequence[str] = WITH_HINGE,
    path: Path | None = None,
    before: Sequence[str] = (),
) -> Iterator["subprocess.Popen[str]"]:
    """Run `dask_scheduler` or `dask_worker` with `arguments`, and stop it after the block.

    Its output goes to a pipe. `path` is the first place where Python looks for
    packages, and `before` a command that runs Python.
    """
    found = [] if python is WITH_HINGE else [sysconfig.get_path("purelib")]
    main = _MAIN.format(path=f"sys.path += {found}; ", program=program)
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    with subprocess.Popen(
        [*before, *python, "-c", main, *arguments, "--no-dashboard", "--host", "127.0.0.1"],
        env=environment,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            process.wait()  # the pipe ends, and with it the thread that reads it


@contextmanager
def dask_scheduler(
    python: Sequence[str] = WITH_HINGE,
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run a scheduler, and yield its address and its process."""
    with _dask_process("dask_scheduler", "--port", "0", python=python) as process:
        yield _read(process, r"Scheduler at:\s+(tcp://\S+)"), process


@contextmanager
def dask_worker(
    scheduler: str,
    python: Sequence[str] = WITH_HINGE,
    path: Path | None = None,
    before: Sequence[str] = (),
) -> Iterator["subprocess.Popen[str]"]:
    """Run a worker without a nanny, so that its process is the worker's."""
    arguments = (scheduler, "--no-nanny", "--nthreads", "1", "--memory-limit", "1GB")
    with _dask_process(
        "dask_worker", *arguments, python=python, path=path, before=before
    ) as process:
        _read(process, r"(Registered to:\s+tcp)")
        yield process


def _read(process: "subprocess.Popen[str]", pattern: str) -> str:
    """Read the output of a process up to a line that contains the pattern; return its group.

    The rest is read and dropped, because a process with a full pipe would hang.
    """
    output = process.stdout
    assert output is not None
    for line in output:
        if found := re.search(pattern, line):
            Thread(target=output.read, daemon=True).start()
            return found[1]
    raise AssertionError(f"the process ended with status {process.wait()}")
