"""`hinge panels`: the notes' figure of the loss of one image, a hundred images and all images."""

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
    from flows.landscape.panels_results import PanelsRecord


@click.command()
@store_option
@around_option
@click.option(
    "--extent",
    type=float,
    metavar="A",
    help="Each axis runs from -A to A; the unit is the length of the weights.  [default: 1]",
)
@points_option
@reg_option
@drawn_seed_option
@resume_option
@cluster_options
@output_options
@click.pass_context
def panels(
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    **options: Any,
) -> int:
    """Draw the figure of the loss from the CS231n notes.

    The four panels show the loss of one training image along a line, and the loss of one image,
    of a hundred images and of all images over a plane.
    """
    from flows.command_line.plan_runner import run_plan, show_record
    from flows.landscape.panels_flow import PANELS, panels_flow
    from flows.services.console import Console
    from pipeline.landscape.parameters import Panels

    cluster = take_cluster(options)
    refuse_changes(context, resume)
    console, plan = Console(json=as_json), PANELS.plan(store, runs, Panels(**options), resume)
    record = run_plan(panels_flow, plan, console, cluster)
    show_record(console, record, _summary(record, plan.path_of(record)))
    return EXIT_DONE


def _summary(record: "PanelsRecord", directory: Path) -> dict[str, str]:
    result = record.result
    planes = {
        name: f"loss {plane.minimum:.6f} to {plane.maximum:.6f}"
        for name, plane in result.planes.items()
    }
    return {
        **planes,
        "took": f"{result.seconds:.2f} s",
        "files": f"panels.png, {result.values}, result.json in {directory}",
    }
