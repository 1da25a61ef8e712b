"""The command `hinge`: see that its packages are its own, then run `flows.cli`.

Their names are common ones: Prefect users often have a folder `flows/`. One that Python finds
before ours (through `PYTHONPATH`, say) would be imported in its place. This module is outside
those packages and its name is not in use elsewhere, so it runs even if they are shadowed.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("flows", "pipeline", "storage", "kernels")

_HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run the command that was typed, unless another package would run in its place."""
    for name in PACKAGES:
        found = _directory(find_spec(name))
        if found != _HERE / name:
            print(_complaint(name, found), file=sys.stderr)
            sys.exit(2)
    from flows.cli import main as run  # noqa: PLC0415 (it imports all four packages)

    run()


def _directory(spec: ModuleSpec | None) -> Path | None:
    """Return the directory of a package, or the file of a module, or None for neither."""
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
        f"rename it, or remove {found.parent} from PYTHONPATH"
    )
