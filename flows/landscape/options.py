"""The options that `hinge landscape` and `hinge panels` share."""

import click

from flows.command_line.completion import complete_run
from flows.command_line.options import seed_option

around_option = click.option(
    "--around",
    metavar="RUN|normal:SCALE|uniform:SCALE|zeros",
    shell_complete=complete_run,
    default="normal:1e-3",
    show_default=True,
    help="The weights in the middle: those of a run, random weights, or zeros.",
)
points_option = click.option(
    "--points", type=int, metavar="N", default=101, show_default=True, help="Points per axis."
)
drawn_seed_option = seed_option("all random choices: weights, directions and examples")
