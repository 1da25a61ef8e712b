"""Entry point of the command `hinge`: check that its packages are not shadowed, then run it.

The packages have common names; Prefect users, for example, often have a folder `flows/`. If Python
finds another package of that name first (through `PYTHONPATH`, for example), it imports that one
instead. This module is outside the packages and has a unique name, so it runs even if they are
shadowed.
"""

import gc
import os
import signal
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("flows", "pipeline", "storage", "kernels")

_NEW_OBJECTS = 100_000
"""The number of new objects between two garbage collections. The imports of a command create
half a million objects that stay; with Python's default of 700, looking at them over and over takes
a fifth of the time of the imports."""

_HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run the command; exit with status 2 if another package shadows one of hinge's.

    Until the command runs its flow, a signal ends it at once. A server that it has launched by then
    ends with it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    for name in PACKAGES:
        found = _directory(find_spec(name))
        if found != _HERE / name:
            print(_complaint(name, found), file=sys.stderr)
            sys.exit(2)
    gc.set_threshold(_NEW_OBJECTS)
    from flows.cli import main as run  # noqa: PLC0415 (it imports all four packages)

    run()


def _end(*_signal: object) -> None:
    os.write(2, b"hinge: interrupted\n")  # `print` might be running
    os._exit(130)


def _directory(spec: ModuleSpec | None) -> Path | None:
    """Return the directory of a package or the file of a module; None if it is not found."""
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin else None


def _complaint(name: str, found: Path | None) -> str:
    if found is None:
        return f"hinge: the package {name!r} is not at {_HERE / name}; install hinge again"
    return (
        f"hinge: Python finds a package {name!r} at {found} before hinge's own at {_HERE / name}; "
        f"rename the other package, or remove {found.parent} from PYTHONPATH"
    )
