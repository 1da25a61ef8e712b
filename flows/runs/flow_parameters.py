"""Types of parameters that flows share, as a Prefect form and Prefect's API take them.

Each has a plain default (`0`, an empty string). The API may send null for it.
"""

from typing import Annotated

from pydantic import BeforeValidator, Field

Count = Annotated[int, Field(ge=0), BeforeValidator(lambda value: 0 if value is None else value)]
"""A number of at least 0, where 0 leaves the choice to the flow."""

Name = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
"""A name or an address, which may be empty."""
