"""Prefect's decorator `flow`, for flows that a script may call.

A script without a guard around the call would run again in every worker process (see
`pipeline.cluster.main_guard`). Such a call is refused here, before Prefect starts a run. Prefect
logs an error inside a run with a long traceback, and Python shows it again.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from prefect import Flow

from flows.services.session import in_session
from pipeline.cluster.connect import scheduler_address
from pipeline.cluster.main_guard import check_main_guard

P = ParamSpec("P")
R = TypeVar("R")


def flow(**options: Any) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Make a flow of a function that takes `workers` and `scheduler`; `options` are Prefect's."""
    return lambda function: _GuardedFlow(function, **options)


class _GuardedFlow(Flow[P, R]):
    """A flow that checks who calls it, if the call starts worker processes."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the flow; raises PipelineError where a script has to guard the call."""
        given = dict(zip(signature(self.fn).parameters, args, strict=False)) | kwargs
        address = scheduler_address(given.get("workers"), given.get("scheduler"))
        if address is None and not in_session():
            check_main_guard()
        return super().__call__(*args, **kwargs)
