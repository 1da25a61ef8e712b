"""The header of a run's record, for a run of any command, and the check of its data.

It needs no Prefect, so a command that only reads a record starts quickly.
"""

from flows.runs.directory import RunDirectory
from flows.runs.old_records import upgrade
from flows.runs.record import RecordHeader, read_as
from pipeline.inputs.errors import PipelineError
from storage.dataset import Dataset


def read_header(directory: RunDirectory) -> RecordHeader:
    """Return the header of a run's record; records of earlier versions too.

    Raises PipelineError if the record cannot be read.
    """
    return read_as(RecordHeader, upgrade(directory.read_document()), directory, "")


def check_data(
    header: RecordHeader, directory: RunDirectory, dataset: Dataset, holder: str, which: str
) -> None:
    """Raise PipelineError unless a run was on this data; `holder` and `which` say it in words."""
    if header.data is None:
        raise directory.unreadable("it does not say what data it was on")
    fingerprint = header.data.fingerprint
    if fingerprint != dataset.fingerprint:
        raise PipelineError(
            f"run {directory.id} was on other data than {holder} (fingerprint "
            f"{fingerprint[:12]}, not {dataset.fingerprint[:12]}); name the store {which}"
        )
