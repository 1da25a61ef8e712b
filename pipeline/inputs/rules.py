"""Rules for parameters: the bounds, the description and the error message of each quantity.

A parameter class is a frozen dataclass whose fields are annotated with these types:

    @dataclass(frozen=True, kw_only=True)
    class Sweep(Parameters):
        reg: Regulariser = 0.0
        seed: Seed = 0

Creating an instance checks its fields. The class's JSON schema contains the bounds and the
descriptions. Prefect's form shows the descriptions, and its server refuses a run whose parameters
do not have the schema. If a field has a docstring, it is the description.

Rules that involve several fields are not in the schema. `__post_init__` checks them.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from pipeline.inputs.errors import PipelineError


class Wanted(NamedTuple):
    """The name of a quantity and its allowed values, as worded in error messages."""

    name: str
    values: str


Seed = Annotated[
    int,
    Field(ge=0, lt=2**64, description="Seed of all random numbers."),
    Wanted("seed", "from 0 to 2^64 - 1"),
]
Regulariser = Annotated[
    float,
    Field(
        ge=0,
        allow_inf_nan=False,
        description="Regularisation strength R: the loss includes R ||W||^2.",
    ),
    Wanted("regulariser", "a non-negative number"),
]
RegulariseBias = Annotated[bool, Field(description="Whether ||W||^2 includes the bias.")]
POSITIVE = "a positive number"
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
DrawnScale = Annotated[float, Field(ge=1e-30, le=1e15)]
"""The standard deviation of weights that a search draws.

Within these bounds the unit of the fixed-point weights does not underflow, and no row's loss
reaches 2^80, the limit of the exact sums.
"""
DRAWN_SCALE = "a positive number from 1e-30 to 1e+15"
Scale = Annotated[
    float,
    Field(ge=1e-30, le=1e15, description="Standard deviation of the random weights."),
    Wanted("scale", DRAWN_SCALE),
]
TrialCount = Annotated[
    int,
    Field(ge=1, description="Number of trials: random weights to evaluate."),
    Wanted("number of trials", "at least 1"),
]
BatchSize = Annotated[
    int,
    Field(ge=1, description="Images per mini-batch."),
    Wanted("batch size", "at least 1"),
]
PointsPerDecade = Annotated[
    int,
    Field(ge=1, description="Number of points from one power of 10 to the next."),
    Wanted("points per decade", "at least 1"),
]
DType = Annotated[
    Literal["float32", "float64"],
    Field(description="Type of the scores. Sums are always exact, and weights always float64."),
    Wanted("dtype", "float32 or float64"),
]


def written_as(pattern: str) -> dict[str, str]:
    """Return the JSON schema of a text that is written in a given way, a regular expression.

    The schema lets the server refuse what is obviously wrong, such as a misspelt word. The
    parameter class parses the text, and its error message explains how to write it.
    """
    return {"pattern": f"^({pattern})$"}


NUMBER = r"\s*[+]?[\d._]+([eE][+-]?[\d_]+)?\s*"
"""The pattern of a positive number."""
INITIAL_WEIGHTS = written_as(f"zeros|(normal|uniform):{NUMBER}")
"""The JSON schema of a text that `pipeline.inputs.weights.InitialWeights.parse` reads."""

Init = Annotated[
    str,
    Field(
        description="Initial weights: `zeros`, `normal:SCALE` or `uniform:SCALE`.",
        json_schema_extra=INITIAL_WEIGHTS,
    ),
]
ExamplesText = Annotated[
    str,
    Field(
        description="The training images: `all`, the size of a random sample, or `first:N`.",
        json_schema_extra=written_as(r"all|(first:)?\d{1,9}"),
    ),
]
"""A text that `pipeline.inputs.examples.Examples.parse` reads."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The base class of all parameter classes, which checks every field that has a rule.

    Raises PipelineError if a value is out of bounds.
    """

    # A parameter that the class does not have is an error, also in JSON.
    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    def __post_init__(self) -> None:
        for name, wanted, check in _rules(type(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            try:
                check(value)
            except ValidationError as error:
                raise PipelineError(
                    f"the {wanted.name} must be {wanted.values}, not {value}"
                ) from error

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Add the allowed values to the descriptions. Forms do not show the bounds themselves."""
        schema = handler(core_schema)
        shown = handler.resolve_ref_schema(schema)["properties"]
        for name, wanted, _ in _rules(cls):  # type: ignore[arg-type]
            shown[name]["description"] += f" Must be {wanted.values}."
        return schema


@lru_cache
def _rules(kind: Any) -> list[tuple[str, Wanted, Callable[[Any], Any]]]:
    """Return each field that has a rule, as (name, rule, function that checks a value)."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        (field.name, wanted, TypeAdapter(hints[field.name]).validate_python)
        for field in fields(kind)
        for wanted in getattr(hints[field.name], "__metadata__", ())
        if isinstance(wanted, Wanted)
    ]
