"""`hinge train`: one training run, tested."""

import math
from pathlib import Path
from typing import Any

import click

from flows.commands.options import (
    check_cluster,
    cluster_options,
    output_options,
    refuse_changes,
    resume_option,
    seed_option,
    store_option,
)
from flows.defaults import CHECKPOINT_EVERY, STEPS, by_method
from flows.errors import EXIT_DONE, EXIT_FAILED


class _StepSize(click.ParamType[Any]):
    """A number, or the word `exact`."""

    name = "step size"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        """Return the number, or `exact` as it is."""
        return value if value == "exact" else click.FLOAT.convert(value, parameter, context)


STEP_SIZE = _StepSize()


@click.command()
@store_option
@click.option(
    "--method",
    type=click.Choice(["gd", "minibatch"]),
    default="gd",
    show_default=True,
    help="Step along the gradient over all images, or over a batch of them.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Steps; batches are uniform samples.  [default: {by_method(STEPS)}]",
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
    type=STEP_SIZE,
    metavar="SIZE|exact",
    default=1e-7,
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
    "10 before; of 500 for mini-batches).",
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
def train(  # noqa: PLR0917
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    checkpoint_every: int | None,
    workers: int | None,
    scheduler: str | None,
    **options: Any,
) -> int:
    """Train the SVM on a store's images and test it."""
    from flows.console import Console
    from flows.session import command_session
    from flows.train import plan_training, train_flow
    from pipeline.parameters import Method, Placement, TrainingParameters

    check_cluster(workers, scheduler)
    if resume is not None:
        refuse_changes(context, "checkpoint_every")
    if options["steps"] is None and options["epochs"] is None:
        options["steps"] = STEPS[options["method"]]
    options |= {"method": Method(options["method"]), "placement": Placement(options["placement"])}
    plan = plan_training(store, runs, TrainingParameters(**options), resume)
    console, result = Console(json=as_json), plan.finished
    if result is None:
        with command_session(console, workers=workers, scheduler=scheduler):
            result = train_flow(store, plan.parameters, resume, str(runs), checkpoint_every)
    console.result(result, _summary(result, plan.path_of(result)))
    return EXIT_FAILED if result["status"] == "diverged" else EXIT_DONE


def _summary(result: dict[str, Any], directory: Path) -> dict[str, str]:
    from flows.console import described_data

    loss = result["loss"]  # None as it is read from a record
    return {
        "run": result["run"],
        "data": described_data(result["data"]),
        "status": f"{result['status']} after {result['steps']:,} steps, "
        f"{result['steps_per_second']:,.1f} a second ({result['cluster']['placement']})",
        "loss": "no finite number" if loss in (None, math.inf) else f"{loss:.4f}",
        "accuracy": f"{result['test_accuracy']:.2%} of the test images, "
        f"{result['train_accuracy']:.2%} of the training images",
        "weights": f"{directory / 'weights.npy'}, SHA-256 {result['weights_sha256'][:16]}…",
        "look at": f"{directory / 'loss.png'}, {directory / 'result.json'}",
    }
