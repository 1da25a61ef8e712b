"""The errors that are the user's to mend: the command says one line and exits with 2."""

from pipeline.errors import PipelineError
from storage.errors import DataError


class ServerError(RuntimeError):
    """No Prefect server: the one that was named does not answer, or none could be started."""


INPUT_ERRORS = (DataError, PipelineError, ServerError)
