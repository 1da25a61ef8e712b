"""A run's state on disk: replaced whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from kernels.updates import Optimiser
from pipeline.descent import DescentState, Status
from pipeline.errors import PipelineError

_MEMORY = "memory_"
"""Before the number of each array and number in the optimiser's state."""


def save(path: Path, state: DescentState) -> None:
    """Write `state` to `path` (.npz), in place of what was there."""
    arrays: dict[str, Any] = {"step": state.step, "W": state.W, "losses": state.losses}
    arrays |= {f"{_MEMORY}{i}": leaf for i, leaf in enumerate(_leaves(state.memory))}
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            np.savez(file, status=state.status.value, **arrays)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise


def load(path: Path, optimiser: Optimiser) -> DescentState:
    """Read what `save` wrote; `optimiser` says what its memory looks like.

    Raises PipelineError if the file is no checkpoint of such a run.
    """
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            stored: dict[str, Any] = dict(file)
        W = stored["W"]
        leaves = (stored[f"{_MEMORY}{i}"] for i in count())
        memory = _filled(optimiser.init(W), leaves)
        status = Status(str(stored["status"]))
        return DescentState(int(stored["step"]), W, memory, stored["losses"], status)
    except (OSError, EOFError, KeyError, TypeError, ValueError, BadZipFile) as error:
        raise PipelineError(
            f"{path} is no checkpoint of this run ({error}); start the run anew"
        ) from error


def _leaves(memory: Any) -> Iterator[Any]:
    """Yield what is no tuple in a tuple of tuples."""
    if isinstance(memory, tuple):
        for part in memory:
            yield from _leaves(part)
    else:
        yield memory


def _filled(template: Any, leaves: Iterator[Any]) -> Any:
    """Return a state like `template` with other leaves, of the same shape each."""
    if not isinstance(template, tuple):
        leaf = next(leaves)
        if np.shape(leaf) != np.shape(template):
            raise ValueError(f"an array of shape {np.shape(leaf)}, not {np.shape(template)}")
        return leaf if np.ndim(leaf) else leaf.item()
    parts = [_filled(part, leaves) for part in template]
    return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)
