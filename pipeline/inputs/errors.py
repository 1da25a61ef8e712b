"""The error type for problems that the user can fix."""


class PipelineError(ValueError):
    """An error in a cluster, a parameter or a run, which the user can fix.

    The message states what was received and what is needed.
    """
