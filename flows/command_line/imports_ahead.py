"""The kernels, which a run needs only once its cluster is up, loaded while the cluster starts."""

from threading import Thread


def import_ahead() -> None:
    """Load the kernels in a thread.

    The command meanwhile waits for the server's and the workers' processes.
    """
    Thread(target=_load, name="imports", daemon=True).start()


def _load() -> None:
    from kernels.hinge import load_kernels  # noqa: PLC0415 (in the thread)

    load_kernels()
