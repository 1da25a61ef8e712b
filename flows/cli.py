"""The command line `hinge`: its commands and exit statuses."""

import atexit
import io
import os
import sys
from collections.abc import Sequence

import click

from flows.check.command import check
from flows.check.step_command import check_step
from flows.command_line.exit_status import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    INPUT_ERRORS,
)
from flows.completion.command import completion
from flows.doctor.command import doctor
from flows.grid.command import grid
from flows.history.command import list_recorded_runs
from flows.info.command import info
from flows.ingest.command import ingest
from flows.landscape.command import landscape
from flows.landscape.panels_command import panels
from flows.landscape.three_points_command import three_points
from flows.reproduce.command import reproduce
from flows.search.command import search
from flows.serve.command import serve
from flows.services.errors import WorkbenchLostError
from flows.show.command import show
from flows.sweep.command import sweep
from flows.train.command import train


def main() -> None:
    """Run the command in `sys.argv`, and exit with its status.

    0: done. 1: the run failed. 2: wrong usage or input. 130: interrupted.
    """
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for terminals that lack a character
    ended: list[int] = []
    atexit.register(_leave, ended)  # the first to be registered is the last to be called
    status = run_command(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if status == EXIT_INTERRUPTED:
        os._exit(status)  # an abandoned start of a cluster may still be under way in a thread
    ended.append(status)
    sys.exit(status)


def _leave(ended: list[int]) -> None:
    """End the process with the status of a command that has ended.

    Threads have been joined and the libraries' exit handlers have run. Python would now free a
    million objects one by one, which takes a second.
    """
    if ended:
        sys.stderr.flush()
        os._exit(ended[0])


def run_command(arguments: Sequence[str]) -> int:
    """Run `hinge` with `arguments`, and return its exit status."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect reads it on import
    try:
        status: int = hinge.main(
            list(arguments) or ["--help"], prog_name="hinge", standalone_mode=False
        )
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        more = f" (`{context.command_path if context else 'hinge'} --help` shows the usage)"
        return _complain(error.format_message() + more)
    except INPUT_ERRORS as error:
        return _complain(str(error))
    except WorkbenchLostError as error:
        return _complain(str(error), EXIT_FAILED)
    except OSError as error:  # such as a full disk, or a closed standard output
        return (
            EXIT_DONE if isinstance(error, BrokenPipeError) else _complain(str(error), EXIT_FAILED)
        )
    except (click.Abort, KeyboardInterrupt) as error:
        what_next = str(error.__cause__ or error)
        print("hinge: interrupted" + (what_next and f"; {what_next}"), file=sys.stderr)
        return EXIT_INTERRUPTED
    return status


def _complain(message: str, status: int = EXIT_USAGE) -> int:
    print(f"hinge: {' '.join(message.split())}", file=sys.stderr)
    return status


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hinge")
def hinge() -> None:
    """Optimise a multiclass SVM on CIFAR-10 with Dask, Zarr and Prefect."""


for command in (
    *(ingest, info, train, search, sweep, grid, check, check_step),
    *(landscape, panels, three_points, show, list_recorded_runs, reproduce),
    *(serve, doctor, completion),
):
    hinge.add_command(command)
