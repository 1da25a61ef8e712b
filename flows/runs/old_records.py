"""Conversion of records of earlier versions to the current version.

Version 0 (no `record_version`): the name of some commands included a flag, such as
`sweep --train`, and the parameters of training had the same fields for all methods.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from flows.runs.record import RECORD_VERSION, RecordHeader
from pipeline.inputs.errors import PipelineError
from pipeline.journals.journal import Journal
from pipeline.training.parameters import METHODS

_COMMANDS = {
    "sweep --train": "grid",
    "check --steps": "check-step",
    "landscape --panels": "panels",
    "landscape --three-points": "three-points",
}


def upgrade(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document as the current version would have written it."""
    upgraded = dict(document)
    if "record_version" in document:
        return upgraded
    upgraded["record_version"] = 0
    command = document.get("command")
    upgraded["command"] = _COMMANDS.get(str(command), command)
    if command == "train":
        upgraded["parameters"] = _training_parameters(document.get("parameters"))
    return upgraded


def refuse_old_journal(record: RecordHeader | None, path: Path) -> None:
    """Raise PipelineError if the journal of a run to resume was written by an earlier version.

    Such a journal identifies its run by text in another format. An empty journal can be used: the
    run has not finished anything yet.
    """
    if record is None or record.record_version == RECORD_VERSION or not path.exists():
        return
    with Journal(path) as journal:
        if any(True for _ in journal):
            raise PipelineError(
                f"run {record.run} was started by an earlier version of hinge, and this version "
                f"cannot resume from its {path.name}; start a new run"
            )


def _training_parameters(held: Any) -> Any:
    """Return only the fields that the run's method has; the others had their defaults."""
    if not isinstance(held, Mapping) or held.get("method") not in METHODS:
        return held
    own = {field.name for field in fields(METHODS[held["method"]])}
    return {name: value for name, value in held.items() if name in own}
