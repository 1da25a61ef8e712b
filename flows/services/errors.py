"""The errors that this package raises."""


class ServerError(RuntimeError):
    """The error if the configured Prefect server does not answer or a local one does not start."""


class WorkbenchLostError(RuntimeError):
    """The error if the workbench ends while a run is in progress on it."""
