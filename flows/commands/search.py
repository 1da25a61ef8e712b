"""`hinge search`: the best of many weights that are drawn at random, tested."""

from pathlib import Path
from typing import Any

import click

from flows.commands.options import (
    cluster_options,
    joined,
    output_options,
    refuse_changes,
    resume_option,
    seed_option,
    store_option,
    take_cluster,
)
from flows.commands.running import result_of
from flows.defaults import BLOCK, TRIALS
from flows.errors import EXIT_DONE


@click.group(no_args_is_help=False)
def search() -> None:
    """Search for weights at random and test the best."""


trials_option = click.option(
    "--trials",
    type=click.IntRange(min=1),
    metavar="N",
    default=TRIALS,
    show_default=True,
    help="Weights to try.",
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
    help="Standard deviation of the weights.",
)
@seed_option("the weights of every trial")
@click.option(
    "--block",
    type=int,
    metavar="N",
    default=BLOCK,
    show_default=True,
    help="Trials taken together; it changes nothing in the result.",
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
    """Try random weights, each drawn anew."""
    from flows.console import Console
    from flows.search import plan_random, search_random_flow
    from pipeline.random_search import RandomSearch

    cluster = _cluster(context, resume, options, "block")
    plan = plan_random(store, runs, RandomSearch(**options), resume, block)
    console, where = Console(json=as_json), (store, runs, resume)
    result = result_of(search_random_flow, plan, where, console, cluster, block=block)
    pictures = ("trials.png", "histogram.png")
    console.result(result, _summary(result, plan.path_of(result), *pictures))
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
    help="Standard deviation of the weights it starts from.",
)
@click.option(
    "--step-scale",
    type=float,
    metavar="SCALE",
    default=1e-4,
    show_default=True,
    help="Standard deviation of a step.",
)
@seed_option("the first weights and every step")
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
    """Try random steps, each from the best weights so far."""
    from flows.console import Console
    from flows.search import plan_local, search_local_flow
    from pipeline.local_search import LocalSearch

    cluster = _cluster(context, resume, options)
    plan = plan_local(store, runs, LocalSearch(**options), resume)
    console, where = Console(json=as_json), (store, runs, resume)
    result = result_of(search_local_flow, plan, where, console, cluster)
    console.result(result, _summary(result, plan.path_of(result), "trials.png"))
    return EXIT_DONE


def _cluster(
    context: click.Context, resume: str | None, options: dict[str, Any], *may_differ: str
) -> dict[str, Any]:
    """Take what says where the work is done out of the options, which are then a search's own."""
    cluster = take_cluster(options)
    if resume is not None:
        refuse_changes(context, *may_differ)
    return cluster


def _summary(result: dict[str, Any], directory: Path, *pictures: str) -> dict[str, str]:
    from flows.console import described_data

    local = "accepted" in result
    of_it = (
        f"{result['accepted']:,} accepted, from a loss of {result['initial_loss']:.6f}"
        if local
        else f"{result['trials_per_second']:,.1f} a second"
    )
    return {
        "run": result["run"],
        "data": described_data(result["data"]),
        "status": f"{result['status']} after {result['trials']:,} trials, {of_it}",
        "best": f"loss {result['best_loss']:.6f} in attempt {result['best_trial']}",
        "accuracy": f"{result['test_accuracy']:.2%} of the test images, "
        f"{result['train_accuracy']:.2%} of the training images",
        "weights": f"{directory / 'weights.npy'}, SHA-256 {result['weights_sha256'][:16]}…",
        "look at": f"{', '.join((*pictures, 'trials.csv', 'result.json'))} in {directory}",
    }
