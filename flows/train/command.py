"""`hinge train`: one training run, tested."""

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.defaults import CHECKPOINT_EVERY, STEPS, by_method
from flows.command_line.exit_status import EXIT_DONE, EXIT_FAILED
from flows.command_line.options import (
    cluster_options,
    output_options,
    refuse_changes,
    resume_option,
    seed_option,
    store_option,
    take_cluster,
    typed,
)

if TYPE_CHECKING:
    from flows.train.results import TrainRecord, TrainResult
    from pipeline.training.parameters import TrainingParameters


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
    help="Gradient descent over all images, or over mini-batches; or L-BFGS over all images, on "
    "the hinge or on a smoothed hinge that proves how near the loss is to the best possible.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Steps; batches are uniform samples. For lbfgs the most iterations, for smoothed the most "
    f"passes.  [default: {by_method(STEPS)}]",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Passes over all images in shuffled batches, instead of --steps.",
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
    help="What the gradient is multiplied by; `exact`: to the lowest loss along it (gd).",
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
@click.option("--nesterov", is_flag=True, help="Use Nesterov's momentum.")
@click.option(
    "--reg",
    type=float,
    metavar="R",
    default=0.0,
    show_default=True,
    help="R in the loss's R ||W||^2.",
)
@click.option("--reg-bias", is_flag=True, help="Include the bias in that norm.")
@click.option(
    "--gap",
    type=float,
    metavar="PART",
    default=1e-3,
    show_default=True,
    help="Stop when the loss is proved to be within this part of the best possible (smoothed).",
)
@click.option(
    "--init",
    metavar="zeros|normal:SCALE|uniform:SCALE",
    default="zeros",
    show_default=True,
    help="First weights: zeros, normal with this standard deviation, or uniform from 0 to SCALE.",
)
@seed_option("the first weights and the rows of every batch")
@click.option(
    "--tolerance",
    type=float,
    metavar="PART",
    default=0.0,
    show_default=True,
    help="Stop when the mean loss changes by at most this part: from 10 steps to the next 10 (500 "
    "for minibatch), or from one iteration of lbfgs to the next.",
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
    help="The type of the scores; sums are exact and weights float64 in any case.",
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
    from flows.command_line.plan_runner import run_plan, show_record
    from flows.services.console import Console
    from flows.train.flow import TRAIN, train_flow

    cluster = take_cluster(options)
    refuse_changes(context, resume, "checkpoint_every")
    plan = TRAIN.plan(
        store,
        runs,
        _parameters(context, options),
        resume,
        checkpoint_every="auto" if checkpoint_every is None else checkpoint_every,
    )
    console = Console(json=as_json)
    record = run_plan(train_flow, plan, console, cluster)
    show_record(console, record, _summary(record, plan.path_of(record)))
    return EXIT_FAILED if record.status == "diverged" else EXIT_DONE


def _parameters(context: click.Context, options: Mapping[str, Any]) -> "TrainingParameters":
    """Return the parameters of the method.

    Refuses an option that the method does not take, unless its value is the default.
    """
    from pipeline.training.parameters import METHODS, StepPlacement, methods_with

    method = options["method"]
    for name in typed(context):
        takers = methods_with(name)
        if takers and method not in takers and not _changes_nothing(name, options[name]):
            raise click.UsageError(
                f"--{name.replace('_', '-')} is for {', '.join(takers)}; {method} takes no "
                f"{name.replace('_', ' ')}"
            )
    if options["steps"] is not None and options["epochs"] is not None:
        raise click.UsageError("give either a number of --steps or a number of --epochs")
    given = {
        name: value
        for name, value in options.items()
        if value is not None and name != "method" and method in methods_with(name)
    }
    if "placement" in given:
        given["placement"] = StepPlacement(given["placement"])
    return METHODS[method](**given)


def _changes_nothing(name: str, value: Any) -> bool:
    """Whether a method that does not take an option does what this value says all the same."""
    from pipeline.training.parameters import METHODS, StepPlacement, methods_with

    taker = METHODS[methods_with(name)[0]]
    default = next(field.default for field in fields(taker) if field.name == name)
    return value in {default, StepPlacement.ALL_WORKERS}  # L-BFGS runs over all workers


def _summary(record: "TrainRecord", directory: Path) -> dict[str, str]:
    result = record.result
    placement = record.cluster.placement if record.cluster else None
    return {
        "status": f"{record.status} after {_length(result)}, "
        f"{result.steps_per_second:,.1f} a second ({placement})",
        "loss": f"{result.loss:.4f}" if math.isfinite(result.loss) else "no finite number",
        **_certificate(record),
        "accuracy": f"{result.test_accuracy:.2%} of the test images, "
        f"{result.train_accuracy:.2%} of the training images",
        "weights": f"{directory / 'weights.npy'}, SHA-256 {result.weights_sha256[:16]}…",
        "look at": f"{directory / 'loss.png'}, {directory / 'result.json'}",
    }


def _length(result: "TrainResult") -> str:
    """Say how many steps there were, and how many passes if that is another number."""
    steps, passes = result.steps, result.passes
    if passes is None:
        return f"{steps:,} steps"
    return f"{steps:,} iterations in {passes:,} passes" if passes != steps else f"{passes:,} passes"


def _certificate(record: "TrainRecord") -> dict[str, str]:
    """Say how near the best possible the loss is, if that is known."""
    from pipeline.training.parameters import SmoothedHinge

    result, parameters = record.result, record.parameters
    if not isinstance(parameters, SmoothedHinge) or result.lower_bound is None:
        return {}
    if result.gap is None or math.isnan(result.gap):
        return {}
    words = "no lower bound above 0 was found"  # one below 0 says nothing
    if result.lower_bound > 0:
        words = (
            f"at most {result.gap:.3%} of the loss is above the best possible, which is at "
            f"least {result.lower_bound:.4f}"
        )
    if not result.gap_reached:
        words += f"; gap not reached ({parameters.gap:.3%} was asked for)"
    return {"gap": words}
