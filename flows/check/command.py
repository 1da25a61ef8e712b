"""`hinge check`: compare a gradient with finite differences, coordinate by coordinate."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.check.options import at_option, dtype_option, examples_option, reg_bias_option
from flows.command_line.exit_status import EXIT_DONE, EXIT_FAILED
from flows.command_line.options import (
    cluster_options,
    output_options,
    refuse_changes,
    reg_option,
    resume_option,
    seed_option,
    store_option,
    take_cluster,
    typed,
)

if TYPE_CHECKING:
    from flows.check.flow import CheckPlan
    from flows.check.results import CheckRecord, CheckResult
    from flows.services.console import Console
    from pipeline.check.parameters import GradientCheck


class _Count(click.ParamType[Any]):
    """A whole number of at least 1, or `all`."""

    name = "count"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        """Return the number, or `all`."""
        return value if value == "all" else click.IntRange(min=1).convert(value, parameter, context)


@click.command()
@store_option
@at_option
@click.option(
    "--gradient",
    type=click.Choice(["full", "minibatch", "data"]),
    default="full",
    show_default=True,
    help="The loss's gradient in the weights, over all examples or over a mini-batch; or the "
    "gradient of each example's loss in its pixels.",
)
@click.option(
    "--method",
    type=click.Choice(["structured", "black-box"]),
    default="structured",
    show_default=True,
    help="Compute the differences of all hinges in one pass, or evaluate the loss at every moved "
    "weight.",
)
@click.option(
    "--scheme",
    type=click.Choice(["centred", "forward"]),
    default="centred",
    show_default=True,
    help="Which two points a difference is between.",
)
@click.option(
    "--step",
    type=float,
    metavar="H",
    help="How far a coordinate is moved.  [default: 1e-5; 1e-2 for data]",
)
@click.option(
    "--coordinates",
    type=_Count(),
    metavar="all|N",
    default="all",
    show_default=True,
    help="Check all weights, or a random sample of N.",
)
@examples_option
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    default=256,
    show_default=True,
    help="Images in a mini-batch, with --gradient minibatch.",
)
@reg_option
@reg_bias_option
@dtype_option
@click.option(
    "--plan",
    is_flag=True,
    help="Estimate what --method black-box would cost, and do not run it.",
)
@seed_option("the weights, and which coordinates and examples are sampled")
@resume_option
@cluster_options
@output_options
@click.pass_context
def check(
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    plan: bool,
    **options: Any,
) -> int:
    """Check a gradient by finite differences, in every coordinate.

    Each coordinate passes; or is off by what the kinks it crosses explain; or by no more than
    rounding explains; or is wrong. If any is wrong, the exit status is 1.
    """
    from flows.check.flow import CHECK, check_flow
    from flows.command_line.plan_runner import run_plan, show_record
    from flows.services.console import Console

    cluster = take_cluster(options)
    refuse_changes(context, resume)
    _refuse_without_effect(context, options, plan)
    console = Console(json=as_json)
    planned = CHECK.plan(store, runs, _parameters(options), resume)
    if plan:
        _show_estimate(console, planned, cluster)
        return EXIT_DONE
    record = run_plan(check_flow, planned, console, cluster)
    result, wrong = record.result, record.result.verdicts.wrong
    summary = _summary(record, planned.path_of(record))
    show_record(console, record, summary, _table(result) if wrong else [])
    return EXIT_FAILED if wrong else EXIT_DONE


def _refuse_without_effect(context: click.Context, options: Mapping[str, Any], plan: bool) -> None:
    """Refuse options that have no effect without another one."""
    if "batch_size" in typed(context) and options["gradient"] != "minibatch":
        raise click.UsageError("--batch-size is of a mini-batch; add --gradient minibatch")
    if plan and options["method"] != "black-box":
        raise click.UsageError("--plan is of the black box; add --method black-box")


def _parameters(options: Mapping[str, Any]) -> "GradientCheck":
    """Return the check that the options describe."""
    from kernels.finite_difference import Scheme
    from pipeline.check.parameters import DATA_STEP, STEP, CheckMethod, Gradient, GradientCheck

    gradient, step = Gradient(options["gradient"]), options["step"]
    if step is None:
        step = DATA_STEP if gradient is Gradient.DATA else STEP
    typed_values = {
        "gradient": gradient,
        "method": CheckMethod(options["method"]),
        "scheme": Scheme(options["scheme"]),
        "step": step,
    }
    return GradientCheck(**{**options, **typed_values})


def _show_estimate(console: "Console", plan: "CheckPlan", cluster: Mapping[str, Any]) -> None:
    from dataclasses import asdict

    from flows.check.estimate import estimate_cost

    estimate = estimate_cost(plan, **cluster)
    summary = {
        "evaluations": f"{estimate.evaluations:,} of the loss",
        "tasks": f"{estimate.tasks:,}, over {estimate.shards} shards",
        "memory": f"{estimate.bytes_a_task / 1e6:,.1f} MB per task, beside its images",
        "time": f"about {estimate.seconds:,.0f} s on {estimate.threads} threads, estimated from "
        "a small sample on this machine",
    }
    console.result(asdict(estimate), summary)


def _summary(record: "CheckRecord", directory: Path) -> dict[str, str]:
    from flows.runs.record import plain

    result = record.result
    summary = {
        "checked": f"{result.coordinates:,} coordinates over {result.examples:,} images",
        "verdicts": ", ".join(
            f"{count:,} {verdict}" for verdict, count in plain(result.verdicts).items()
        ),
        "kinks": f"{result.kink_crossings:,} crossings",
        "relative error": f"at most {number_text(result.max_relative_error)}; once kinks are "
        f"accounted for {number_text(result.max_relative_error_after_kinks)}",
        "error": f"at most {number_text(result.max_error)}; once kinks are accounted for "
        f"{number_text(result.max_error_after_kinks)}, where rounding may make up to "
        f"{number_text(result.largest_roundoff_bound)}",
    }
    if result.max_difference_to_structured is not None:
        difference = number_text(result.max_difference_to_structured)
        summary["black box"] = f"at most {difference} from the structured differences"
    return summary | {
        "took": f"{result.seconds:.2f} s, {record.seconds:.1f} s with all else",
        "look at": f"errors.png, histogram.png, worst.csv, result.json in {directory}",
    }


def _table(result: "CheckResult") -> list[str]:
    """Return the coordinates that are the farthest off, in columns."""
    row = "{:>10} {:>7} {:>4} {:>6} {:>13} {:>13} {:>10} {:>10}  {}"
    names = ("class", "channel", "row", "column", "analytic", "numerical", "error", "less kinks")
    lines = [row.format(*names, "verdict")]
    for each in result.worst:
        subject = each.example if each.class_ is None else each.class_
        place = ("" if number is None else number for number in (each.row, each.column))
        values = (number_text(value, ".6e") for value in (each.analytic, each.numerical))
        errors = (number_text(value) for value in (each.error, each.error_after_kinks))
        lines.append(row.format(subject, each.channel, *place, *values, *errors, each.verdict))
    return lines


def number_text(value: float, form: str = ".3g") -> str:
    """Write a number. A record does not keep which one a non-finite number was."""
    return format(value, form) if math.isfinite(value) else "no number"
