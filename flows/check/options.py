"""The options that `hinge check` and `hinge check-step` share."""

import click

at_option = click.option(
    "--at",
    metavar="zeros|normal:SCALE|uniform:SCALE|RUN",
    default="normal:1e-3",
    show_default=True,
    help="The weights to check at: drawn at random, or a run's final weights.",
)
examples_option = click.option(
    "--examples",
    metavar="all|N|first:N",
    default="all",
    show_default=True,
    help="The training images: all, a random sample of N, or the first N.",
)
reg_bias_option = click.option("--reg-bias", is_flag=True, help="Include the bias in ||W||^2.")
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float64",
    show_default=True,
    help="The type of the gradient's scores. Differences are float64 in any case.",
)
