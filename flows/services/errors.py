"""The error of this room."""


class ServerError(RuntimeError):
    """There is no Prefect server: the named one does not answer, or none could be started."""
