"""Results are bit-identical on processors with other registers and instructions."""

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llvmlite.binding
import pytest

NEHALEM = {"cmov", "cx8", "fxsr", "mmx", "sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2"}
NEHALEM |= {"64bit", "cx16", "popcnt", "sahf"}
HASWELL = NEHALEM | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"}
SKYLAKE = HASWELL | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
PROCESSORS = {
    "nehalem": NEHALEM,  # 128-bit registers; a library function for the fused multiply-add
    "haswell": HASWELL,  # 256-bit registers
    "skylake-avx512": SKYLAKE,  # 512-bit registers; no dot product of bytes
}

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in {"x86_64", "amd64"},
    reason="the simulated processors are x86-64",
)


SCRIPT = Path(__file__).with_name("fingerprint.py")


def output(arguments: list[str | Path], environment: dict[str, str]) -> list[str]:
    """Return the lines that a new Python process prints, with these variables added."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def environment(name: str) -> dict[str, str]:
    """Return the variables that make Numba compile for a processor, with a separate cache."""
    return {
        "NUMBA_CPU_NAME": name,
        "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in sorted(PROCESSORS[name])),
        "NUMBA_CACHE_DIR": str(Path(os.environ["NUMBA_CACHE_DIR"]) / name),
    }


@pytest.fixture(scope="module")
def outputs() -> dict[str, list[str]]:
    """Return the output for every processor that this one can simulate, and for itself ("here")."""
    host = llvmlite.binding.get_host_cpu_features()
    names = [name for name, features in PROCESSORS.items() if all(map(host.get, features))]
    environments = {name: environment(name) for name in names} | {"here": {}}
    with ThreadPoolExecutor(2) as threads:
        printed = threads.map(lambda added: output([SCRIPT], added), environments.values())
        return dict(zip(environments, printed, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSORS)
def test_results_are_bit_identical_on_another_processor(
    name: str, outputs: dict[str, list[str]]
) -> None:
    if name not in outputs:
        pytest.skip(f"this processor lacks some instructions of {name}")
    # The first two lines describe how the kernels were compiled; the others are digests.
    there, here = outputs[name], outputs["here"]
    tiles = "4 x 5" if "avx512f" in PROCESSORS[name] else "2 x 2"
    assert there[:2] == [f"tiles of {tiles}", "dot product of bytes: False"]
    assert there[2:] == here[2:]
    assert len(here) == 2 + 6 + 3


def test_no_avx_instructions_are_used_if_numba_disables_avx() -> None:
    # Numba then compiles for fewer features than the processor has. An instruction outside of them
    # would crash the process.
    program = (
        "from kernels.simd.tiles import BYTE_DOT_PRODUCT, WIDE_REGISTERS\n"
        "print(WIDE_REGISTERS, BYTE_DOT_PRODUCT)"
    )
    assert output(["-c", program], {"NUMBA_ENABLE_AVX": "0"}) == ["False False"]
