"""How a command ends: its exit status, and the errors that are the user's to mend.

Of those the command says one line, and exits with `EXIT_USAGE`.
"""

from pipeline.errors import PipelineError
from storage.errors import DataError

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


class ServerError(RuntimeError):
    """No Prefect server: the one that was named does not answer, or none could be started."""


INPUT_ERRORS = (DataError, PipelineError, ServerError)
