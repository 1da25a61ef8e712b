"""Shared by all tests: Hypothesis profiles, a cache of compiled kernels, and the real images."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Two profiles for the property tests, selected with pytest's `--hypothesis-profile`:
#
# repeatable  The default, used by `make test` and therefore by CI. Each test draws the same
#             examples in every run, from a seed derived from the test's own code. So a new failure
#             is caused by a change of the code.
# explore     Used by `make explore`, which .ci/run runs with the slow tests. Each run draws other
#             examples, from the seed in `--hypothesis-seed`. `make explore` draws a seed and prints
#             it first; `make explore SEED=N` draws the same examples again. A failure is a real
#             fault: add the printed example to the test as an `@example`.
#
# Neither uses a database, which would make a run depend on earlier runs on the same machine.
# Neither has a deadline, because the first example may wait for the compiler.
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
    ],  # these depend on the drawn examples
)
settings.load_profile("repeatable")

ROOT = Path(__file__).parents[1]
UNPACK = ROOT.parent / "shared" / "cifar10" / "unpack"
"""A program that unpacks a copy of the real images, if there is one beside the checkout."""


# Set before anything imports Numba, which reads it once. Subprocesses and Dask workers inherit it.
os.environ["NUMBA_CACHE_DIR"] = str(ROOT / ".pytest_cache" / "numba")
# Each test with a Prefect home of its own leaves a local server behind, for a minute by default.
os.environ["HINGE_SERVER_IDLE_SECONDS"] = "3"


@pytest.fixture(scope="session")
def real_cifar10() -> Iterator[Path]:
    """The directory or archive of the real images; the test is skipped if they are missing."""
    given = os.environ.get("HINGE_CIFAR10")
    if given:
        yield Path(given)
    elif UNPACK.exists():
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run([sys.executable, UNPACK, directory], check=True)
            yield Path(directory)
    else:
        pytest.skip("CIFAR-10 is missing; set HINGE_CIFAR10 to its directory or archive")
