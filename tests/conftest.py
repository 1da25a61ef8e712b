"""What all tests share: a cache of compiled kernels, and the real images."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Which examples the property tests draw; pytest's `--hypothesis-profile` picks a profile.
#
# repeatable  The default, of `make test` and so of CI: each test draws the same examples in every
#             run, from a seed that is made of its own code. A failure is due to a change.
# explore     Of `make explore`, which .ci/run runs beside the slow tests: other examples in each
#             run, from the seed given by `--hypothesis-seed`. `make explore` draws a seed, prints
#             it first, and takes it back as `make explore SEED=N` to draw the same examples again.
#             A failure there is a true fault: add what it prints to the test as an `@example`.
#
# Neither keeps a database, which would make a run depend on those before it on the same machine.
# Neither judges speed: the first example may wait for a compiler, and the machine may be busy.
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore",
    settings.get_profile("repeatable"),
    derandomize=False,
    print_blob=True,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
        HealthCheck.large_base_example,
    ],  # these depend on what happens to be drawn
)
settings.load_profile("repeatable")

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
