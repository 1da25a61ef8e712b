"""`hinge check-step`: measure how the error of a finite difference depends on its step h."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.check.command import number_text
from flows.check.options import at_option, dtype_option, examples_option
from flows.command_line.exit_status import EXIT_DONE
from flows.command_line.options import (
    cluster_options,
    output_options,
    points_per_decade_option,
    refuse_changes,
    reg_and_bias_options,
    resume_option,
    seed_option,
    store_option,
    take_cluster,
)

if TYPE_CHECKING:
    from flows.check.step_results import StepStudyRecord, StepStudyResult


@click.command("check-step")
@store_option
@click.option(
    "--steps",
    metavar="LARGEST:SMALLEST",
    default="1e-3:1e-11",
    show_default=True,
    help="The largest and the smallest difference step h.",
)
@points_per_decade_option("Steps", default=2)
@at_option
@examples_option
@reg_and_bias_options
@dtype_option
@click.option(
    "--step",
    type=float,
    metavar="H",
    default=1e-5,
    show_default=True,
    help="The step h to mark in the figure.",
)
@seed_option("the weights and the sample of examples")
@resume_option
@cluster_options
@output_options
@click.pass_context
def check_step(
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    steps: str,
    points_per_decade: int,
    **options: Any,
) -> int:
    """Find the best step of a finite difference.

    The step h is the distance by which a coordinate moves. For each h, the gradient is compared
    with centred and forward differences in every coordinate.
    """
    from flows.check.step_flow import CHECK_STEP, check_step_flow
    from flows.command_line.plan_runner import run_plan, show_record
    from flows.services.console import Console
    from pipeline.check.parameters import GradientCheck
    from pipeline.check.step_study import StepStudy

    cluster = take_cluster(options)
    refuse_changes(context, resume)
    study = StepStudy(
        check=GradientCheck(**options), steps=steps, points_per_decade=points_per_decade
    )
    console, plan = Console(json=as_json), CHECK_STEP.plan(store, runs, study, resume)
    record = run_plan(check_step_flow, plan, console, cluster)
    show_record(console, record, _summary(record, plan.path_of(record)), _table(record.result))
    return EXIT_DONE


def _table(result: "StepStudyResult") -> list[str]:
    row = "{:>8} {:>8} {:>10} {:>13} {:>10} {:>10} {:>10}"
    names = ("step", "scheme", "error", "kinks removed", "crossings", "theory", "rounding")
    return [
        row.format(*names),
        *(
            row.format(
                f"{each.step:.1e}",
                each.scheme,
                number_text(each.error),
                number_text(each.error_after_kinks),
                f"{each.crossings:,}",
                number_text(each.truncation),
                number_text(each.rounding),
            )
            for each in result.steps
        ),
    ]


def _summary(record: "StepStudyRecord", directory: Path) -> dict[str, str]:
    result = record.result
    best, least = result.best_step, result.least_error
    return {
        "best step": f"centred {best.centred:.1e} (error {least.centred:.2g}), "
        f"forward {best.forward:.1e} (error {least.forward:.2g})",
        "took": f"{result.seconds:.1f} s",
        "files": f"steps.png, steps.csv, result.json in {directory}",
    }
