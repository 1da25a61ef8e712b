"""A run's directory: `result.json` is its record, with figures, tables and weights beside it."""

import csv
import hashlib
import json
import os
import platform
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flows.console import to_json
from flows.tables import Table, header_and_rows
from pipeline.errors import PipelineError
from storage.locks import open_lock, release, try_lock

_PACKAGES = ("hinge", "numpy", "numba", "dask", "distributed", "zarr", "prefect")


@dataclass(frozen=True)
class Run:
    """One run and where it is kept."""

    path: Path

    @property
    def id(self) -> str:
        """The run's name, which is its directory's."""
        return self.path.name

    @classmethod
    def create(cls, runs: Path, command: str) -> Self:
        """Make the directory of a new run of `command` under `runs`.

        Raises PipelineError if it cannot be written.
        """
        started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        check_runs(runs)
        words = command.replace("--", "").replace(" ", "-")
        path = runs / f"{words}-{started}-{secrets.token_hex(4)}"
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise _no_place(runs, str(error.strerror)) from error
        return cls(path)

    @classmethod
    def find(cls, runs: Path, name: str) -> Self:
        """Return the run called `name` under `runs`, or the one whose directory `name` is.

        Raises PipelineError if there is none.
        """
        beside = Path(os.path.normpath(runs / name))  # `..` leads up even where `runs` is not yet
        for path in (beside, Path(name).expanduser()):
            if (path / "result.json").is_file():
                return cls(path)
        raise PipelineError(f"no run {name!r} in {runs}; `ls {runs}` shows the runs that are there")

    @property
    def record(self) -> dict[str, Any]:
        """What `result.json` holds."""
        try:
            record = json.loads((self.path / "result.json").read_text())
        except (OSError, ValueError) as error:
            raise self.unreadable(str(error)) from error
        if not isinstance(record, dict):
            raise self.unreadable(f"it holds a {type(record).__name__}, not an object")
        return record

    def unreadable(self, why: str) -> PipelineError:
        """Return the error for a record that is damaged, or not of a run of this project."""
        return PipelineError(f"the record of run {self.id} cannot be read: {why}")

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replace `result.json`, whole or not at all."""
        with replacing(self.path / "result.json") as written:
            written.write_text(to_json(record) + "\n")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the run to oneself while the block works on it; nobody has that of a dead process.

        Raises PipelineError if another holds it, or nothing can be written to its directory.
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
                    f"run {self.id} is under way in another process; wait for its end, or end it"
                )
            yield
        finally:
            release(lock)

    def _not_writable(self, why: str) -> PipelineError:
        return PipelineError(
            f"run {self.id} cannot be gone on with: {self.path} cannot be written ({why})"
        )

    @property
    def checkpoint(self) -> Path:
        """Where the state to go on from is kept."""
        return self.path / "checkpoint.npz"

    @property
    def journal(self) -> Path:
        """Where a search or a grid keeps what is finished."""
        return self.path / "journal.sqlite"

    def write_weights(self, W: NDArray[np.float64]) -> None:
        """Write the weights (C, D + 1) as `weights.npy`."""
        with replacing(self.path / "weights.npy") as written, written.open("wb") as file:
            np.save(file, W)

    def read_weights(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the weights that the run came to, finite and of `shape` (C, D + 1).

        Raises PipelineError if it has none, or others.
        """
        path = self.path / "weights.npy"
        try:
            W = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise PipelineError(
                f"run {self.id} has no weights to go by ({error}); name one that has come to its "
                "end"
            ) from error
        if W.shape != shape or W.dtype != np.float64 or not np.isfinite(W).all():
            raise PipelineError(
                f"{path} cannot be gone by: it holds {W.shape} {W.dtype}, and finite {shape} "
                "float64 weights are wanted"
            )
        found: NDArray[np.float64] = W
        return found

    def write_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write named arrays as the file `name` (NumPy's .npz)."""
        with replacing(self.path / name) as written, written.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def write_losses(self, losses: NDArray[np.float64]) -> None:
        """Write the loss curve as `loss.csv`: the step and the loss before it."""
        self.write_table("loss.csv", {"step": range(len(losses)), "loss": losses})

    def write_table(self, name: str, rows: Table) -> None:
        """Write a table as the file `name` (CSV, the columns' names first); floats keep all bits.

        Raises ValueError for a table whose rows do not match, and leaves what was there.
        """
        header, values = header_and_rows(rows)
        with replacing(self.path / name) as written, written.open("w", newline="") as file:
            csv.writer(file).writerows([header, *values])


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write what then takes the place of `path`, whole or not at all."""
    written = path.with_name(f"{path.name}.tmp")
    try:
        yield written
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def check_runs(runs: Path) -> None:
    """Refuse a place where no run could be kept, before any work is done; make nothing there.

    Raises PipelineError.
    """
    there = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    if not there.is_dir():
        raise _no_place(runs, f"{there} is no directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise _no_place(runs, f"{there} cannot be written")


def _no_place(runs: Path, why: str) -> PipelineError:
    return PipelineError(f"runs cannot be kept in {runs}: {why}; name another with --runs")


def weights_sha256(W: NDArray[np.float64]) -> str:
    """Return the SHA-256 (hex) of the weights' float64 bytes, row-major and little-endian."""
    return hashlib.sha256(np.ascontiguousarray(W, "<f8").tobytes()).hexdigest()


def circumstances() -> dict[str, Any]:
    """Return the versions and the machine that a result was made with."""
    return {
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
    }


def now() -> str:
    """Return the time, UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
