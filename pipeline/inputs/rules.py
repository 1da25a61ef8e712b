"""Rules that parameters follow: each quantity's bounds, description and words, in one place.

A parameter class is a frozen dataclass whose fields are annotated with these types:

    @dataclass(frozen=True, kw_only=True)
    class Sweep(Parameters):
        reg: Regulariser = 0.0
        seed: Seed = 0

Making one checks its fields. A form that Prefect makes of the class shows the bounds and the
descriptions; for a field that has a docstring, the docstring.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.inputs.errors import PipelineError


class Wanted(NamedTuple):
    """How an error message names a quantity, and which values it has."""

    name: str
    values: str


Seed = Annotated[
    int,
    Field(ge=0, lt=2**64, description="Decides everything that is drawn at random."),
    Wanted("seed", "from 0 to 2^64 - 1"),
]
Regulariser = Annotated[
    float,
    Field(ge=0, allow_inf_nan=False, description="R in the loss's R ||W||^2."),
    Wanted("regulariser", "a number that is not negative"),
]
RegulariseBias = Annotated[bool, Field(description="Whether ||W||^2 includes the bias.")]
POSITIVE = "a positive number"
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
DrawnScale = Annotated[float, Field(ge=1e-30, le=1e15)]
"""The standard deviation of weights that a search draws.

Within these bounds no weight's unit is lost, and no row's loss reaches 2^80, where exact sums end.
"""
DRAWN_SCALE = "a positive number from 1e-30 to 1e+15"
Scale = Annotated[
    float,
    Field(ge=1e-30, le=1e15, description="Standard deviation of the weights drawn."),
    Wanted("scale", DRAWN_SCALE),
]
TrialCount = Annotated[
    int,
    Field(ge=1, description="Weights to try."),
    Wanted("number of trials", "at least 1"),
]
PointsPerDecade = Annotated[
    int,
    Field(ge=1, description="Points from one power of 10 to the next."),
    Wanted("points per decade", "at least 1"),
]
DType = Annotated[
    Literal["float32", "float64"],
    Field(description="The type of the scores. Sums are exact and weights float64 in any case."),
    Wanted("dtype", "float32 or float64"),
]


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Base of all parameter classes: checks every field that has a rule.

    Raises PipelineError for a value out of bounds.
    """

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True)

    def __post_init__(self) -> None:
        for name, wanted, check in _rules(type(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            try:
                check(value)
            except ValidationError as error:
                raise PipelineError(
                    f"the {wanted.name} must be {wanted.values}, not {value}"
                ) from error


@lru_cache
def _rules(kind: Any) -> list[tuple[str, Wanted, Callable[[Any], Any]]]:
    """Return each field that has a rule, with what checks it."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        (field.name, wanted, TypeAdapter(hints[field.name]).validate_python)
        for field in fields(kind)
        for wanted in getattr(hints[field.name], "__metadata__", ())
        if isinstance(wanted, Wanted)
    ]
