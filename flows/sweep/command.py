"""`hinge sweep`: the loss by the size of one step."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
    help="The first and the last power of 10 that is a step size.",
)
@points_per_decade_option("Step sizes", default=1)
@click.option(
    "--at",
    metavar="W0|RUN",
    default="W0",
    show_default=True,
    help="The weights to step from: W0 for those of --init, or a run's final weights.",
)
@reg_option
@click.option(
    "--init",
    metavar="zeros|normal:SCALE|uniform:SCALE",
    default="uniform:1e-3",
    show_default=True,
    help="The weights that W0 stands for.",
)
@seed_option("these weights")
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
    """Take one step along the gradient, of every size.

    Prints the loss after each step, and finds the step with the lowest loss exactly.
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
    """Refuse the options that draw weights where `--at` names a run's."""
    for name in typed(context):
        if name in {"init", "seed"} and at != "W0":
            raise click.UsageError(f"--at {at} says which weights to step from; leave --{name} out")


def _table(result: "SweepResult") -> list[str]:
    """Return the lines that the notes print, one per step size."""
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
        "look at": f"steps.png, steps.csv, result.json in {directory}",
    }
