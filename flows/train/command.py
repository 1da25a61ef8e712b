"""The command `hinge train`: one training run and its evaluation."""

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
    reg_and_bias_options,
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
    """Return `value` as a number, or the word `exact`."""
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
    help="Gradient descent over all images (gd) or over mini-batches (minibatch); L-BFGS over all "
    "images (lbfgs); or L-BFGS on a smoothed hinge, with a lower bound on the lowest possible loss "
    "(smoothed, which needs --reg and --reg-bias).",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of steps. For lbfgs, the maximum number of iterations; for smoothed, the maximum "
    "number of passes over the images. For minibatch, every batch is a new random sample.  "
    f"[default: {by_method(STEPS)}]",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of passes over all images, instead of --steps (gd and minibatch only). "
    "For minibatch, the images are shuffled before each pass.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    default=256,
    show_default=True,
    help="Images per mini-batch (minibatch only).",
)
@click.option(
    "--step-size",
    type=str,
    callback=_step_size,
    metavar="SIZE|exact",
    default="1e-7",
    show_default=True,
    help="Factor that multiplies the gradient (gd and minibatch only); or `exact`, the step to the "
    "lowest loss along the gradient (gd only).",
)
@click.option(
    "--schedule",
    metavar="SCHEDULE",
    default="constant",
    show_default=True,
    help="How the step size decreases (gd and minibatch only): constant, cosine:STEPS, "
    "inverse:STEPS or staircase:FACTOR:STEPS.",
)
@click.option(
    "--momentum",
    type=float,
    metavar="FRACTION",
    default=0.0,
    show_default=True,
    help="Fraction of the velocity that is kept from one step to the next (gd and minibatch only).",
)
@click.option("--nesterov", is_flag=True, help="Use Nesterov momentum (gd and minibatch only).")
@reg_and_bias_options
@click.option(
    "--gap",
    type=float,
    metavar="FRACTION",
    default=1e-3,
    show_default=True,
    help="Stop when (loss - lower bound) / loss is at most this fraction (smoothed only).",
)
@click.option(
    "--init",
    metavar="zeros|normal:SCALE|uniform:SCALE",
    default="zeros",
    show_default=True,
    help="Initial weights: zeros, normal with standard deviation SCALE, or uniform from 0 to "
    "SCALE.",
)
@seed_option("the initial weights and the mini-batches")
@click.option(
    "--tolerance",
    type=float,
    metavar="FRACTION",
    default=0.0,
    show_default=True,
    help="Stop when the loss changes by at most this fraction: between the means of two "
    "consecutive windows of 10 steps (gd) or 500 steps (minibatch), or between two iterations "
    "(lbfgs).",
)
@click.option(
    "--placement",
    type=click.Choice(["auto", "all-workers", "one-worker"]),
    default="auto",
    show_default=True,
    help="Take the steps on all workers or on one (gd and minibatch only). The result is "
    "bit-identical either way.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    show_default=True,
    help="Data type of the scores. Sums are exact and weights are float64 in either case.",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=0),
    metavar="N",
    help="Steps between checkpoints (gd and minibatch only); 0 disables them.  "
    f"[default: {by_method(CHECKPOINT_EVERY)}]",
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
    """Train the SVM on the images of a store and evaluate it."""
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

    Raises UsageError if an option was given that the method does not support. The default of an
    option, or a value that describes what the method does anyway, is accepted.
    """
    from pipeline.training.parameters import METHODS, StepPlacement, methods_with

    method = options["method"]
    for name in typed(context):
        takers = methods_with(name)
        if takers and method not in takers and not _changes_nothing(name, options[name]):
            raise click.UsageError(
                f"--{name.replace('_', '-')} applies only to {', '.join(takers)}; {method} takes "
                f"no {name.replace('_', ' ')}"
            )
    if options["steps"] is not None and options["epochs"] is not None:
        raise click.UsageError("give --steps or --epochs, not both")
    given = {
        name: value
        for name, value in options.items()
        if value is not None and name != "method" and method in methods_with(name)
    }
    if "placement" in given:
        given["placement"] = StepPlacement(given["placement"])
    return METHODS[method](**given)


def _changes_nothing(name: str, value: Any) -> bool:
    """Return whether an unsupported option describes what the method does anyway."""
    from pipeline.training.parameters import METHODS, StepPlacement, methods_with

    taker = METHODS[methods_with(name)[0]]
    default = next(field.default for field in fields(taker) if field.name == name)
    return value in {default, StepPlacement.ALL_WORKERS}  # L-BFGS runs over all workers


def _summary(record: "TrainRecord", directory: Path) -> dict[str, str]:
    result = record.result
    placement = record.cluster.placement if record.cluster else None
    return {
        "status": f"{record.status} after {_length(result)}, "
        f"{result.steps_per_second:,.1f} per second ({placement})",
        "loss": f"{result.loss:.4f}" if math.isfinite(result.loss) else "not finite",
        **_certificate(record),
        "accuracy": f"{result.test_accuracy:.2%} of the test images, "
        f"{result.train_accuracy:.2%} of the training images",
        "weights": f"{directory / 'weights.npy'}, SHA-256 {result.weights_sha256[:16]}…",
        "files": f"{directory / 'loss.png'}, {directory / 'result.json'}",
    }


def _length(result: "TrainResult") -> str:
    """Return the length of a run in words: its steps, or its iterations and passes."""
    steps, passes = result.steps, result.passes
    if passes is None:
        return f"{steps:,} steps"
    return f"{steps:,} iterations in {passes:,} passes" if passes != steps else f"{passes:,} passes"


def _certificate(record: "TrainRecord") -> dict[str, str]:
    """Return the summary line of the gap to the lowest possible loss, if the gap is known."""
    from pipeline.training.parameters import SmoothedHinge

    result, parameters = record.result, record.parameters
    if not isinstance(parameters, SmoothedHinge) or result.lower_bound is None:
        return {}
    if result.gap is None or math.isnan(result.gap):
        return {}
    words = "no lower bound above 0 was found"  # a bound below 0 is trivial
    if result.lower_bound > 0:
        words = (
            f"at most {result.gap:.3%} of the loss; the lowest possible loss is at least "
            f"{result.lower_bound:.4f}"
        )
    if not result.gap_reached:
        words += f"; the requested gap of {parameters.gap:.3%} was not reached"
    return {"gap": words}
