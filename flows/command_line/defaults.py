"""Default values of the options of a training run.

This module imports nothing, so that `hinge train --help`, which shows them, starts quickly.
"""

STEPS = {"gd": 200, "minibatch": 3000, "lbfgs": 30, "smoothed": 200}
"""Default number of steps by method: about ten seconds of work on all images.

At `--reg 1e3`, `smoothed` reaches its default gap in 14 passes. At the same `--reg`, `lbfgs` has a
test accuracy of 40.0 to 40.1 % from its 6th to its 39th iteration. Later iterations change the
bias, which is not regularised. The loss then falls by another 1.6 %, and the test accuracy is
39.6 to 40.0 %.
"""

CHECKPOINT_EVERY = {"gd": 100, "minibatch": 1000}
"""Default number of steps between checkpoints by method: a few seconds of work."""


def by_method(values: dict[str, int]) -> str:
    """Return the values by method as text for a help message.

    Examples:
        >>> by_method(CHECKPOINT_EVERY)
        '100 for gd, 1000 for minibatch'
    """
    return ", ".join(f"{value} for {method}" for method, value in values.items())
