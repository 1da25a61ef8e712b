"""The environment of a run: package versions, machine and time."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

_PACKAGES = ("hinge", "numpy", "numba", "dask", "distributed", "zarr", "prefect")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The computer on which a command ran."""

    system: str
    """Operating system and kernel."""
    processor: str
    """Instruction set, such as `x86_64`."""
    cores: int | None
    """The number of logical processors; None if unknown."""


def this_machine() -> Machine:
    """Return a description of the computer on which this process runs."""
    return Machine(system=platform.platform(), processor=platform.machine(), cores=os.cpu_count())


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages on which a result depends."""
    packages = {package: version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), **packages}


def timestamp() -> str:
    """Return the current UTC time in ISO 8601 format, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
