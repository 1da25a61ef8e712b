"""Folders of the user's that are named as our packages are never imported in their place."""

from pathlib import Path

import pytest

import flows
from hinge_command import PACKAGES
from tests.flows.conftest import User

OURS = Path(flows.__file__).parents[1]


def make_package(directory: Path, name: str) -> Path:
    """Make a package that ends the process that imports it."""
    package = directory / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise SystemExit('imported the {name} of the user')")
    return package


@pytest.fixture
def newcomer(tmp_path: Path) -> User:
    """A user without a Prefect server or a Dask cluster."""
    home = tmp_path / "home"
    home.mkdir()
    return User(home, "", "")


@pytest.mark.parametrize("name", ["flows", "pipeline", "storage", "kernels"])
def test_a_package_on_the_search_path_is_one_line(
    newcomer: User, tmp_path: Path, name: str
) -> None:
    theirs = make_package(tmp_path / "project", name)
    run = newcomer.hinge("--version", cwd=theirs.parent, PYTHONPATH=str(theirs.parent))
    assert (run.status, run.out) == (2, "")
    assert run.err == (
        f"hinge: Python finds a package {name!r} at {theirs} before hinge's own at "
        f"{OURS / name}; rename it, or remove {theirs.parent} from PYTHONPATH\n"
    )


def test_a_module_on_the_search_path_is_one_line(newcomer: User, tmp_path: Path) -> None:
    (tmp_path / "storage.py").write_text("raise SystemExit")
    run = newcomer.hinge("--version", cwd=tmp_path, PYTHONPATH=".")
    assert (run.status, run.out) == (2, "")
    assert f"at {tmp_path / 'storage.py'} before" in run.err
    assert run.err.count("\n") == 1


def test_a_folder_without_modules_hides_nothing(newcomer: User, tmp_path: Path) -> None:
    """Python takes a regular package that comes later before a folder that is none."""
    (tmp_path / "storage").mkdir()
    run = newcomer.hinge("--version", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (run.status, run.err) == (0, "")


def test_every_package_is_looked_at() -> None:
    assert {path.parent.name for path in OURS.glob("*/__init__.py")} - {"tests"} == {*PACKAGES}


@pytest.mark.slow
def test_no_process_of_a_command_imports_from_the_current_directory(
    newcomer: User, tmp_path: Path
) -> None:
    """Not the command, not its server, and not a worker."""
    project = tmp_path / "project"
    for name in PACKAGES:
        make_package(project, name)
    run = newcomer.hinge("ingest", "synthetic:20", "--store", "s.zarr", "--workers", 1, cwd=project)
    assert run.status == 0, run.err
    [log] = newcomer.home.glob(".prefect/hinge/*.log")
    assert log.read_text() == ""
