"""`hinge sweep`: the loss by the size of one step, or of every step of many training runs."""

import math
from pathlib import Path
from typing import Any

import click

from flows.commands.options import (
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
from flows.commands.running import Where, result_of
from flows.errors import EXIT_DONE, EXIT_FAILED

_OF_ONE_STEP = ("exponents", "points_per_decade", "at", "reg")
_OF_TRAINING = ("step_sizes", "batch_sizes", "regs", "steps")
_SHOWN = 10


class _Numbers(click.ParamType[tuple[Any, ...]]):
    """Numbers with commas between them; `word` may stand for one of them."""

    def __init__(self, each: click.ParamType[Any], word: str | None = None) -> None:
        self.each, self.word = each, word
        self.name = "numbers"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[Any, ...]:
        """Return the numbers."""
        if isinstance(value, tuple):
            return value
        return tuple(
            text if text == self.word else self.each.convert(text, parameter, context)
            for text in value.split(",")
        )


@click.command()
@store_option
@click.option(
    "--exponents",
    metavar="FIRST:LAST",
    default="-10:-1",
    show_default=True,
    help="The first and the last power of 10 that is a step size.",
)
@click.option(
    "--points-per-decade",
    type=int,
    metavar="N",
    default=1,
    show_default=True,
    help="Step sizes from one power of 10 to the next.",
)
@click.option(
    "--at",
    metavar="W0|RUN",
    default="W0",
    show_default=True,
    help="The weights to step from: those of --init, or those that a run came to.",
)
@reg_option
@click.option(
    "--train",
    is_flag=True,
    help="Take not one step but a training run for every combination of the next three.",
)
@click.option(
    "--step-sizes",
    type=_Numbers(click.FLOAT),
    metavar="SIZE,...",
    default="1e-9,1e-8,1e-7,1e-6,1e-5",
    show_default=True,
    help="What the gradient is multiplied by.",
)
@click.option(
    "--batch-sizes",
    type=_Numbers(click.INT, "all"),
    metavar="N,...",
    default="256",
    show_default=True,
    help="Images in a mini-batch; `all` steps along the gradient over all images.",
)
@click.option(
    "--regs",
    type=_Numbers(click.FLOAT),
    metavar="R,...",
    default="0",
    show_default=True,
    help="R in the loss's R ||W||^2 (without the bias).",
)
@click.option(
    "--steps",
    type=int,
    metavar="N",
    default=500,
    show_default=True,
    help="Steps of every training run.",
)
@click.option(
    "--init",
    metavar="zeros|normal:SCALE|uniform:SCALE",
    help="The weights to start from.  [default: uniform:1e-3; normal:1e-3 with --train]",
)
@seed_option("these weights and the rows of every batch")
@resume_option
@cluster_options
@output_options
@click.pass_context
def sweep(
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    train: bool,
    **options: Any,
) -> int:
    """See what the step size does.

    Takes one step along the gradient, of every size, and finds the best step there is. With
    --train, takes whole training runs with each step size, and compares them.
    """
    from flows.console import Console

    cluster = take_cluster(options)
    _refuse_the_others(context, train, options["at"])
    if resume is not None:
        refuse_changes(context, "train")
    for name in _OF_ONE_STEP if train else _OF_TRAINING:
        del options[name]
    if options["init"] is None:
        del options["init"]
    take = _take_trials if train else _take_steps
    return take(Console(json=as_json), cluster, (store, runs, resume), options)


def _refuse_the_others(context: click.Context, train: bool, at: str) -> None:
    """Refuse options of the sweep that was not asked for, and what `--at` makes meaningless."""
    others = _OF_ONE_STEP if train else _OF_TRAINING
    for name in typed(context):
        option = f"--{name.replace('_', '-')}"
        if name in others:
            mend = f"leave {option} or --train out" if train else "add --train, or leave it out"
            kind = "a single step" if train else "training runs"
            raise click.UsageError(f"{option} is of {kind}; {mend}")
        if name in {"init", "seed"} and at != "W0":
            raise click.UsageError(f"--at {at} says which weights to step from; leave {option} out")


def _take_steps(
    console: Any,
    cluster: dict[str, Any],
    where: Where,
    options: dict[str, Any],
) -> int:
    """Sweep the size of one step."""
    from flows.sweep import Sweep, plan_sweep, sweep_flow

    store, runs, resume = where
    plan = plan_sweep(store, runs, Sweep(**options), resume)
    result = result_of(sweep_flow, plan, where, console, cluster)
    summary = _summary_of_steps(result, plan.path_of(result))
    console.result(result, summary, _notes_table(result))
    return EXIT_DONE


def _take_trials(
    console: Any,
    cluster: dict[str, Any],
    where: Where,
    options: dict[str, Any],
) -> int:
    """Train with every step size."""
    from flows.step_sizes import plan_grid, step_sizes_flow
    from pipeline.grid import TrainingGrid

    store, runs, resume = where
    plan = plan_grid(store, runs, TrainingGrid(**options), resume)
    result = result_of(step_sizes_flow, plan, where, console, cluster)
    summary = _summary_of_trials(result, plan.path_of(result))
    console.result(result, summary, _trials_table(result))
    return EXIT_DONE if result["best"] else EXIT_FAILED


def _notes_table(result: dict[str, Any]) -> list[str]:
    """Return the lines of the notes, a step size each."""
    return [
        f"original loss: {_loss(result['initial_loss'])}",
        *(
            f"for step size {each['step_size']:e} new loss: {_loss(each['loss'])}"
            for each in result["losses"]
        ),
    ]


def _loss(loss: float | None) -> str:
    """Write a loss; read from a record, one that is no number is None."""
    return f"{math.inf if loss is None else loss:f}"


def _summary_of_steps(result: dict[str, Any], directory: Path) -> dict[str, str]:
    from flows.console import described_data

    exact = result["exact_minimum"]
    return {
        "run": result["run"],
        "data": described_data(result["data"]),
        "best": f"step size {result['best_step_size']:e}, loss {_loss(result['best_loss'])}",
        "exact minimum": f"step size {exact['step_size']:e}, loss {_loss(exact['loss'])} "
        f"({exact['breakpoints']:,} breakpoints)",
        "took": f"{result['timings']['seconds']:.1f} s",
        "look at": f"steps.png, steps.csv, result.json in {directory}",
    }


def _trials_table(result: dict[str, Any]) -> list[str]:
    """Return the best trials, and all that diverged, in columns."""
    trials = result["trials"]
    shown = [trial for trial in trials if trial["status"] != "diverged"][:_SHOWN]
    shown += [trial for trial in trials if trial["status"] == "diverged"]
    row = "{:>9} {:>10} {:>9} {:>12} {:>9} {:>9}  {}"
    return [
        row.format("step size", "batch size", "reg", "loss", "train", "test", "status"),
        *(
            row.format(
                f"{trial['step_size']:g}",
                trial["batch_size"],
                f"{trial['reg']:g}",
                _in_columns(trial["loss"]),
                f"{trial['train_accuracy']:.2%}",
                f"{trial['test_accuracy']:.2%}",
                _status(trial),
            )
            for trial in shown
        ),
    ]


def _in_columns(loss: float | None) -> str:
    return "inf" if loss is None else f"{loss:.4f}" if loss < 1e6 else f"{loss:.3e}"


def _status(trial: dict[str, Any]) -> str:
    diverged = trial["status"] == "diverged"
    return f"diverged at step {trial['steps']}" if diverged else trial["status"]


def _summary_of_trials(result: dict[str, Any], directory: Path) -> dict[str, str]:
    from flows.console import described_data

    trials, best = result["trials"], result["best"]
    diverged = sum(trial["status"] == "diverged" for trial in trials)
    return {
        "run": result["run"],
        "data": described_data(result["data"]),
        "trials": f"{len(trials)}, of which {diverged} diverged",
        "best": "none: all diverged"
        if best is None
        else f"step size {best['step_size']:g}, batch size {best['batch_size']}, "
        f"reg {best['reg']:g}: {best['test_accuracy']:.2%} of the test images",
        "took": f"{result['timings']['seconds']:.1f} s",
        "look at": f"curves.png, trials.csv, result.json in {directory}",
    }
