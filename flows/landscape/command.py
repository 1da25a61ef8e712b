"""`hinge landscape`: the loss along a line or over a plane in the space of weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.completion import complete_run
from flows.command_line.exit_status import EXIT_DONE
from flows.command_line.options import (
    cluster_options,
    output_options,
    refuse_changes,
    reg_option,
    resume_option,
    store_option,
    take_cluster,
)
from flows.landscape.options import around_option, drawn_seed_option, points_option

if TYPE_CHECKING:
    from flows.landscape.results import (
        LandscapeRecord,
        LandscapeResult,
        LineResult,
        PathSummary,
        PlaneResult,
    )


@click.command()
@store_option
@click.option(
    "--dims",
    type=int,
    metavar="1|2",
    default=2,
    show_default=True,
    help="Dimensions of the slice: 1 for a line, 2 for a plane.",
)
@click.option(
    "--examples",
    metavar="all|N|first:N",
    default="all",
    show_default=True,
    help="The training images to average the loss over: all, a random sample of N, or the first N.",
)
@around_option
@click.option(
    "--directions",
    metavar="random|gradient|RUN,RUN",
    default="random",
    show_default=True,
    help="Directions of the axes: random; gradient (the first axis follows the negative gradient, "
    "the second is random); or random, gradient or a run for each axis, separated by commas. The "
    "direction of a run leads to its final weights.",
)
@click.option(
    "--extent",
    type=float,
    metavar="A",
    help="Each axis runs from -A to A. The unit is the length of the weights for a random "
    "direction, the step to the lowest loss for the gradient, and the distance to the run's "
    "weights for a run.  [default: random 1, gradient 2, run 1.5; with --path, the extent of "
    "the path]",
)
@points_option
@reg_option
@click.option(
    "--path",
    metavar="RUN",
    shell_complete=complete_run,
    help="Show the path of a training run over that run's loss, in the plane of the path's two "
    "leading directions. Cannot be combined with --dims, --around, --directions or --reg.",
)
@drawn_seed_option
@resume_option
@cluster_options
@output_options
@click.pass_context
def landscape(
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    **options: Any,
) -> int:
    """Evaluate the loss on a line or a plane.

    The loss is L(W + a U) along a line, and L(W + a U + b V) over a plane in the space of weights.
    Along a line, the mean hinge loss is piecewise linear, and all its pieces are recorded.
    """
    from flows.command_line.plan_runner import run_plan, show_record
    from flows.landscape.flow import LANDSCAPE, landscape_flow
    from flows.services.console import Console
    from pipeline.landscape.parameters import Landscape

    cluster = take_cluster(options)
    refuse_changes(context, resume)
    console = Console(json=as_json)
    plan = LANDSCAPE.plan(store, runs, Landscape(**options), resume)
    record = run_plan(landscape_flow, plan, console, cluster)
    show_record(console, record, _summary(record, plan.path_of(record)), _kinks(record.result))
    return EXIT_DONE


def _kinks(result: "LandscapeResult") -> list[str]:
    """Return one line of text per recorded kink of a line slice; none for a plane."""
    from flows.landscape.results import LineResult

    return [
        f"kink at a = {kink.a:+.6f}: loss {kink.hinge_loss:.6f}, slope after it "
        f"{kink.slope_after:+.6f}"
        for kink in (result.kinks if isinstance(result, LineResult) else ())
    ]


def _summary(record: "LandscapeRecord", directory: Path) -> dict[str, str]:
    from flows.landscape.results import LineResult

    result = record.result
    axes = {
        name: f"{axis.low:.4g} to {axis.high:.4g}, {axis.label}"
        for name, axis in zip("ab", result.axes, strict=False)
    }
    at = ", ".join(f"{x:.4g}" for x in result.minimum_at)
    return {
        **axes,
        "loss": f"lowest {result.minimum:.6f} at {at}, highest {result.maximum:.6f}, over "
        f"{result.points:,} points; training images: {result.examples:,}",
        **(_exactly(result) if isinstance(result, LineResult) else _path(result)),
        "took": f"{result.seconds:.2f} s, of which {record.timings['points']:.2f} s for the points",
        "files": f"landscape.png, {result.values}, result.json in {directory}",
    }


def _exactly(line: "LineResult") -> dict[str, str]:
    """Return the summary of the exact loss along a line."""
    low, high = line.slope_at_ends
    return {
        "exact": f"{line.breakpoints:,} breakpoints; the slope rises from {low:.4g} to "
        f"{high:.4g}; evaluated points differ from the exact loss by at most "
        f"{line.max_difference:.1e}"
    }


def _path(plane: "PlaneResult") -> dict[str, str]:
    """Return the summary of the path that a plane shows, if there is one."""
    return {"path": _path_in_words(plane.path, plane.middle)} if plane.path else {}


def _path_in_words(path: "PathSummary", middle: float) -> str:
    first, second = path.explained
    return (
        f"run {path.run}, reg {path.reg:g}; the two directions explain {first:.1%} and "
        f"{second:.1%} of the path; the loss at the end of the path is {middle:.6f}"
    )
