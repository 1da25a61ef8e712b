"""The errors that this package raises."""


class DataError(ValueError):
    """An invalid input that the user can fix.

    The message states in one line what was received, what was wanted and what to do. The command
    line prints it unchanged and exits with status 2.
    """


class ClaimedError(DataError):
    """The error if another ingest is writing the store."""
