"""Exit statuses of the commands, and the errors that the user can fix.

A command prints such an error as one line and exits with `EXIT_USAGE`.
"""

from flows.services.errors import ServerError
from pipeline.inputs.errors import PipelineError
from storage.errors import DataError

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

INPUT_ERRORS = (DataError, PipelineError, ServerError)
