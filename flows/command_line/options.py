"""The options that commands share, and what is refused of them at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])

_WHERE_ANY_RUN_MAY_DIFFER = {"store", "resume", "workers", "scheduler", "runs", "as_json"}


def joined(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Join some options to one decorator; they are listed in this order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


store_option = click.option(
    "--store", required=True, metavar="URL", help="The Zarr store: a path or a URL."
)
output_options = joined(
    click.option(
        "--runs",
        type=click.Path(path_type=Path, file_okay=False),
        default="runs",
        show_default=True,
        callback=lambda _context, _option, runs: runs.expanduser(),
        help="Where runs are kept.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object."),
)
cluster_options = joined(
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Worker processes of a cluster on this machine.  [default: one a core]",
    ),
    click.option("--scheduler", metavar="ADDRESS", help="Use the Dask cluster of this scheduler."),
)
resume_option = click.option("--resume", metavar="RUN", help="Resume an interrupted run.")


reg_option = click.option(
    "--reg",
    type=float,
    metavar="R",
    default=0.0,
    show_default=True,
    help="R in the loss's R ||W||^2 (without the bias).",
)


def seed_option(decides: str) -> Callable[[F], F]:
    """Make the option `--seed`; `decides` says in its help what hangs on it."""
    return click.option(
        "--seed",
        type=click.IntRange(min=0),
        metavar="N",
        default=0,
        show_default=True,
        help=f"Decides {decides}.",
    )


def points_per_decade_option(points: str, default: int) -> Callable[[F], F]:
    """Make the option `--points-per-decade`; `points` says in its help what they are."""
    return click.option(
        "--points-per-decade",
        type=int,
        metavar="N",
        default=default,
        show_default=True,
        help=f"{points} from one power of 10 to the next.",
    )


def check_cluster(workers: int | None, scheduler: str | None) -> None:
    """Refuse two answers to where the work is done."""
    if workers and scheduler:
        raise click.UsageError(
            "--workers starts a cluster here and --scheduler uses another; give one of them"
        )


def take_cluster(options: dict[str, Any]) -> dict[str, Any]:
    """Take what says where the work is done out of the options, and check it."""
    cluster = {name: options.pop(name) for name in ("workers", "scheduler")}
    check_cluster(**cluster)
    return cluster


def typed(context: click.Context) -> list[str]:
    """Return the names of the options that were typed."""
    return [
        name
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]


def refuse_changes(context: click.Context, resume: str | None, *may_differ: str) -> None:
    """Refuse, for a run to resume, options that would change what it is.

    The options `may_differ` do not.
    """
    for name in typed(context) if resume is not None else ():
        if name not in _WHERE_ANY_RUN_MAY_DIFFER | {*may_differ}:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(
                f"a resumed run keeps its parameters; leave {option} out, or start a new run"
            )
