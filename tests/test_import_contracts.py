"""The import contracts: each one is kept, and each one is broken by an import that it forbids."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "kernels", "pipeline", "storage")

PLANTED = [
    # a module, a module that it must not import, and the contract that forbids it
    ("kernels/plane.py", "storage.schema", "flows -> pipeline -> {storage, kernels}"),
    ("storage/schema.py", "pipeline.objective", "flows -> pipeline -> {storage, kernels}"),
    ("kernels/hinge.py", "zarr", "kernels are pure functions over arrays"),
    ("storage/dataset.py", "distributed", "storage imports no cluster and no orchestrator"),
    ("pipeline/objective.py", "prefect", "the pipeline imports no orchestrator"),
    (
        "flows/sweep/flow.py",
        "flows.train.flow",
        "flows: no experiment imports another, except the reproduction, which imports all",
    ),
    (
        "flows/runs/record.py",
        "flows.sweep.results",
        "flows: no experiment imports another, except the reproduction, which imports all",
    ),
    (
        "pipeline/check/structured.py",
        "pipeline.training.descent",
        "pipeline: no experiment imports another",
    ),
    (
        "pipeline/inputs/rules.py",
        "pipeline.cluster.shards",
        "pipeline: no experiment imports another",
    ),
    (
        "kernels/simd/tiles.py",
        "kernels.compiled.gradient",
        "kernels: compiled loops -> vector code -> exact sums",
    ),
    (
        "kernels/compiled/gradient.py",
        "kernels.hinge",
        "kernels: compiled loops and vector code import no other kernels",
    ),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A directory with a copy of the packages and of their contracts."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(directory: Path) -> str:
    """Run lint-imports in a directory, and return its output."""
    command = Path(sysconfig.get_path("scripts")) / "lint-imports"
    environment = {**os.environ, "PYTHONPATH": str(directory), "COLUMNS": "200"}
    done = subprocess.run(
        [command, "--no-cache"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize(("module", "imported", "contract"), PLANTED)
def test_planted_import_breaks_its_contract(
    copy: Path, module: str, imported: str, contract: str
) -> None:
    path = copy / module
    path.write_text(f"{path.read_text()}\nimport {imported}\n")
    printed = lint(copy)
    assert f"{contract} BROKEN" in printed, printed


def test_every_contract_is_kept_and_has_a_planted_import(copy: Path) -> None:
    printed = lint(copy)
    contracts = {line.partition(" KEPT")[0] for line in printed.splitlines() if " KEPT" in line}
    assert "0 broken" in printed, printed
    assert contracts == {contract for _, _, contract in PLANTED}
