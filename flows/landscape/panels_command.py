"""`hinge panels`: the notes' picture of the loss, over one image, a hundred, and all of them."""

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
    help="How far an axis goes each way; 1 is as long as the weights.  [default: 1]",
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
    """Draw the notes' picture of the loss.

    Four panels in random directions: one training image along a line, and one, a hundred and
    all of them over a plane.
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
        "look at": f"panels.png, {result.values}, result.json in {directory}",
    }
