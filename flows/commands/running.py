"""How a command comes to the record of a run that it has planned."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Where = tuple[str, Path, str | None]
"""The store, where runs are kept, and the run to go on with: as they were typed."""


def result_of(
    flow: Callable[..., dict[str, Any]],
    plan: Any,
    where: Where,
    console: Any,
    cluster: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """Return what the record of a planned run says; take the run first, if it has not ended.

    `more` is given to the flow, beside its plan's parameters.
    """
    from flows.session import command_session

    if plan.finished is not None:
        finished: dict[str, Any] = plan.finished
        return finished
    store, runs, resume = where
    with command_session(console, **cluster):
        return flow(store, plan.parameters, resume, str(runs), **more)
