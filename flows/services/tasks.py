"""A variant of Prefect's decorator `task`, with the options that all tasks of this project share.

Results are never cached, because the arguments are arrays and open sessions. A task run is named
after what it does. Its id is remembered: Prefect sends task runs to its server in the background,
and a server that stops too early would lose them.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import prefect
from prefect import Task, runtime
from prefect.cache_policies import NO_CACHE

P = ParamSpec("P")
R = TypeVar("R")

_started: list[str] = []


def task(name: str, *, run_name: str | None = None) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Turn a function into a Prefect task.

    `run_name` is a template for the names of the task's runs, such as `evaluate on {split}`, with
    the function's parameters as variables. By default, a run has the name of the task.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        @wraps(function)
        def remembered(*args: P.args, **kwargs: P.kwargs) -> R:
            if (run := runtime.task_run.id) is not None:
                _started.append(run)
            return function(*args, **kwargs)

        options = {"name": name, "task_run_name": run_name or name}
        decorated: Task[P, R] = prefect.task(**options, cache_policy=NO_CACHE)(remembered)  # type: ignore[call-overload]
        return decorated

    return decorate


def take_task_run_ids() -> list[str]:
    """Return the ids of the task runs that this process has started since the last call."""
    taken = _started.copy()
    del _started[: len(taken)]
    return taken
