"""Checks of the installed packages: versions, imports, and places.

They compare with the requirements in the metadata of the installed distributions, so that they do
not have to import a package that cannot be imported.
"""

import importlib
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flows.doctor.findings import Answer

CHECKED = ("hinge", "prefect", "dask", "distributed", "zarr", "numba")
"""The distributions whose requirements are compared with the installed versions."""

IMPORTED = ("numpy", "numba", "zarr", "distributed", "matplotlib", "prefect")
"""The packages that are imported, those that others need first."""


def check_python() -> Iterator[Answer]:
    """Compare Python's version with the one that hinge needs."""
    here, wanted = platform.python_version(), distribution("hinge").metadata["Requires-Python"]
    if SpecifierSet(wanted).contains(here, prereleases=True):
        yield Answer("ok", here)
    else:
        yield Answer("problem", f"{here}; hinge needs {wanted}", "install hinge in another Python")


def check_versions() -> Iterator[Answer]:
    """Compare the installed versions with the requirements of the distributions in `CHECKED`."""
    clashes = [clash for name in CHECKED for clash in find_clashes(name)]
    yield from clashes
    if not clashes:
        yield Answer("ok", f"the requirements of {', '.join(CHECKED)} are met")


def find_clashes(name: str) -> Iterator[Answer]:
    """Yield a problem for each requirement of an installed distribution that is not met."""
    try:
        wanted = map(Requirement, requires(name) or [])
    except PackageNotFoundError:
        yield Answer("problem", f"{name} is not installed", "install hinge again with pip")
        return
    for each in wanted:
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        need = f"{each.name}{each.specifier}"
        advice = f"python -m pip install '{need}'"
        try:
            found = version(each.name)
        except PackageNotFoundError:
            yield Answer("problem", f"{each.name} is not installed; {name} needs {need}", advice)
            continue
        if not each.specifier.contains(found, prereleases=True):
            yield Answer(
                "problem", f"{each.name} {found} is installed; {name} needs {need}", advice
            )


def check_imports() -> Iterator[Answer]:
    """Import the packages, and report those that cannot be imported."""
    good = []
    for name in IMPORTED:
        try:
            importlib.import_module(name)
            good.append(name)
        except (Exception, SystemExit) as error:
            text = " ".join(f"{name} cannot be imported: {error!r}".split())
            yield Answer("problem", text, "correct the versions above, or install hinge again")
    if good:
        yield Answer("ok", f"{', '.join(good)} can be imported")


def check_places() -> Iterator[Answer]:
    """Report where hinge is, and packages that are not imported from where they were installed."""
    for name in IMPORTED:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue  # reported by `check_imports`
        found = Path(spec.origin).resolve().parent
        installed = Path(str(distribution(name).locate_file(name))).resolve()
        if installed.exists() and found != installed:
            yield Answer(
                "problem",
                f"Python finds {name} at {found} before the installed one at {installed}",
                f"rename it, or remove {found.parent} from PYTHONPATH",
            )
            continue
    yield Answer("ok", f"hinge {version('hinge')} in {Path(__file__).parents[2]}")
