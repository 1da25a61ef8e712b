"""The options that `hinge landscape` and `hinge panels` share."""

import click

from flows.command_line.options import seed_option

around_option = click.option(
    "--around",
    metavar="RUN|normal:SCALE|uniform:SCALE|zeros",
    default="normal:1e-3",
    show_default=True,
    help="The weights in the middle.",
)
points_option = click.option(
    "--points", type=int, metavar="N", default=101, show_default=True, help="Points of an axis."
)
drawn_seed_option = seed_option("what is drawn: weights, directions and examples")
