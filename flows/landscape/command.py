"""`hinge landscape`: the loss along a line or over a plane in the space of weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
    "--dims", type=int, metavar="1|2", default=2, show_default=True, help="A line, or a plane."
)
@click.option(
    "--examples",
    metavar="all|N|first:N",
    default="all",
    show_default=True,
    help="The training images that the loss is the mean over; N is a sample of them.",
)
@around_option
@click.option(
    "--directions",
    metavar="random|gradient|RUN,RUN",
    default="random",
    show_default=True,
    help="Where the axes go; a run's axis leads from the middle to its weights.",
)
@click.option(
    "--extent",
    type=float,
    metavar="A",
    help="How far an axis goes each way, in its unit.  [default: 1, gradient 2, runs 1.5; "
    "a path: as far as it goes]",
)
@points_option
@reg_option
@click.option(
    "--path",
    metavar="RUN",
    help="Show the path of a training run over its own loss, in the plane of its two leading "
    "directions (with no other --dims, --around, --directions or --reg).",
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
    """Look at the loss along a line or over a plane in the space of weights.

    L(W + a U) along a line, which is made of straight pieces and is reported whole, or
    L(W + a U + b V) over a plane.
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
    """Return a line for every kink of a line, if they are few."""
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
        "loss": f"lowest {result.minimum:.6f} at {at}, highest {result.maximum:.6f}, of "
        f"{result.points:,} points; training images: {result.examples:,}",
        **(_exactly(result) if isinstance(result, LineResult) else _path(result)),
        "took": f"{result.seconds:.2f} s, {record.timings['points']:.2f} s of it points",
        "look at": f"landscape.png, {result.values}, result.json in {directory}",
    }


def _exactly(line: "LineResult") -> dict[str, str]:
    """Say what is known of a whole line."""
    low, high = line.slope_at_ends
    return {
        "exactly": f"{line.breakpoints:,} breakpoints; the slope rises from {low:.4g} to "
        f"{high:.4g}; the evaluated points are off by {line.max_difference:.1e} at most"
    }


def _path(plane: "PlaneResult") -> dict[str, str]:
    """Say what is known of the path that a plane shows, if it shows one."""
    return {"path": _path_in_words(plane.path, plane.middle)} if plane.path else {}


def _path_in_words(path: "PathSummary", middle: float) -> str:
    first, second = path.explained
    return (
        f"of {path.run}, reg {path.reg:g}; {first:.1%} and {second:.1%} of it is here; its end, "
        f"in the middle, has a loss of {middle:.6f}"
    )
