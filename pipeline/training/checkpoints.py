"""Checkpoints of a training run: its state on disk, replaced atomically."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from kernels.updates import Optimiser
from pipeline.inputs.errors import PipelineError
from pipeline.journals.atomic_file import replace_file
from pipeline.training.descent import DescentState, Status

_MEMORY = "memory_"
"""Prefix of the names of the arrays and numbers in the optimiser's state."""


def save(path: Path, state: DescentState) -> None:
    """Write `state` to `path` (.npz), replacing any earlier file."""
    arrays: dict[str, Any] = {"step": state.step, "W": state.W, "losses": state.losses}
    arrays |= {f"{_MEMORY}{i}": leaf for i, leaf in enumerate(_leaves(state.memory))}
    with replace_file(path) as file:
        np.savez(file, status=state.status.value, **arrays)


def load(path: Path, optimiser: Optimiser) -> DescentState:
    """Read a state that `save` wrote. `optimiser` gives the structure of the optimiser's state.

    Raises PipelineError if the file is not a checkpoint of such a run.
    """
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            stored: dict[str, Any] = dict(file)
        W = stored["W"]
        leaves = (stored[f"{_MEMORY}{i}"] for i in count())
        memory = _replace_leaves(optimiser.init(W), leaves)
        status = Status(str(stored["status"]))
        return DescentState(int(stored["step"]), W, memory, stored["losses"], status)
    except (OSError, EOFError, KeyError, TypeError, ValueError, BadZipFile) as error:
        raise PipelineError(
            f"{path} is not a checkpoint of this run ({error}); start a new run"
        ) from error


def _leaves(memory: Any) -> Iterator[Any]:
    """Yield the arrays and numbers in nested tuples."""
    if isinstance(memory, tuple):
        for part in memory:
            yield from _leaves(part)
    else:
        yield memory


def _replace_leaves(template: Any, leaves: Iterator[Any]) -> Any:
    """Return nested tuples like `template`, with `leaves` instead of its own leaves.

    Raises ValueError if a leaf has a different shape.
    """
    if not isinstance(template, tuple):
        leaf = next(leaves)
        if np.shape(leaf) != np.shape(template):
            raise ValueError(f"an array has shape {np.shape(leaf)}, expected {np.shape(template)}")
        return leaf if np.ndim(leaf) else leaf.item()
    parts = [_replace_leaves(part, leaves) for part in template]
    return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)
