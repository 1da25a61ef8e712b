"""What all tests share: a cache of compiled kernels, and the real images."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("hinge", deadline=None)  # the first example may wait for a compiler
settings.load_profile("hinge")

ROOT = Path(__file__).parents[1]
UNPACK = ROOT.parent / "shared" / "cifar10" / "unpack"
"""Writes the copy of the real images that may lie beside the checkout."""


# Before anything imports Numba, which reads it once; subprocesses and Dask workers inherit it.
os.environ["NUMBA_CACHE_DIR"] = str(ROOT / ".pytest_cache" / "numba")


@pytest.fixture(scope="session")
def real_cifar10() -> Iterator[Path]:
    """The directory, archive or other form that holds the real images; else skips."""
    given = os.environ.get("HINGE_CIFAR10")
    if given:
        yield Path(given)
    elif UNPACK.exists():
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run([sys.executable, UNPACK, directory], check=True)
            yield Path(directory)
    else:
        pytest.skip("no real CIFAR-10: set HINGE_CIFAR10 to where it is")
