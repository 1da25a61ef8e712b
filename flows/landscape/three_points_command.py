"""`hinge three-points`: the notes' smallest data set, three points and one weight."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.command_line.exit_status import EXIT_DONE
from flows.command_line.options import output_options

if TYPE_CHECKING:
    from flows.landscape.three_points_results import ThreePointsRecord


@click.command("three-points")
@output_options
def three_points(runs: Path, as_json: bool) -> int:
    """Draw the loss of the three points in the CS231n notes.

    The loss is a piecewise linear function of one weight. All its kinks are printed. This command
    needs neither a store nor a cluster.
    """
    from flows.command_line.plan_runner import show_record
    from flows.landscape.three_points import record_three_points
    from flows.landscape.three_points_results import PICTURE
    from flows.services.console import Console

    record = record_three_points(runs)
    files = f"{PICTURE}, result.json in {runs / record.run}"
    show_record(Console(json=as_json), record, {"files": files}, _table(record))
    return EXIT_DONE


def _table(record: "ThreePointsRecord") -> list[str]:
    """Return one line of text for the loss of each point, and one for their mean."""
    return [
        f"{name}: lowest {loss.minimum:.6g} at {loss.minimum_at:g}; kinks at "
        + ", ".join(f"{kink.w0:g}" for kink in loss.kinks)
        for name, loss in record.losses.items()
    ]
