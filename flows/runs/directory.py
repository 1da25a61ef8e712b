"""The directory of a run: its record `result.json`, figures, tables and weights."""

import csv
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flows.runs.tables import Table, header_and_rows
from flows.services.console import to_json
from pipeline.inputs.errors import PipelineError
from pipeline.journals.atomic_file import replace_file
from storage.locks import open_lock, release, try_lock


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run."""

    path: Path

    @property
    def id(self) -> str:
        """The run's name: the name of its directory."""
        return self.path.name

    @classmethod
    def create(cls, runs: Path, command: str) -> Self:
        """Create the directory of a new run of `command` in `runs`.

        Raises PipelineError if it cannot be created.
        """
        started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        check_runs(runs)
        path = runs / f"{command.replace(' ', '-')}-{started}-{secrets.token_hex(4)}"
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise _cannot_keep_runs(runs, str(error.strerror)) from error
        return cls(path)

    @classmethod
    def find(cls, runs: Path, name: str) -> Self:
        """Return the run with the name `name` in `runs`, or with the directory `name`.

        Raises PipelineError if there is no such run.
        """
        beside = Path(os.path.normpath(runs / name))  # `..` leads up even if `runs` does not exist
        for path in (beside, Path(name).expanduser()):
            if (path / "result.json").is_file():
                return cls(path)
        raise PipelineError(f"no run {name!r} in {runs}; `hinge runs --runs {runs}` lists its runs")

    def read_document(self) -> dict[str, Any]:
        """Return the JSON object in `result.json`.

        Raises PipelineError if it cannot be read. `flows.runs.record` turns it into a typed record.
        """
        try:
            document = json.loads((self.path / "result.json").read_text())
        except (OSError, ValueError) as error:
            raise self.unreadable(str(error)) from error
        if not isinstance(document, dict):
            raise self.unreadable(f"expected a JSON object, got a {type(document).__name__}")
        return document

    def unreadable(self, why: str) -> PipelineError:
        """Return the error for a record that is damaged or was not written by this project."""
        return PipelineError(f"the record of run {self.id} cannot be read: {why}")

    def write_document(self, document: Mapping[str, Any]) -> None:
        """Replace `result.json` atomically."""
        text = to_json(document) + "\n"
        with replace_file(self.path / "result.json") as file:
            file.write(text.encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's exclusive lock; the operating system releases it if the process dies.

        Raises PipelineError if another process holds it, or the directory cannot be written.
        """
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise self._not_writable("no permission")
        try:
            lock = open_lock(self.path / ".lock")
        except OSError as error:
            raise self._not_writable(str(error.strerror)) from error
        try:
            if not try_lock(lock):
                raise PipelineError(
                    f"run {self.id} is running in another process; wait until it ends, or stop it"
                )
            yield
        finally:
            release(lock)

    def _not_writable(self, why: str) -> PipelineError:
        return PipelineError(
            f"run {self.id} cannot be resumed: {self.path} cannot be written ({why})"
        )

    @property
    def checkpoint(self) -> Path:
        """The file that contains the last checkpoint of a training run."""
        return self.path / "checkpoint.npz"

    @property
    def journal(self) -> Path:
        """The file that contains the finished part of a search, a grid or a check."""
        return self.path / "journal.sqlite"

    @property
    def passes(self) -> Path:
        """The journal of the passes of an L-BFGS run. It is deleted when the run finishes."""
        return self.path / "passes.sqlite"

    def write_weights(self, W: NDArray[np.float64]) -> None:
        """Write the weights (C, D + 1) as `weights.npy`."""
        with replace_file(self.path / "weights.npy") as file:
            np.save(file, W)

    def read_weights(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the run's final weights.

        Raises PipelineError if the run has no weights, or if they are not finite float64 weights of
        `shape` (C, D + 1).
        """
        path = self.path / "weights.npy"
        try:
            W = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise PipelineError(
                f"run {self.id} has no weights ({error}); name a run that has finished"
            ) from error
        if W.shape != shape or W.dtype != np.float64 or not np.isfinite(W).all():
            raise PipelineError(
                f"{path} cannot be used: it contains {W.shape} {W.dtype} weights, expected finite "
                f"{shape} float64 weights"
            )
        found: NDArray[np.float64] = W
        return found

    def write_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write named arrays to the file `name` (NumPy's .npz)."""
        with replace_file(self.path / name) as file:
            np.savez(file, allow_pickle=False, **arrays)

    def write_losses(self, losses: NDArray[np.float64]) -> None:
        """Write the loss curve to `loss.csv`: each step and the loss before it."""
        self.write_table("loss.csv", {"step": range(len(losses)), "loss": losses})

    def write_table(self, name: str, rows: Table) -> None:
        """Write a table to the file `name` (CSV with a header); floats are written exactly.

        Raises ValueError if the rows have different columns. The file is then unchanged.
        """
        header, values = header_and_rows(rows)
        text = io.StringIO(newline="")
        csv.writer(text).writerows([header, *values])
        with replace_file(self.path / name) as file:
            file.write(text.getvalue().encode())


def check_runs(runs: Path) -> None:
    """Raise PipelineError if runs cannot be stored in `runs`. Create nothing."""
    there = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    if not there.is_dir():
        raise _cannot_keep_runs(runs, f"{there} is not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise _cannot_keep_runs(runs, f"{there} is not writable")


def _cannot_keep_runs(runs: Path, why: str) -> PipelineError:
    return PipelineError(
        f"runs cannot be stored in {runs}: {why}; choose another directory with --runs"
    )
