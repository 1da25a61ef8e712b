"""The record of a run: what `result.json` holds, as typed values.

A record has a header (which run, of what data, on what machine), the run's parameters, and, once
the run has finished, its result. The result's class is the experiment's own. In the file all
fields of the header and of the result stand side by side in one JSON object:

    {"record_version": 1, "run": "sweep-...", "status": "done", "parameters": {...}, ...,
     "best_loss": 9.02, "timings": {...}}

A field of a result that equals its default is left out. JSON has no number for inf and nan; they
are written as null and read as nan (`Number`), or as inf where they are losses (`Loss`).
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from flows.runs.directory import RunDirectory
from flows.runs.environment import Machine
from flows.services.console import to_json
from storage.dataset import DatasetSummary

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RECORD_VERSION = 1
"""The version that is written. Version 0 had no such field (`flows.runs.old_records`)."""

P = TypeVar("P", bound="DataclassInstance")
R = TypeVar("R", bound="DataclassInstance")
T = TypeVar("T")

_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""Returns what reads and writes values of a type. Making one takes milliseconds."""

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number of a result that need not be finite."""

OptionalNumber = Annotated[
    float | None, BeforeValidator(lambda value: math.nan if value is None else value)
]
"""A number that some results do not have: absent there, null and nan where it is not finite."""

Loss = Annotated[float, BeforeValidator(lambda value: math.inf if value is None else value)]
"""A loss of a result. One that is not finite, as of weights that diverged, is read as inf."""


@dataclass(frozen=True, kw_only=True)
class ClusterSummary:
    """The Dask cluster that a run was on."""

    workers: int
    threads: int
    placement: str | None = None
    """Who took the steps of a training run."""
    block: int | None = None
    """How many trials of a random search were taken together."""


@dataclass(frozen=True, kw_only=True)
class RecordHeader:
    """What every record says, whatever the command."""

    record_version: int = RECORD_VERSION
    run: str
    """The run's name, which is its directory's."""
    command: str
    """As it is typed after `hinge`."""
    status: str
    seed: int | None = None
    data: DatasetSummary | None = None
    cluster: ClusterSummary | None = None
    started: str
    """UTC, ISO 8601."""
    finished: str | None = None
    error: str | None = None
    """Why the run failed, if it did."""
    versions: Mapping[str, str]
    """Of Python and of the packages."""
    machine: Machine


@dataclass(frozen=True, kw_only=True)
class RunRecord(RecordHeader, Generic[P]):
    """The record of a run that need not have finished."""

    parameters: P
    """Everything that decides the result."""


@dataclass(frozen=True, kw_only=True)
class FinishedRecord(RunRecord[P], Generic[P, R]):
    """The record of a run that has finished."""

    timings: Mapping[str, float]
    """Seconds by part; `seconds` is the whole run's."""
    result: R

    @property
    def seconds(self) -> float:
        """How long the run took."""
        return self.timings["seconds"]


def to_document(record: RecordHeader) -> dict[str, Any]:
    """Return a record as the JSON object that `result.json` holds."""
    own = {field.name: getattr(record, field.name) for field in fields(record)}
    document = {name: plain(value) for name, value in own.items() if value is not None}
    if isinstance(record, RunRecord):
        document["parameters"] = asdict(record.parameters)
    result: dict[str, Any] = document.pop("result", {})
    return document | result


def write_record(directory: RunDirectory, record: RecordHeader) -> None:
    """Replace the run's `result.json` by this record, whole or not at all."""
    directory.write_document(to_document(record))


def plain(value: Any) -> Any:
    """Return a value with its dataclasses as dictionaries, without fields that equal defaults.

    >>> plain(ClusterSummary(workers=2, threads=2, block=32))
    {'workers': 2, 'threads': 2, 'block': 32}
    """
    return _adapter(type(value)).dump_python(value, by_alias=True, exclude_defaults=True)


def read_parameters(directory: RunDirectory, document: Mapping[str, Any], parameters: type[P]) -> P:
    """Return the parameters that a document holds.

    Every field must be there. A field that is missing was written by another version, and its
    default may have been another.

    Raises PipelineError if they are not such parameters.
    """
    held = document.get("parameters")
    read = read_as(parameters, held, directory, "its parameters cannot be used ")
    differing = _differing(held, json.loads(to_json(asdict(read))))
    if differing:
        raise directory.unreadable(
            f"its parameters are of another version ({', '.join(differing)})"
        )
    return read


def read_as(kind: type[T], value: Any, directory: RunDirectory, what: str) -> T:
    """Return a JSON value as a dataclass; types are strict.

    Raises PipelineError, which begins with `what`, if it does not fit.
    """
    try:
        read: T = _adapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise directory.unreadable(f"{what}({_in_one_line(error)})") from error
    return read


def _differing(held: Any, read: dict[str, Any]) -> list[str]:
    """Return the names that only one of the two has, or whose values differ."""
    absent = object()
    names = sorted(held.keys() | read.keys())
    return [name for name in names if held.get(name, absent) != read.get(name, absent)]


def _in_one_line(error: ValidationError) -> str:
    """Say which values are wrong and why, without Pydantic's layout and links."""
    return "; ".join(map(_describe_error, error.errors()))


def _describe_error(details: ErrorDetails) -> str:
    """Say where a value is, what it is, and why it is wrong."""
    where = ".".join(map(str, details["loc"]))
    value = "" if details["type"] == "missing" else repr(details["input"])
    return f"{' '.join(filter(None, [where, value]))}: {details['msg']}"
