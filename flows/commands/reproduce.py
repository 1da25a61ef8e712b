"""`hinge reproduce`: every experiment of the lecture notes, and a page of them."""

from pathlib import Path
from typing import Any

import click

from flows.commands.options import (
    cluster_options,
    output_options,
    refuse_changes,
    resume_option,
    seed_option,
    store_option,
    take_cluster,
)
from flows.commands.running import result_of
from flows.errors import EXIT_DONE, EXIT_FAILED


@click.command()
@store_option
@seed_option("everything that is drawn")
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
    """Reproduce the lecture notes, and write a page of it.

    Takes every experiment on all images, compares what comes out with what the notes print, and
    writes report/index.html in the run's directory. It exits with 1 if a comparison differs.
    """
    from flows.console import Console
    from flows.reproduce import plan_reproduction, reproduce_flow
    from flows.reproduce_results import Reproduction

    cluster = take_cluster(options)
    if resume is not None:
        refuse_changes(context)
    plan = plan_reproduction(store, runs, Reproduction(seed), resume)
    console, where = Console(json=as_json), (store, runs, resume)
    result = result_of(reproduce_flow, plan, where, console, cluster)
    directory = plan.path_of(result)
    console.result(result, _summary(result, directory), _table(result))
    return EXIT_DONE if result["agree"] else EXIT_FAILED


def _table(result: dict[str, Any]) -> list[str]:
    """Return a line for each comparison."""
    comparisons = result["comparisons"]
    width = max(len(each["name"]) for each in comparisons)
    return [
        f"{'agrees ' if each['agrees'] else 'DIFFERS'}  {each['name']:{width}}  "
        f"{each['ours']} (notes: {each['notes']})"
        for each in comparisons
    ]


def _summary(result: dict[str, Any], directory: Path) -> dict[str, str]:
    from flows.console import described_data

    agree = sum(each["agrees"] for each in result["comparisons"])
    return {
        "run": result["run"],
        "data": described_data(result["data"]),
        "agree": f"{agree} of {len(result['comparisons'])} comparisons with the notes; "
        f"{len(result['not_comparable'])} cannot be made",
        "took": f"{result['seconds']:.1f} s",
        "look at": f"{directory / 'report' / 'index.html'}",
    }
