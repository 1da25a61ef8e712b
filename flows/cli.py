"""What `hinge` does once it has started: its exit status, and the list of its commands."""

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
from flows.grid.command import grid
from flows.info.command import info
from flows.ingest.command import ingest
from flows.landscape.command import landscape
from flows.landscape.panels_command import panels
from flows.landscape.three_points_command import three_points
from flows.reproduce.command import reproduce
from flows.search.command import search
from flows.show.command import show
from flows.sweep.command import sweep
from flows.train.command import train


def main() -> None:
    """Run the command that was typed, and exit: 0 done, 1 the run failed, 2 bad usage or input."""
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not have all letters
    status = run_command(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def run_command(arguments: Sequence[str]) -> int:
    """Run `hinge` with these arguments and return its exit status."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect asks as it is imported
    try:
        status: int = hinge.main(
            list(arguments) or ["--help"], prog_name="hinge", standalone_mode=False
        )
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        more = f" (`{context.command_path if context else 'hinge'} --help` says more)"
        return _complain(error.format_message() + more)
    except INPUT_ERRORS as error:
        return _complain(str(error))
    except OSError as error:  # a full disk, or a reader of standard output who has seen enough
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
    *(landscape, panels, three_points, show, reproduce),
):
    hinge.add_command(command)
