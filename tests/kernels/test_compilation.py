"""The kernel cache: its machine code is always that of the current sources."""

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numba
import pytest
from numba.core.dispatcher import Dispatcher

import kernels
from kernels.compiled.compilation import UNUSED_DAYS, cached_njit

HELPERS = """\
from numba import njit, types
from numba.extending import intrinsic

CONSTANT = 1

@njit(inline="always")
def inlined():
    return 20

@intrinsic
def generated(context):
    def code(context, builder, signature, arguments):
        return context.get_constant(types.int64, 300)
    return types.int64(), code

"""
"""Three ways in which a kernel uses code or a value of another module."""

KERNEL = """\
from kernels import helpers
from kernels.compiled.compilation import cached_njit

def add(number):
    @cached_njit()
    def added():
        return number + helpers.CONSTANT + helpers.inlined() + helpers.generated()
    return added

total = add(4_000)
"""

PRINT = """\
from kernels.kernel import total
print(total(), sum(total.stats.cache_hits.values()), total.stats.cache_path)
"""

PRINT_IN_MAIN_AND_WORKER = """\
import multiprocessing
from kernels.kernel import total

def work():
    print(total(), total.stats.cache_path, flush=True)

if __name__ == "__main__":
    work()
    worker = multiprocessing.get_context("spawn").Process(target=work)
    worker.start()
    worker.join()
    raise SystemExit(worker.exitcode)
"""


class Install:
    """A copy of the kernels package with one more kernel, for a user without a cache."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.package = directory / "kernels"
        self.home = directory / "home"
        self.home.mkdir()
        self.not_a_directory = directory / "file"
        self.not_a_directory.touch()
        shutil.copytree(
            Path(kernels.__file__).parent,
            self.package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        (self.package / ".#helpers.py").symlink_to("an editor's lock, a dangling link")
        (self.package / "helpers.py").write_text(HELPERS)
        (self.package / "kernel.py").write_text(KERNEL)

    def forbid_package_cache(self) -> None:
        """Make `__pycache__` a file, so that writing below it fails, also for root."""
        (self.package / "__pycache__").touch()

    def run(self, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program with this package, in an environment of `variables` and a few defaults."""
        script = self.directory / "program.py"
        script.write_text(program)
        # No bytecode files, because Python would use a stale one after an edit that is made within
        # a second and keeps the size of the source.
        default = {"HOME": str(self.home), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-W", "error", script],
            env={"PATH": os.environ["PATH"], **default, **variables},
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done

    def total(self, **variables: str) -> tuple[int, int, Path]:
        """Return the kernel's result, its cache hits and its cache path; assert an empty stderr."""
        done = self.run(PRINT, **variables)
        assert not done.stderr
        total, hits, path = done.stdout.split()
        return int(total), int(hits), Path(path)


@pytest.fixture
def install(tmp_path: Path) -> Install:
    return Install(tmp_path)


def test_editing_any_helper_recompiles_and_unchanged_sources_use_the_cache(
    install: Install,
) -> None:
    total, hits, first = install.total()
    assert (total, hits) == (4_321, 0)
    assert first.is_relative_to(install.package / "__pycache__")
    for edit, expected in [
        (("CONSTANT = 1", "CONSTANT = 2"), 4_322),
        (("return 20", "return 30"), 4_332),
        (("300", "400"), 4_432),
    ]:
        helpers = install.package / "helpers.py"
        helpers.write_text(helpers.read_text().replace(*edit))
        total, hits, path = install.total()
        assert (total, hits) == (expected, 0)
        assert path != first
    (install.package / "helpers.py").write_text(HELPERS)
    assert install.total() == (4_321, 1, first)


def test_cache_is_below_numba_cache_dir_and_old_directories_are_deleted(
    install: Install,
) -> None:
    root = install.directory / "chosen"
    ages = {"hinge-kernels-old": 1.01, "hinge-kernels-recent": 0.99, "another-project": 2.0}
    for name, age in ages.items():
        (root / name / "kernels_1").mkdir(parents=True)
        (root / name / "kernels_1" / "f.nbi").touch()
        then = time.time() - age * UNUSED_DAYS * 86_400
        os.utime(root / name, (then, then))
    # The kernels override the choice of locator class: the class that is named here would ignore
    # the root and the digest in the directory's name.
    variables = {"NUMBA_CACHE_DIR": "chosen", "NUMBA_CACHE_LOCATOR_CLASSES": "InTreeCacheLocator"}
    _, _, path = install.total(**variables)
    assert path.parent.parent == root
    assert {entry.name for entry in root.iterdir()} == {*ages, path.parent.name} - {
        "hinge-kernels-old"
    }


def test_read_only_package_is_cached_in_the_users_cache_directory(
    install: Install,
) -> None:
    install.forbid_package_cache()
    total, hits, path = install.total(XDG_CACHE_HOME=str(install.directory / "xdg"))
    assert (total, hits) == (4_321, 0)
    assert path.is_relative_to(install.directory / "xdg" / "hinge")
    assert list(path.glob("*.nbc"))


def test_without_a_writable_cache_kernels_work_and_one_notice_is_printed(install: Install) -> None:
    install.forbid_package_cache()
    done = install.run(PRINT_IN_MAIN_AND_WORKER, XDG_CACHE_HOME=str(install.not_a_directory))
    assert done.stdout == "4321 None\n" * 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("hinge: kernels are compiled again in every process")
    assert str(install.package / "__pycache__") in line
    assert str(install.not_a_directory / "hinge") in line
    assert "set NUMBA_CACHE_DIR" in line


def test_all_kernels_are_cached_in_one_directory() -> None:
    paths = {}
    for module in pkgutil.walk_packages(kernels.__path__, "kernels."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, Dispatcher) and value.stats.cache_path is not None:
                paths[module.name, name] = Path(value.stats.cache_path)
    root = Path(os.environ["NUMBA_CACHE_DIR"])
    assert len(paths) > 40
    assert {path.parent.parent for path in paths.values()} == {root}
    assert len({path.parent for path in paths.values()}) == 1


def test_concurrent_decoration_restores_numbas_own_cache_setting() -> None:
    setting = os.environ["NUMBA_CACHE_DIR"]
    assert vars(numba.config)["CACHE_DIR"] == setting
    found: list[Path] = []

    def decorate() -> None:
        found.extend(Path(cached_njit()(lambda: 1).stats.cache_path) for _ in range(100))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=decorate) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert vars(numba.config)["CACHE_DIR"] == setting
    assert len(found) == 400
    assert {path.parent.name[:14] for path in found} == {"hinge-kernels-"}
