"""Reading the header of the record of any run, and checking which data the run used.

This module does not import Prefect, so that a command that only reads a record starts quickly.
"""

from flows.runs.directory import RunDirectory
from flows.runs.old_records import upgrade
from flows.runs.record import RecordHeader, read_as
from pipeline.inputs.errors import PipelineError
from storage.dataset import Dataset


def read_header(directory: RunDirectory) -> RecordHeader:
    """Return the header of a run's record. Records of earlier versions can be read too.

    Raises PipelineError if the record cannot be read.
    """
    return read_as(RecordHeader, upgrade(directory.read_document()), directory, "")


def check_data(
    header: RecordHeader, directory: RunDirectory, dataset: Dataset, holder: str, which: str
) -> None:
    """Raise PipelineError unless a run used this data.

    The message contains "other data than `holder`" and "name the store `which`".
    """
    if header.data is None:
        raise directory.unreadable("it does not state which data the run used")
    fingerprint = header.data.fingerprint
    if fingerprint != dataset.fingerprint:
        raise PipelineError(
            f"run {directory.id} used other data than {holder} (its fingerprint is "
            f"{fingerprint[:12]}, not {dataset.fingerprint[:12]}); name the store {which}"
        )
