"""What a result was made with: versions, machine and time."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

_PACKAGES = ("hinge", "numpy", "numba", "dask", "distributed", "zarr", "prefect")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The computer that a command ran on."""

    system: str
    """Operating system and kernel."""
    processor: str
    """Instruction set, such as `x86_64`."""
    cores: int | None
    """Logical processors."""


def this_machine() -> Machine:
    """Describe the computer that this process runs on."""
    return Machine(system=platform.platform(), processor=platform.machine(), cores=os.cpu_count())


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    packages = {package: version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), **packages}


def timestamp() -> str:
    """Return the current time, UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
