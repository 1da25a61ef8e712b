"""Imports of a local worker, made while the driving process still prepares the run.

Dask calls `dask_setup` when it has started the worker (`distributed.worker.preload`). A first task
would otherwise wait for these imports.
"""

from threading import Thread

from distributed import Worker


def dask_setup(_worker: Worker) -> None:
    """Import Zarr, Numba and the kernels in a thread, and load the first kernel."""
    Thread(target=_load, daemon=True).start()


def _load() -> None:
    from kernels.hinge import load_kernels  # noqa: PLC0415 (in the thread)
    from pipeline.cluster import shards  # noqa: F401, PLC0415

    load_kernels()
