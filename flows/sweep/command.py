"""The command `hinge sweep`: the loss after one gradient step, by step size."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.completion import complete_run
from flows.command_line.exit_status import EXIT_DONE
from flows.command_line.options import (
    cluster_options,
    output_options,
    points_per_decade_option,
    refuse_changes,
    reg_option,
    resume_option,
    seed_option,
    store_option,
    take_cluster,
    typed,
)

if TYPE_CHECKING:
    from flows.sweep.results import SweepRecord, SweepResult


@click.command()
@store_option
@click.option(
    "--exponents",
    metavar="FIRST:LAST",
    default="-10:-1",
    show_default=True,
    help="Step sizes from 10^FIRST to 10^LAST.",
)
@points_per_decade_option("Step sizes", default=1)
@click.option(
    "--at",
    metavar="W0|RUN",
    shell_complete=complete_run,
    default="W0",
    show_default=True,
    help="Weights to step from: W0 for those of --init, or the final weights of a run.",
)
@reg_option
@click.option(
    "--init",
    metavar="zeros|normal:SCALE|uniform:SCALE",
    default="uniform:1e-3",
    show_default=True,
    help="The weights W0: zeros, normal with standard deviation SCALE, or uniform from 0 to SCALE.",
)
@seed_option("W0")
@resume_option
@cluster_options
@output_options
@click.pass_context
def sweep(
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    **options: Any,
) -> int:
    """Compute the loss after one gradient step, by step size.

    This command prints the loss for each step size, and the exact minimum over all step sizes.
    """
    from flows.command_line.plan_runner import run_plan, show_record
    from flows.services.console import Console
    from flows.sweep.flow import SWEEP, sweep_flow
    from pipeline.sweep.parameters import Sweep

    cluster = take_cluster(options)
    refuse_changes(context, resume)
    _refuse_drawing(context, options["at"])
    console, plan = Console(json=as_json), SWEEP.plan(store, runs, Sweep(**options), resume)
    record = run_plan(sweep_flow, plan, console, cluster)
    show_record(console, record, _summary(record, plan.path_of(record)), _table(record.result))
    return EXIT_DONE


def _refuse_drawing(context: click.Context, at: str) -> None:
    """Raise UsageError if `--init` or `--seed` was given and `--at` names a run."""
    for name in typed(context):
        if name in {"init", "seed"} and at != "W0":
            raise click.UsageError(f"--at {at} already chooses the weights; omit --{name}")


def _table(result: "SweepResult") -> list[str]:
    """Return the lines that the notes print: the original loss, then one line per step size."""
    return [
        f"original loss: {result.initial_loss:f}",
        *(f"for step size {each.step_size:e} new loss: {each.loss:f}" for each in result.losses),
    ]


def _summary(record: "SweepRecord", directory: Path) -> dict[str, str]:
    result, exact = record.result, record.result.exact_minimum
    return {
        "best": f"step size {result.best_step_size:e}, loss {result.best_loss:f}",
        "exact minimum": f"step size {exact.step_size:e}, loss {exact.loss:f} "
        f"({exact.breakpoints:,} breakpoints)",
        "took": f"{record.seconds:.1f} s",
        "files": f"steps.png, steps.csv, result.json in {directory}",
    }
