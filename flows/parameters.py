"""Parameters as a run's record holds them, read back to what the command was started with."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from flows.console import to_json
from flows.record import Run

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = TypeVar("P", bound="DataclassInstance")


def read_parameters(run: Run, parameters: type[P]) -> P:
    """Return the parameters, a dataclass `parameters`, that a run's record holds.

    Types are taken strictly and every field must be there: what was left out when the record
    was written (by another version, say) was not what its default is now.

    Raises PipelineError if they are not such parameters.
    """
    held = run.record.get("parameters")
    try:
        read = TypeAdapter(parameters).validate_json(json.dumps(held), strict=True)
    except ValidationError as error:
        raise run.unreadable(f"its parameters are none ({_in_one_line(error)})") from error
    differing = _differing(held, json.loads(to_json(asdict(read))))
    if differing:
        raise run.unreadable(f"its parameters are of another version ({', '.join(differing)})")
    return read


def _differing(held: Any, read: dict[str, Any]) -> list[str]:
    """Return the names that only one of the two has, or of which they have other values."""
    absent = object()
    names = sorted(held.keys() | read.keys())
    return [name for name in names if held.get(name, absent) != read.get(name, absent)]


def _in_one_line(error: ValidationError) -> str:
    """Say which values are wrong and why, without Pydantic's layout and links."""
    return "; ".join(
        " ".join([*(f"{name} {each['input']!r}:" for name in each["loc"]), each["msg"]])
        for each in error.errors()
    )
