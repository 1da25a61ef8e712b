"""A user's packages with the names of hinge's packages are never imported in their place."""

from pathlib import Path

import pytest

import flows
from hinge_command import PACKAGES
from tests.flows.conftest import User

HINGE_ROOT = Path(flows.__file__).parents[1]


def make_package(directory: Path, name: str) -> Path:
    """Write a package that ends any process that imports it."""
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
def test_shadowing_package_is_reported_in_one_line(
    newcomer: User, tmp_path: Path, name: str
) -> None:
    theirs = make_package(tmp_path / "project", name)
    run = newcomer.hinge("--version", cwd=theirs.parent, PYTHONPATH=str(theirs.parent))
    assert (run.status, run.out) == (2, "")
    assert run.err == (
        f"hinge: Python finds a package {name!r} at {theirs} before hinge's own at "
        f"{HINGE_ROOT / name}; rename the other package, or remove {theirs.parent} from "
        "PYTHONPATH\n"
    )


def test_shadowing_module_is_reported_in_one_line(newcomer: User, tmp_path: Path) -> None:
    (tmp_path / "storage.py").write_text("raise SystemExit")
    run = newcomer.hinge("--version", cwd=tmp_path, PYTHONPATH=".")
    assert (run.status, run.out) == (2, "")
    assert f"at {tmp_path / 'storage.py'} before" in run.err
    assert run.err.count("\n") == 1


def test_folder_without_init_does_not_shadow(newcomer: User, tmp_path: Path) -> None:
    """Python prefers a package with `__init__.py` to a folder without, even later on the path."""
    (tmp_path / "storage").mkdir()
    run = newcomer.hinge("--version", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (run.status, run.err) == (0, "")


def test_every_package_of_hinge_is_checked() -> None:
    assert {path.parent.name for path in HINGE_ROOT.glob("*/__init__.py")} - {"tests"} == {
        *PACKAGES
    }


@pytest.mark.slow
def test_no_process_imports_from_the_current_directory(newcomer: User, tmp_path: Path) -> None:
    """This covers the command, its server and its workers."""
    project = tmp_path / "project"
    for name in (*PACKAGES, "prefect"):
        make_package(project, name)
    run = newcomer.hinge("ingest", "synthetic:20", "--store", "s.zarr", "--workers", 1, cwd=project)
    assert run.status == 0, run.err
    [log] = newcomer.home.glob(".prefect/hinge/*.log")
    assert "of the user" not in log.read_text()
