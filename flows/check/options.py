"""Options shared by `hinge check` and `hinge check-step`."""

import click

from flows.command_line.completion import complete_run

at_option = click.option(
    "--at",
    metavar="zeros|normal:SCALE|uniform:SCALE|RUN",
    shell_complete=complete_run,
    default="normal:1e-3",
    show_default=True,
    help="The weights to check at: zeros, drawn at random, or the final weights of a run.",
)
examples_option = click.option(
    "--examples",
    metavar="all|N|first:N",
    default="all",
    show_default=True,
    help="The training images to use: all, a random sample of N, or the first N.",
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float64",
    show_default=True,
    help="The type of the scores in the gradient. Differences always use float64.",
)
