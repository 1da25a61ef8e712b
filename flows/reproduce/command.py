"""`hinge reproduce`: run every experiment of the lecture notes, and write an HTML report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.exit_status import EXIT_DONE, EXIT_FAILED
from flows.command_line.options import (
    cluster_options,
    output_options,
    refuse_changes,
    resume_option,
    seed_option,
    store_option,
    take_cluster,
)

if TYPE_CHECKING:
    from flows.reproduce.results import ReproductionRecord, ReproductionResult


@click.command()
@store_option
@seed_option("all random draws")
@resume_option
@cluster_options
@output_options
@click.pass_context
def reproduce(
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    seed: int,
    **options: Any,
) -> int:
    """Reproduce the CS231n notes, and write a report.

    This command runs every experiment of the CS231n notes on optimisation, using all images of the
    store. It compares the results with the notes, and writes the report to report/index.html in the
    run's directory. The exit status is 1 if any result differs from the notes.
    """
    from flows.command_line.plan_runner import run_plan, show_record
    from flows.reproduce.flow import REPRODUCE, reproduce_flow
    from flows.services.console import Console
    from pipeline.reproduce.parameters import Reproduction

    cluster = take_cluster(options)
    refuse_changes(context, resume)
    console, plan = Console(json=as_json), REPRODUCE.plan(store, runs, Reproduction(seed), resume)
    record = run_plan(reproduce_flow, plan, console, cluster)
    show_record(console, record, _summary(record, plan.path_of(record)), _table(record.result))
    return EXIT_DONE if record.result.agree else EXIT_FAILED


def _table(result: "ReproductionResult") -> list[str]:
    """Return one line per comparison."""
    width = max(len(each.name) for each in result.comparisons)
    return [
        f"{'agrees ' if each.agrees else 'DIFFERS'}  {each.name:{width}}  "
        f"{each.ours} (notes: {each.notes})"
        for each in result.comparisons
    ]


def _summary(record: "ReproductionRecord", directory: Path) -> dict[str, str]:
    result = record.result
    agree = sum(each.agrees for each in result.comparisons)
    return {
        "agree": f"{agree} of {len(result.comparisons)} comparisons with the notes; "
        f"not comparable: {len(result.not_comparable)}",
        "took": f"{result.seconds:.1f} s",
        "files": f"{directory / 'report' / 'index.html'}",
    }
