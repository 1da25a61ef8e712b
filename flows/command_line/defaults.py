"""What a training run does where the user has not said.

Nothing is imported here: the command's help says these, and is to be quick.
"""

STEPS = {"gd": 200, "minibatch": 3000, "lbfgs": 30, "smoothed": 200}
"""Steps to take: some ten seconds of work on all images.

At `--reg 1e3`, `smoothed` comes to its gap in 14. There `lbfgs` is at 40.0 to 40.1 % of the test
images from its 6th to its 39th iteration; then it finds the bias, which is not regularised, and
goes on to a loss that is 1.6 % lower and at 39.6 to 40.0 %.
"""

CHECKPOINT_EVERY = {"gd": 100, "minibatch": 1000}
"""Steps between checkpoints: some seconds of work."""


def by_method(values: dict[str, int]) -> str:
    """Say the values in words.

    >>> by_method(CHECKPOINT_EVERY)
    '100 for gd, 1000 for minibatch'
    """
    return ", ".join(f"{value} for {method}" for method, value in values.items())
