"""`hinge train`: one training run, tested."""

import math
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
from flows.defaults import CHECKPOINT_EVERY, STEPS, by_method
from flows.errors import EXIT_DONE, EXIT_FAILED


def _step_size(_context: click.Context, _option: click.Parameter, value: str) -> float | str:
    """Return the number, or the word `exact` as it is."""
    try:
        return value if value == "exact" else float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor `exact`.") from None


@click.command()
@store_option
@click.option(
    "--method",
    type=click.Choice(list(STEPS)),
    default="gd",
    show_default=True,
    help="Step along the gradient over all images, or over a batch of them; or L-BFGS over all, "
    "on the hinge or on a smoothed one that tells how near the best possible it is.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Steps; batches are uniform samples. Of lbfgs the most iterations, of smoothed the most "
    f"passes.  [default: {by_method(STEPS)}]",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Instead of steps: times over all images, in shuffled batches.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    default=256,
    show_default=True,
    help="Images in a mini-batch.",
)
@click.option(
    "--step-size",
    type=str,
    callback=_step_size,
    metavar="SIZE|exact",
    default="1e-7",
    show_default=True,
    help="What the gradient is multiplied by; `exact`: where the loss along it is lowest (gd).",
)
@click.option(
    "--schedule",
    metavar="SCHEDULE",
    default="constant",
    show_default=True,
    help="How the step size falls: cosine:STEPS, inverse:STEPS or staircase:FACTOR:STEPS.",
)
@click.option(
    "--momentum",
    type=float,
    metavar="PART",
    default=0.0,
    show_default=True,
    help="The part of the last step's velocity that is kept.",
)
@click.option("--nesterov", is_flag=True, help="Momentum that looks ahead.")
@click.option(
    "--reg",
    type=float,
    metavar="R",
    default=0.0,
    show_default=True,
    help="R in the loss's R ||W||^2.",
)
@click.option("--reg-bias", is_flag=True, help="Take the bias into that norm, too.")
@click.option(
    "--gap",
    type=float,
    metavar="PART",
    default=1e-3,
    show_default=True,
    help="Stop once the loss is proved to be within this part of the best possible (smoothed).",
)
@click.option(
    "--init",
    metavar="zeros|normal:SCALE|uniform:SCALE",
    default="zeros",
    show_default=True,
    help="The weights to start from: zeros, normals of this deviation, or any from 0 to SCALE.",
)
@seed_option("the weights it starts from and the rows of every batch")
@click.option(
    "--tolerance",
    type=float,
    metavar="PART",
    default=0.0,
    show_default=True,
    help="Stop when the mean loss changes by at most this part of it (of 10 steps against the "
    "10 before; of 500 for mini-batches; of an iteration of lbfgs against the one before).",
)
@click.option(
    "--placement",
    type=click.Choice(["auto", "all-workers", "one-worker"]),
    default="auto",
    show_default=True,
    help="Who takes the steps; it changes no bit of the result.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    show_default=True,
    help="What scores are computed in; sums are exact and weights float64 in any case.",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"Steps between checkpoints, 0 for none.  [default: {by_method(CHECKPOINT_EVERY)}]",
)
@resume_option
@cluster_options
@output_options
@click.pass_context
def train(
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    checkpoint_every: int | None,
    **options: Any,
) -> int:
    """Train the SVM on a store's images and test it."""
    from flows.console import Console
    from flows.train import plan_training, train_flow
    from pipeline.parameters import Method, Placement, TrainingParameters

    cluster = take_cluster(options)
    if resume is not None:
        refuse_changes(context, "checkpoint_every")
    if options["steps"] is None and options["epochs"] is None:
        options["steps"] = STEPS[options["method"]]
    options |= {"method": Method(options["method"]), "placement": Placement(options["placement"])}
    plan = plan_training(store, runs, TrainingParameters(**options), resume, checkpoint_every)
    console, where = Console(json=as_json), (store, runs, resume)
    result = result_of(train_flow, plan, where, console, cluster, checkpoint_every=checkpoint_every)
    console.result(result, _summary(result, plan.path_of(result)))
    return EXIT_FAILED if result["status"] == "diverged" else EXIT_DONE


def _summary(result: dict[str, Any], directory: Path) -> dict[str, str]:
    from flows.console import described_data

    loss = result["loss"]  # None as it is read from a record
    return {
        "run": result["run"],
        "data": described_data(result["data"]),
        "status": f"{result['status']} after {_length(result)}, "
        f"{result['steps_per_second']:,.1f} a second ({result['cluster']['placement']})",
        "loss": "no finite number" if loss in (None, math.inf) else f"{loss:.4f}",
        **_certificate(result),
        "accuracy": f"{result['test_accuracy']:.2%} of the test images, "
        f"{result['train_accuracy']:.2%} of the training images",
        "weights": f"{directory / 'weights.npy'}, SHA-256 {result['weights_sha256'][:16]}…",
        "look at": f"{directory / 'loss.png'}, {directory / 'result.json'}",
    }


def _length(result: dict[str, Any]) -> str:
    """Say how many steps there were, and how many passes if that is another number."""
    steps, passes = result["steps"], result.get("passes")
    if passes is None:
        return f"{steps:,} steps"
    return f"{steps:,} iterations in {passes:,} passes" if passes != steps else f"{passes:,} passes"


def _certificate(result: dict[str, Any]) -> dict[str, str]:
    """Say how near the best possible the loss is, where that is known."""
    if result.get("lower_bound") is None or result["gap"] is None:
        return {}
    words = "no lower bound above 0 was found"  # and none below is worth a word
    if result["lower_bound"] > 0:
        words = (
            f"at most {result['gap']:.3%} of the loss is above the best possible, which is at "
            f"least {result['lower_bound']:.4f}"
        )
    if not result["gap_reached"]:
        words += f"; gap not reached ({result['parameters']['gap']:.3%} was asked for)"
    return {"gap": words}
