"""A workbench in another process, for a program that runs several commands."""

import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flows.services.errors import ServerError
from flows.services.workbench import Workbench, WorkbenchFiles

START_SECONDS = 300.0
"""Time limit for the start, which takes about 10 s, or 20 s with a new Prefect database."""

_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.1


@contextmanager
def workbench_in_background(
    home: Path, runs: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Workbench]:
    """Run `hinge serve` in another process during the block, and yield its workbench.

    `hinge serve` prints its addresses. `home` is Prefect's home, `runs` the directory for the runs
    of deployments, and `environment` the environment of the process (default: that of this
    process). If the user already has a workbench, this one is yielded, and it is not ended.

    Raises ServerError if the workbench does not start.
    """
    files = WorkbenchFiles(home)
    running = files.workbench()
    if running and not running.stopping:
        yield running
        return
    hinge = Path(sysconfig.get_path("scripts")) / "hinge"
    command = [sys.executable, "-P", str(hinge), "serve", "--runs", str(runs)]
    # Control-C in the terminal is for the program, which then ends the workbench.
    with subprocess.Popen(command, env=environment, start_new_session=True) as serving:
        try:
            yield _await(files, serving)
        finally:
            serving.terminate()
            try:
                serving.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                serving.kill()


def _await(files: WorkbenchFiles, serving: "subprocess.Popen[bytes]") -> Workbench:
    deadline = time.monotonic() + START_SECONDS
    while not (workbench := files.workbench()):
        if serving.poll() is not None or time.monotonic() > deadline:
            raise ServerError("`hinge serve` did not start; see its output above")
        time.sleep(_POLL_SECONDS)
    return workbench
