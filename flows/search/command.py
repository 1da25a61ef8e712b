"""The commands `hinge search random` and `hinge search local`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.exit_status import EXIT_DONE
from flows.command_line.options import (
    cluster_options,
    joined,
    output_options,
    refuse_changes,
    resume_option,
    seed_option,
    store_option,
    take_cluster,
)

if TYPE_CHECKING:
    from flows.search.results import LocalSearchRecord, RandomSearchRecord


@click.group(no_args_is_help=False)
def search() -> None:
    """Evaluate random weights and keep the best."""


trials_option = click.option(
    "--trials",
    type=click.IntRange(min=1),
    metavar="N",
    default=1000,
    show_default=True,
    help="Number of trials.",
)
run_options = joined(resume_option, cluster_options, output_options)


@search.command("random")
@store_option
@trials_option
@click.option(
    "--scale",
    type=float,
    metavar="SCALE",
    default=1e-4,
    show_default=True,
    help="Standard deviation of the random weights.",
)
@seed_option("the weights of every trial")
@click.option(
    "--block",
    type=int,
    metavar="N",
    default=32,
    show_default=True,
    help="Number of trials to evaluate together. It does not affect the result.",
)
@run_options
@click.pass_context
def search_random(
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    block: int,
    **options: Any,
) -> int:
    """Evaluate independent random weights."""
    from flows.command_line.plan_runner import run_plan, show_record
    from flows.search.flow import RANDOM_SEARCH, search_random_flow
    from flows.services.console import Console
    from pipeline.search.random_search import RandomSearch

    cluster = take_cluster(options)
    refuse_changes(context, resume, "block")
    console, parameters = Console(json=as_json), RandomSearch(**options)
    plan = RANDOM_SEARCH.plan(store, runs, parameters, resume, block=block)
    record = run_plan(search_random_flow, plan, console, cluster)
    speed = f"{record.result.trials_per_second:,.1f} per second"
    files = ("trials.png", "histogram.png")
    show_record(console, record, _summary(record, plan.path_of(record), speed, files))
    return EXIT_DONE


@search.command("local")
@store_option
@trials_option
@click.option(
    "--init-scale",
    type=float,
    metavar="SCALE",
    default=1e-3,
    show_default=True,
    help="Standard deviation of the initial weights.",
)
@click.option(
    "--step-scale",
    type=float,
    metavar="SCALE",
    default=1e-4,
    show_default=True,
    help="Standard deviation of the random steps.",
)
@seed_option("the initial weights and the steps")
@run_options
@click.pass_context
def search_local(
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    **options: Any,
) -> int:
    """Take random steps and accept those that lower the loss.

    Each trial takes one random step from the best weights so far.
    """
    from flows.command_line.plan_runner import run_plan, show_record
    from flows.search.flow import LOCAL_SEARCH, search_local_flow
    from flows.services.console import Console
    from pipeline.search.local_search import LocalSearch

    cluster = take_cluster(options)
    refuse_changes(context, resume)
    console = Console(json=as_json)
    plan = LOCAL_SEARCH.plan(store, runs, LocalSearch(**options), resume)
    record = run_plan(search_local_flow, plan, console, cluster)
    result = record.result
    course = f"{result.accepted:,} accepted; initial loss {result.initial_loss:.6f}"
    show_record(console, record, _summary(record, plan.path_of(record), course, ("trials.png",)))
    return EXIT_DONE


def _summary(
    record: "RandomSearchRecord | LocalSearchRecord",
    directory: Path,
    course: str,
    pictures: tuple[str, ...],
) -> dict[str, str]:
    """Return the lines of the summary; `course` is appended to the status."""
    result = record.result
    return {
        "status": f"{record.status} after {result.trials:,} trials, {course}",
        "best": f"loss {result.best_loss:.6f} in trial {result.best_trial}",
        "accuracy": f"{result.test_accuracy:.2%} of the test images, "
        f"{result.train_accuracy:.2%} of the training images",
        "weights": f"{directory / 'weights.npy'}, SHA-256 {result.weights_sha256[:16]}…",
        "files": f"{', '.join((*pictures, 'trials.csv', 'result.json'))} in {directory}",
    }
