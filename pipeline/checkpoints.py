"""A run's state on disk: replaced whole or not at all."""

import os
import tempfile
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from kernels.updates import Optimiser
from pipeline.descent import DescentState, Status
from pipeline.errors import PipelineError

_MEMORY = "memory_"


def save(path: Path, state: DescentState) -> None:
    """Write `state` to `path` (.npz), in place of what was there."""
    arrays: dict[str, Any] = {"step": state.step, "W": state.W, "losses": state.losses}
    arrays |= {_MEMORY + name: value for name, value in state.memory._asdict().items()}
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
        template = optimiser.init(W)
        memory = type(template)(*(stored[_MEMORY + name] for name in template._fields))
        status = Status(str(stored["status"]))
        return DescentState(int(stored["step"]), W, memory, stored["losses"], status)
    except (OSError, EOFError, KeyError, TypeError, ValueError, BadZipFile) as error:
        raise PipelineError(
            f"{path} is no checkpoint of this run ({error}); start the run anew"
        ) from error
