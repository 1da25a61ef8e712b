"""`hinge check`: compare a gradient with finite differences, coordinate by coordinate."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.check.options import at_option, dtype_option, examples_option
from flows.command_line.exit_status import EXIT_DONE, EXIT_FAILED
from flows.command_line.options import (
    cluster_options,
    output_options,
    refuse_changes,
    reg_and_bias_options,
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
    """An option value that is an integer of at least 1, or `all`."""

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
    help="Gradient to check: that of the loss with respect to the weights, over all examples "
    "(full) or one mini-batch (minibatch); or that of each example's loss with respect to its "
    "pixels (data).",
)
@click.option(
    "--method",
    type=click.Choice(["structured", "black-box"]),
    default="structured",
    show_default=True,
    help="Compute all differences in closed form, in one pass over the images (structured); or "
    "move one weight at a time and evaluate the whole loss (black-box).",
)
@click.option(
    "--scheme",
    type=click.Choice(["centred", "forward"]),
    default="centred",
    show_default=True,
    help="Centred differences, (L(W + h) - L(W - h)) / 2h, or forward differences, "
    "(L(W + h) - L(W)) / h.",
)
@click.option(
    "--step",
    type=float,
    metavar="H",
    help="The difference step h: how far a coordinate moves.  [default: 1e-5; 1e-2 for data]",
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
    help="Images in the mini-batch (only with --gradient minibatch).",
)
@reg_and_bias_options
@dtype_option
@click.option(
    "--plan",
    is_flag=True,
    help="Print an estimate of the cost of --method black-box, and stop.",
)
@seed_option("the weights and the samples of coordinates and examples")
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
    """Check a gradient by finite differences.

    Each coordinate gets one verdict: pass (gradient and difference agree); kink (they differ
    because margins cross 0 between the two points of the difference); roundoff (they differ, and
    rounding can explain it); or wrong (they differ, and neither explains it). The exit status is 1
    if any coordinate is wrong.
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
    """Raise UsageError for options that have no effect without another option."""
    if "batch_size" in typed(context) and options["gradient"] != "minibatch":
        raise click.UsageError(
            "--batch-size has no effect without --gradient minibatch; omit it, or add --gradient "
            "minibatch"
        )
    if plan and options["method"] != "black-box":
        raise click.UsageError(
            "--plan has no effect without --method black-box; omit it, or add --method black-box"
        )


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

    estimate = estimate_cost(plan, cluster["workers"], cluster["scheduler"])
    summary = {
        "evaluations": f"{estimate.evaluations:,} of the loss",
        "tasks": f"{estimate.tasks:,}, over {estimate.shards} shards",
        "memory": f"{estimate.bytes_a_task / 1e6:,.1f} MB per task, in addition to its images",
        "time": f"about {estimate.seconds:,.0f} s on {estimate.threads} threads, extrapolated "
        "from a small sample on this machine",
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
        "relative error": f"at most {number_text(result.max_relative_error)}; with kinks removed, "
        f"at most {number_text(result.max_relative_error_after_kinks)}",
        "error": f"at most {number_text(result.max_error)}; with kinks removed, at most "
        f"{number_text(result.max_error_after_kinks)} (rounding explains up to "
        f"{number_text(result.largest_roundoff_bound)})",
    }
    if result.max_difference_to_structured is not None:
        difference = number_text(result.max_difference_to_structured)
        summary["black box"] = f"differs from the structured differences by at most {difference}"
    return summary | {
        "took": f"{result.seconds:.2f} s; {record.seconds:.1f} s in total",
        "files": f"errors.png, histogram.png, worst.csv, result.json in {directory}",
    }


def _table(result: "CheckResult") -> list[str]:
    """Return the lines of a table of the coordinates with the largest errors."""
    row = "{:>10} {:>7} {:>4} {:>6} {:>13} {:>13} {:>10} {:>13}  {}"
    names = ("class", "channel", "row", "column", "analytic", "numerical", "error", "kinks removed")
    lines = [row.format(*names, "verdict")]
    for each in result.worst:
        subject = each.example if each.class_ is None else each.class_
        place = ("" if number is None else number for number in (each.row, each.column))
        values = (number_text(value, ".6e") for value in (each.analytic, each.numerical))
        errors = (number_text(value) for value in (each.error, each.error_after_kinks))
        lines.append(row.format(subject, each.channel, *place, *values, *errors, each.verdict))
    return lines


def number_text(value: float, form: str = ".3g") -> str:
    """Format a number. A record stores inf and nan alike as null, so both become "non-finite"."""
    return format(value, form) if math.isfinite(value) else "non-finite"
