"""Types of the parameters that flows share, for Prefect's forms and its API.

Each has a simple default: `0` or an empty string. The API may send null, which is replaced by the
default.
"""

from typing import Annotated

from pydantic import BeforeValidator, Field

Count = Annotated[int, Field(ge=0), BeforeValidator(lambda value: 0 if value is None else value)]
"""A number of at least 0; 0 leaves the choice to the flow."""

Name = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
"""A name or an address, which may be empty."""
