"""`hinge landscape`: the loss along a line or over a plane in the space of weights."""

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
    take_cluster,
    typed,
)
from flows.commands.running import Where, result_of
from flows.errors import EXIT_DONE

_OF_ONE_SLICE = ("dims", "examples", "directions", "path")
_OF_NO_STORE = {"three_points", "runs", "as_json"}


@click.command()
@click.option("--store", metavar="URL", help="The Zarr store: a path or a URL.")
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
@click.option(
    "--around",
    metavar="RUN|normal:SCALE|uniform:SCALE|zeros",
    default="normal:1e-3",
    show_default=True,
    help="The weights in the middle.",
)
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
@click.option(
    "--points", type=int, metavar="N", default=101, show_default=True, help="Points of an axis."
)
@reg_option
@click.option(
    "--path",
    metavar="RUN",
    help="Show the path of a training run over its own loss, in the plane of its two leading "
    "directions (with no other --dims, --around, --directions or --reg).",
)
@click.option(
    "--panels", is_flag=True, help="The notes' picture: one example, a hundred, and all of them."
)
@click.option(
    "--three-points",
    is_flag=True,
    help="The notes' data set of three points, and one weight; it needs no store.",
)
@seed_option("what is drawn: weights, directions and examples")
@resume_option
@cluster_options
@output_options
@click.pass_context
def landscape(
    context: click.Context,
    /,
    store: str | None,
    runs: Path,
    as_json: bool,
    resume: str | None,
    panels: bool,
    three_points: bool,
    **options: Any,
) -> int:
    """Look at the loss along a line or over a plane in the space of weights.

    L(W + a U) along a line, which is made of straight pieces and is reported whole, or
    L(W + a U + b V) over a plane.
    """
    from flows.console import Console

    console = Console(json=as_json)
    if three_points:
        _refuse("the three points", [name for name in typed(context) if name not in _OF_NO_STORE])
        return _take_three_points(console, runs)
    if store is None:
        raise click.UsageError("Missing option '--store'.")
    cluster = take_cluster(options)
    if resume is not None:
        refuse_changes(context, "panels")
    if panels:
        _refuse("the panels", [name for name in typed(context) if name in _OF_ONE_SLICE])
        for name in _OF_ONE_SLICE:
            del options[name]
        return _take_panels(console, cluster, (store, runs, resume), options)
    return _take_slice(console, cluster, (store, runs, resume), options)


def _refuse(what: str, names: list[str]) -> None:
    """Refuse options that mean nothing to what was asked for."""
    if names:
        option = f"--{names[0].replace('_', '-')}"
        raise click.UsageError(f"{option} means nothing to {what}; leave it out")


def _take_slice(
    console: Any,
    cluster: dict[str, Any],
    where: Where,
    options: dict[str, Any],
) -> int:
    from flows.landscape import landscape_flow, plan_landscape
    from pipeline.landscape import Landscape

    store, runs, resume = where
    plan = plan_landscape(store, runs, Landscape(**options), resume)
    result = result_of(landscape_flow, plan, where, console, cluster)
    console.result(result, _summary(result, plan.path_of(result)), _kinks(result))
    return EXIT_DONE


def _take_panels(
    console: Any,
    cluster: dict[str, Any],
    where: Where,
    options: dict[str, Any],
) -> int:
    from flows.panels import Panels, panels_flow, plan_panels

    store, runs, resume = where
    plan = plan_panels(store, runs, Panels(**options), resume)
    result = result_of(panels_flow, plan, where, console, cluster)
    console.result(result, _summary_of_panels(result, plan.path_of(result)))
    return EXIT_DONE


def _take_three_points(console: Any, runs: Path) -> int:
    from flows.three_points import PICTURE, three_points

    result = three_points(runs)
    lines = [
        f"{name}: lowest {loss['minimum']:.6g} at {loss['minimum_at']:g}; kinks at "
        + ", ".join(f"{kink['w0']:g}" for kink in loss["kinks"])
        for name, loss in result["losses"].items()
    ]
    directory = runs / result["run"]
    shown = {"run": result["run"], "look at": f"{PICTURE}, result.json in {directory}"}
    console.result(result, shown, lines)
    return EXIT_DONE


def _kinks(result: dict[str, Any]) -> list[str]:
    """Return a line for every kink, where they are few."""
    return [
        f"kink at a = {kink['a']:+.6f}: loss {kink['hinge_loss']:.6f}, slope after it "
        f"{kink['slope_after']:+.6f}"
        for kink in result.get("kinks", [])
    ]


def _summary(result: dict[str, Any], directory: Path) -> dict[str, str]:
    from flows.console import described_data

    at = ", ".join(f"{x:.4g}" for x in result["minimum_at"])
    shown = {"run": result["run"], "data": described_data(result["data"])}
    for name, axis in zip("ab", result["axes"], strict=False):
        shown[name] = f"{axis['low']:.4g} to {axis['high']:.4g}, {axis['label']}"
    shown["loss"] = (
        f"lowest {result['minimum']:.6f} at {at}, highest {result['maximum']:.6f}, of "
        f"{result['points']:,} points; training images: {result['examples']:,}"
    )
    if "breakpoints" in result:
        low, high = result["slope_at_ends"]
        shown["exactly"] = (
            f"{result['breakpoints']:,} breakpoints; the slope rises from {low:.4g} to {high:.4g}; "
            f"the evaluated points are off by {result['max_difference']:.1e} at most"
        )
    if "path" in result:
        first, second = result["path"]["explained"]
        shown["path"] = (
            f"of {result['path']['run']}, reg {result['path']['reg']:g}; {first:.1%} and "
            f"{second:.1%} of it is here; its end, in the middle, has a loss of "
            f"{result['middle']:.6f}"
        )
    shown["took"] = f"{result['seconds']:.2f} s, {result['timings']['points']:.2f} s of it points"
    shown["look at"] = f"landscape.png, {result['values']}, result.json in {directory}"
    return shown


def _summary_of_panels(result: dict[str, Any], directory: Path) -> dict[str, str]:
    from flows.console import described_data

    planes = {
        name: f"loss {plane['minimum']:.6f} to {plane['maximum']:.6f}"
        for name, plane in result["planes"].items()
    }
    return {
        "run": result["run"],
        "data": described_data(result["data"]),
        **planes,
        "took": f"{result['seconds']:.2f} s",
        "look at": f"panels.png, {result['values']}, result.json in {directory}",
    }
