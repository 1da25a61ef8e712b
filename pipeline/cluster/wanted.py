"""Whether a running task is still wanted.

Dask does not stop a running task when its future is cancelled, or when its client closes or dies.
A long task therefore asks between its steps or blocks, so that its worker is soon free.
"""

import threading


class UnwantedTaskError(Exception):
    """The result of this task is no longer needed. Dask drops the error."""


def check_wanted() -> None:
    """Raise UnwantedTaskError if this thread runs a Dask task that was cancelled."""
    from distributed import get_worker  # noqa: PLC0415 (not needed to read a run's parameters)

    try:
        worker = get_worker()
    except ValueError:  # not on a worker
        return
    if threading.get_ident() not in worker.active_threads:  # a thread of an actor
        return
    key = worker.get_current_task()
    task = worker.state.tasks.get(key)
    if task is not None and task.state == "cancelled":  # the call of an actor is no task
        raise UnwantedTaskError(f"{key} was cancelled")
