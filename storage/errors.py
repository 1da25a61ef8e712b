"""The one error of this package: input that is not what it should be."""


class DataError(ValueError):
    """Bad input, told in one line: what was received, what was wanted, what to do.

    The line is meant for the person who typed the command; the command line prints it as it
    is and exits with status 2.
    """
