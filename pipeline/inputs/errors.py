"""The error for what a user can fix: one line that says what came and what was wanted."""


class PipelineError(ValueError):
    """A cluster, a parameter or a run that the pipeline cannot work with."""
