"""A run's directory: `result.json` is its record, with figures, tables and weights beside it."""

import csv
import hashlib
import json
import os
import platform
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flows.console import to_json
from pipeline.errors import PipelineError

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
        path = runs / f"{command}-{started}-{secrets.token_hex(2)}"
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise PipelineError(
                f"runs cannot be kept in {runs}: {error.strerror}; name another with --runs"
            ) from error
        return cls(path)

    @classmethod
    def find(cls, runs: Path, name: str) -> Self:
        """Return the run called `name` under `runs`, or the one whose directory `name` is.

        Raises PipelineError if there is none.
        """
        for path in (runs / name, Path(name)):
            if (path / "result.json").is_file():
                return cls(path)
        raise PipelineError(f"no run {name!r} in {runs}; `ls {runs}` shows the runs that are there")

    @property
    def record(self) -> dict[str, Any]:
        """What `result.json` holds."""
        try:
            record: dict[str, Any] = json.loads((self.path / "result.json").read_text())
        except (OSError, ValueError) as error:
            raise PipelineError(f"the record of run {self.id} cannot be read: {error}") from error
        return record

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replace `result.json`, whole or not at all."""
        written = self.path / "result.json.tmp"
        written.write_text(to_json(record) + "\n")
        written.replace(self.path / "result.json")

    @property
    def checkpoint(self) -> Path:
        """Where the state to go on from is kept."""
        return self.path / "checkpoint.npz"

    def write_weights(self, W: NDArray[np.float64]) -> None:
        """Write the weights (C, D + 1) as `weights.npy`."""
        np.save(self.path / "weights.npy", W)

    def write_losses(self, losses: NDArray[np.float64]) -> None:
        """Write the loss curve as `loss.csv`: the step and the loss before it."""
        with (self.path / "loss.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "loss"])
            writer.writerows(enumerate(losses.tolist()))


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
