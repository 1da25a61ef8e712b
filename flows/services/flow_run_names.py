"""Names and tags of the Prefect flow runs.

A name says what is done, with the decisive parameters: `minibatch 3000 x 256 x 1e-7 seed 0`. The
tags are `hinge`, the command, the method if there are several, and the data.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import runtime

from storage.dataset import open_dataset
from storage.errors import DataError


def flow_run_name() -> str:
    """Return the name of this flow run: what it does, or `RUN, resumed`."""
    given = runtime.flow_run.parameters
    if given.get("resume"):
        return f"{Path(given['resume']).name}, resumed"
    words: str = given["parameters"].in_words()
    return words


def flow_run_tags(command: str, given: Mapping[str, Any]) -> list[str]:
    """Return the tags of a run of `command` with the parameters `given`."""
    method = getattr(given.get("parameters"), "method", None)
    return ["hinge", command, *([method] if method else []), *_data_name(given)]


def _data_name(given: Mapping[str, Any]) -> list[str]:
    """Return the name of the data, if its store can be opened."""
    try:
        return [open_dataset(given["store"]).name]
    except DataError:
        return []
