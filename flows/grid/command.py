"""The command `hinge grid`: one training run per combination of parameters."""

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
    from flows.grid.results import GridRecord, GridResult, TrialResult

_ROWS_SHOWN = 10


class _ListOf(click.ParamType[tuple[Any, ...]]):
    """A list of values separated by commas. Each is of the type `each` or equals `word`."""

    name = "values"

    def __init__(self, each: click.ParamType[Any], word: str | None = None) -> None:
        self.each, self.word = each, word

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[Any, ...]:
        """Return the values as a tuple."""
        if isinstance(value, tuple):
            return value
        return tuple(
            text if text == self.word else self.each.convert(text, parameter, context)
            for text in value.split(",")
        )


@click.command()
@store_option
@click.option(
    "--step-sizes",
    type=_ListOf(click.FLOAT),
    metavar="SIZE,...",
    default="1e-9,1e-8,1e-7,1e-6,1e-5",
    show_default=True,
    help="Step sizes: the factors that multiply the gradient.",
)
@click.option(
    "--batch-sizes",
    type=_ListOf(click.INT, "all"),
    metavar="N,...",
    default="256",
    show_default=True,
    help="Images per mini-batch; `all` is gradient descent over all images.",
)
@click.option(
    "--regs",
    type=_ListOf(click.FLOAT),
    metavar="R,...",
    default="0",
    show_default=True,
    help="Values of R in the regulariser R ||W||^2, which excludes the bias.",
)
@click.option(
    "--steps",
    type=int,
    metavar="N",
    default=500,
    show_default=True,
    help="Steps of each training run.",
)
@click.option(
    "--init",
    metavar="zeros|normal:SCALE|uniform:SCALE",
    default="normal:1e-3",
    show_default=True,
    help="Initial weights: zeros, normal with standard deviation SCALE, or uniform from 0 to "
    "SCALE.",
)
@seed_option("the initial weights and the mini-batches")
@resume_option
@cluster_options
@output_options
@click.pass_context
def grid(
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    **options: Any,
) -> int:
    """Train with several step sizes and compare the results.

    Each combination of a step size, a batch size and a regulariser is one training run.
    """
    from flows.command_line.plan_runner import run_plan, show_record
    from flows.grid.flow import GRID, grid_flow
    from flows.services.console import Console
    from pipeline.training.grid import TrainingGrid

    cluster = take_cluster(options)
    refuse_changes(context, resume)
    console, plan = Console(json=as_json), GRID.plan(store, runs, TrainingGrid(**options), resume)
    record = run_plan(grid_flow, plan, console, cluster)
    show_record(console, record, _summary(record, plan.path_of(record)), _table(record.result))
    return EXIT_DONE if record.result.best else EXIT_FAILED


def _table(result: "GridResult") -> list[str]:
    """Return the lines of a table: the best trials, then all trials that diverged."""
    finished = [trial for trial in result.trials if not trial.diverged]
    diverged = [trial for trial in result.trials if trial.diverged]
    row = "{:>9} {:>10} {:>9} {:>12} {:>9} {:>9}  {}"
    return [
        row.format("step size", "batch size", "reg", "loss", "train", "test", "status"),
        *(
            row.format(
                f"{trial.step_size:g}",
                trial.batch_size,
                f"{trial.reg:g}",
                f"{trial.loss:.4f}" if trial.loss < 1e6 else f"{trial.loss:.3e}",
                f"{trial.train_accuracy:.2%}",
                f"{trial.test_accuracy:.2%}",
                _status(trial),
            )
            for trial in finished[:_ROWS_SHOWN] + diverged
        ),
    ]


def _status(trial: "TrialResult") -> str:
    return f"diverged at step {trial.steps}" if trial.diverged else trial.status


def _summary(record: "GridRecord", directory: Path) -> dict[str, str]:
    trials, best = record.result.trials, record.result.best
    diverged = sum(trial.diverged for trial in trials)
    return {
        "trials": f"{len(trials)}, of which {diverged} diverged",
        "best": "none; all trials diverged"
        if best is None
        else f"step size {best.step_size:g}, batch size {best.batch_size}, "
        f"reg {best.reg:g}: test accuracy {best.test_accuracy:.2%}",
        "took": f"{record.seconds:.1f} s",
        "files": f"curves.png, trials.csv, result.json in {directory}",
    }
