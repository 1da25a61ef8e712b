"""Checks of the machine: processor, memory, disk, cache and ports."""

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from flows.doctor.findings import Answer
from pipeline.cluster.ports import is_free

DISK_BYTES = 1_000_000_000
"""Less free space than this gets a warning. A store of CIFAR-10 takes 150 MB."""

MEMORY_BYTES = 1_000_000_000
"""Less available memory than this gets a warning. A worker takes 200 MB and its images."""

PORTS = {8787: "the dashboard of Dask", 4200: "a Prefect server"}


def check_processor() -> Iterator[Answer]:
    """Report which of the kernels' instruction sets the processor has."""
    from kernels.simd.tiles import host_has  # noqa: PLC0415 (Numba may not be importable)

    sets = {"avx512vnni": "AVX-512 VNNI", "avx512f": "AVX-512", "avx2": "AVX2"}
    best = next((name for feature, name in sets.items() if host_has(feature)), None)
    cores = f"{os.cpu_count()} logical processors"
    if best:
        yield Answer("ok", f"{best}, {cores}")
    else:
        yield Answer(
            "warning",
            f"plain instructions, {cores}: kernels are several times slower than with AVX2",
            "unset NUMBA_CPU_FEATURES, NUMBA_CPU_NAME and NUMBA_ENABLE_AVX, or use another machine",
        )


def check_memory() -> Iterator[Answer]:
    """Report the available memory."""
    import psutil  # type: ignore[import-untyped]  # noqa: PLC0415

    memory = psutil.virtual_memory()
    text = f"{_gigabytes(memory.available)} of {_gigabytes(memory.total)} available"
    if memory.available < MEMORY_BYTES:
        yield Answer("warning", text, "close other programs, or use --workers 1")
    else:
        yield Answer("ok", text)


def check_directory(path: Path, choose: str) -> Iterator[Answer]:
    """Check that files can be written in a directory, which need not exist, and the space there.

    `choose` says how to choose another directory.
    """
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Answer("problem", f"{path} cannot be written", f"choose another with {choose}")
        return
    free = shutil.disk_usage(there).free
    text = f"{path}, {_gigabytes(free)} free"
    if free < DISK_BYTES:
        yield Answer("warning", text, f"free some space, or choose another with {choose}")
    else:
        yield Answer("ok", text)


def check_cache() -> Iterator[Answer]:
    """Report the directory of compiled kernels."""
    from kernels.compiled.compilation import cache_directory  # noqa: PLC0415

    directory = cache_directory()
    if directory is None:
        yield Answer(
            "warning",
            "compiled kernels cannot be cached, so every process compiles them",
            "set NUMBA_CACHE_DIR to a writable directory",
        )
    else:
        yield Answer("ok", str(directory))


def check_ports(own: Collection[int]) -> Iterator[Answer]:
    """Report whether the usual ports are free. A command takes another port if they are not.

    `own` are ports on which a server of hinge listens.
    """
    for port, what in PORTS.items():
        if port in own:
            yield Answer("ok", f"{port}, for {what}, is used by hinge")
        elif is_free(port):
            yield Answer("ok", f"{port}, for {what}, is free")
        else:
            yield Answer(
                "warning",
                f"{port}, for {what}, is in use; a new one gets another port",
                "use the address that the command prints",
            )


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB"
