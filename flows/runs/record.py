"""The record of a run: the content of `result.json` as typed values.

A record has a header (the run, its data, its machine), the run's parameters, and, once the run has
finished, its result. Each experiment defines the class of its result. In the file, the fields of
the header and of the result are in one JSON object:

    {"record_version": 1, "run": "sweep-...", "status": "done", "parameters": {...}, ...,
     "best_loss": 9.02, "timings": {...}}

A field of a result that equals its default is omitted. JSON cannot represent inf and nan. They are
written as null, which is read as inf if the field is a loss (`Loss`) and as nan otherwise
(`Number`).
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from flows.runs.directory import RunDirectory
from flows.runs.environment import Machine
from flows.services.console import to_json
from storage.dataset import DatasetSummary

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RECORD_VERSION = 1
"""The version of the records that are written. Version 0 did not have this field
(`flows.runs.old_records`)."""

if TYPE_CHECKING:

    class InWords(DataclassInstance, Protocol):
        """A dataclass that can describe itself."""

        def in_words(self) -> str:
            """Return one line: what is done with these parameters, or what came out."""
            ...


P = TypeVar("P", bound="InWords")
R = TypeVar("R", bound="InWords")
T = TypeVar("T")

_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""Returns the reader and writer of a type. They are cached because creating one takes
milliseconds."""

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number of a result that may be non-finite."""

OptionalNumber = Annotated[
    float | None, BeforeValidator(lambda value: math.nan if value is None else value)
]
"""A number that some results do not have. Those results omit it. A non-finite number is written as
null and read as nan."""

Loss = Annotated[float, BeforeValidator(lambda value: math.inf if value is None else value)]
"""A loss of a result. A non-finite loss, for example of a run that diverged, is read as inf."""


@dataclass(frozen=True, kw_only=True)
class ClusterSummary:
    """The Dask cluster of a run."""

    workers: int
    threads: int
    placement: str | None = None
    """Whether all workers or one worker took the steps of a training run."""
    block: int | None = None
    """The number of trials of a random search that were evaluated together."""
    versions: Mapping[str, str] | None = None
    """The versions on the workers, if another process started them."""


@dataclass(frozen=True, kw_only=True)
class FlowRunReference:
    """The Prefect flow run of a run."""

    id: str
    url: str | None
    """Its page."""


@dataclass(frozen=True, kw_only=True)
class RecordHeader:
    """The fields that the records of all commands have."""

    record_version: int = RECORD_VERSION
    run: str
    """The run's name: the name of its directory."""
    command: str
    """The command as typed after `hinge`."""
    status: str
    seed: int | None = None
    data: DatasetSummary | None = None
    cluster: ClusterSummary | None = None
    flow_run: FlowRunReference | None = None
    """The flow run that started the run or resumed it last."""
    started: str
    """UTC, ISO 8601."""
    finished: str | None = None
    error: str | None = None
    """Why the run failed, if it did."""
    versions: Mapping[str, str]
    """The versions of Python and of the packages."""
    machine: Machine


@dataclass(frozen=True, kw_only=True)
class RunRecord(RecordHeader, Generic[P]):
    """The record of a run that may be unfinished."""

    parameters: P
    """All parameters that the result depends on."""


@dataclass(frozen=True, kw_only=True)
class FinishedRecord(RunRecord[P], Generic[P, R]):
    """The record of a run that has finished."""

    timings: Mapping[str, float]
    """The seconds that each part of the run took; `seconds` is the total."""
    result: R

    @property
    def seconds(self) -> float:
        """The duration of the run in seconds."""
        return self.timings["seconds"]

    def in_words(self) -> str:
        """Return the result as one line."""
        words = self.result.in_words()
        return words if self.status == "done" else f"{self.status}: {words}"


def to_document(record: RecordHeader) -> dict[str, Any]:
    """Return a record as the JSON object that is written to `result.json`."""
    own = {field.name: getattr(record, field.name) for field in fields(record)}
    document = {name: plain(value) for name, value in own.items() if value is not None}
    if isinstance(record, RunRecord):
        document["parameters"] = asdict(record.parameters)
    result: dict[str, Any] = document.pop("result", {})
    if isinstance(record, FinishedRecord):
        document["summary"] = record.in_words()
    return document | result


def write_record(directory: RunDirectory, record: RecordHeader) -> None:
    """Replace the run's `result.json` by this record, atomically."""
    directory.write_document(to_document(record))


def plain(value: Any) -> Any:
    """Return a value with its dataclasses as dictionaries, without fields that equal the default.

    Examples:
        >>> plain(ClusterSummary(workers=2, threads=2, block=32))
        {'workers': 2, 'threads': 2, 'block': 32}
    """
    return _adapter(type(value)).dump_python(value, by_alias=True, exclude_defaults=True)


def read_parameters(directory: RunDirectory, document: Mapping[str, Any], parameters: type[P]) -> P:
    """Return the parameters in a document.

    Every field is required. A document without a field was written by another version, which may
    have had another default.

    Raises PipelineError if the parameters are not valid.
    """
    held = document.get("parameters")
    read = read_as(parameters, held, directory, "its parameters cannot be used ")
    differing = _differing(held, json.loads(to_json(asdict(read))))
    if differing:
        raise directory.unreadable(
            "its parameters were written by another version (different fields: "
            f"{', '.join(differing)})"
        )
    return read


def read_as(kind: type[T], value: Any, directory: RunDirectory, what: str) -> T:
    """Return a JSON value as a value of type `kind`, without converting types.

    Raises PipelineError if the value is not valid. `what` begins the reason in its message.
    """
    try:
        read: T = _adapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise directory.unreadable(f"{what}({_in_one_line(error)})") from error
    return read


def _differing(held: Any, read: dict[str, Any]) -> list[str]:
    """Return the names that are in only one of the two, or whose values differ."""
    absent = object()
    names = sorted(held.keys() | read.keys())
    return [name for name in names if held.get(name, absent) != read.get(name, absent)]


def _in_one_line(error: ValidationError) -> str:
    """Describe the invalid values in one line, without the layout and the links of Pydantic."""
    return "; ".join(map(_describe_error, error.errors()))


def _describe_error(details: ErrorDetails) -> str:
    """Describe one invalid value: its place in the document, the value, and the problem."""
    where = ".".join(map(str, details["loc"]))
    value = "" if details["type"] == "missing" else repr(details["input"])
    return f"{' '.join(filter(None, [where, value]))}: {details['msg']}"
