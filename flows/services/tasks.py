"""A variant of Prefect's decorator `task`, with the options that all tasks of this project share.

Results are never cached, because the arguments are arrays and open sessions. A task run is named
after what it does.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import prefect
from prefect import Task
from prefect.cache_policies import NO_CACHE

P = ParamSpec("P")
R = TypeVar("R")


def task(name: str, *, run_name: str | None = None) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Turn a function into a Prefect task.

    `run_name` is a template for the names of the task's runs, such as `evaluate on {split}`, with
    the function's parameters as variables. By default, a run has the name of the task.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        options = {"name": name, "task_run_name": run_name or name}
        decorated: Task[P, R] = prefect.task(**options, cache_policy=NO_CACHE)(function)  # type: ignore[call-overload]
        return decorated

    return decorate
