"""Options that commands share, and their checks."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from flows.command_line.completion import complete_own_run, complete_store

F = TypeVar("F", bound=Callable[..., Any])

_WHERE_ANY_RUN_MAY_DIFFER = {
    *("store", "resume", "runs", "as_json"),
    *("workers", "scheduler", "performance_report"),
}


def joined(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator that adds the options; `--help` lists them in this order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _in_a_directory(
    _context: click.Context, _option: click.Parameter, file: Path | None
) -> Path | None:
    """Return the file's path. Raise BadParameter if its directory does not exist."""
    file = file and file.expanduser()
    if file and not file.parent.is_dir():
        raise click.BadParameter(f"there is no directory {file.parent}; create it first")
    return file


store_option = click.option(
    "--store",
    required=True,
    metavar="URL",
    shell_complete=complete_store,
    help="Zarr store: a path or a URL.",
)
output_options = joined(
    click.option(
        "--runs",
        type=click.Path(path_type=Path, file_okay=False),
        default="runs",
        show_default=True,
        callback=lambda _context, _option, runs: runs.expanduser(),
        help="Directory that contains the runs.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the result as a JSON object."),
)
workers_or_scheduler_options = joined(
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Number of worker processes to start on this machine, with one thread each.  "
        "[default: one process with a thread per core]",
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Address of a running Dask scheduler to use instead of starting workers.",
    ),
)


def with_server(command: F) -> F:
    """Make a command launch the local Prefect server first, so that it starts during the imports.

    Apply it to a command that runs a flow or holds the workbench. An option `plan` means that the
    command only shows what it would do, without a server.
    """

    @wraps(command)
    def launch_first(*args: Any, **kwargs: Any) -> Any:
        from flows.services.server_ahead import launch_server_ahead  # noqa: PLC0415 (not for --help)

        if not kwargs.get("plan"):
            launch_server_ahead()
        return command(*args, **kwargs)

    return launch_first  # type: ignore[return-value]


cluster_options = joined(
    workers_or_scheduler_options,
    click.option(
        "--performance-report",
        type=click.Path(path_type=Path, dir_okay=False, writable=True),
        metavar="FILE",
        callback=_in_a_directory,
        help="HTML file to write Dask's report of the command's tasks to.",
    ),
    with_server,
)
resume_option = click.option(
    "--resume",
    metavar="RUN",
    shell_complete=complete_own_run,
    help="Name or directory of an interrupted run to resume.",
)


def _reg_option(unless: str = "") -> Callable[[F], F]:
    """Return the option `--reg`; `unless` completes its help: "... excludes the bias"."""
    return click.option(
        "--reg",
        type=float,
        metavar="R",
        default=0.0,
        show_default=True,
        help=f"R in the regulariser R ||W||^2, which excludes the bias{unless}.",
    )


reg_option = _reg_option()
reg_and_bias_options = joined(
    _reg_option(" unless --reg-bias is given"),
    click.option("--reg-bias", is_flag=True, help="Include the bias in the regulariser."),
)


def seed_option(decides: str) -> Callable[[F], F]:
    """Return the option `--seed`; `decides` completes its help: "Random seed for ..."."""
    return click.option(
        "--seed",
        type=click.IntRange(min=0),
        metavar="N",
        default=0,
        show_default=True,
        help=f"Random seed for {decides}.",
    )


def points_per_decade_option(points: str, default: int) -> Callable[[F], F]:
    """Return the option `--points-per-decade`; `points` begins its help: "... per power of 10."."""
    return click.option(
        "--points-per-decade",
        type=int,
        metavar="N",
        default=default,
        show_default=True,
        help=f"{points} per power of 10.",
    )


def check_cluster(workers: int | None, scheduler: str | None) -> None:
    """Raise UsageError if both `--workers` and `--scheduler` were given."""
    if workers and scheduler:
        raise click.UsageError(
            "--workers starts a cluster on this machine and --scheduler uses a running one; give "
            "only one of them"
        )


def take_cluster(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the options of the cluster from the options, check them, and return them.

    They are `workers`, `scheduler` and `performance_report`.

    Raises UsageError if `workers` and `scheduler` were given.
    """
    cluster = {name: options.pop(name) for name in ("workers", "scheduler", "performance_report")}
    check_cluster(cluster["workers"], cluster["scheduler"])
    return cluster


def typed(context: click.Context) -> list[str]:
    """Return the names of the options that were given on the command line."""
    return [
        name
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]


def refuse_changes(context: click.Context, resume: str | None, *may_differ: str) -> None:
    """Raise UsageError if an option would change the parameters of the run to resume.

    The options in `may_differ`, and those that apply to every run, are allowed.
    """
    for name in typed(context) if resume is not None else ():
        if name not in _WHERE_ANY_RUN_MAY_DIFFER | {*may_differ}:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(
                f"a resumed run keeps its parameters; omit {option}, or start a new run"
            )
