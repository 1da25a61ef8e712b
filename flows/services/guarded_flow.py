"""A variant of Prefect's decorator `flow`, with what all flows of this project share.

* A flow run has a name and tags (`flows.services.flow_run_names`).
* Its final state has the result as its message. The state of a run that diverged is called
  Diverged, but it is a completed state: the run has a result, and a retry would diverge again. An
  error that the user can fix is the message of a failed state, in one line and without a
  traceback. The state of an interrupted run is called Interrupted, and its message says how to
  resume the run. An automation can react to all of them.
* A run of a deployment is retried after a fault that may pass (`flows.services.retries`).
* Of the runs with the tag `benchmark`, only one runs at a time.
* A flow may be called by a script. A script without an `if __name__ == "__main__":` guard around
  the call would run again in every worker process (see `pipeline.cluster.main_guard`). The flow
  rejects such a call before Prefect starts a run, because an error inside a run is printed twice:
  Prefect logs it with a long traceback, then Python prints it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import Flow, runtime, tags
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.logging import get_run_logger
from prefect.states import Completed, Crashed, Failed
from pydantic_core import to_jsonable_python

from flows.services.flow_run_names import flow_run_name, flow_run_tags
from flows.services.retries import will_be_retried
from flows.services.session import in_session
from pipeline.cluster.connect import scheduler_address
from pipeline.cluster.main_guard import check_main_guard
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.stopping import Interrupted
from storage.errors import DataError

P = ParamSpec("P")
R = TypeVar("R")

BENCHMARK = "benchmark"
"""The tag of flow runs whose times are compared, and which therefore must not run together."""

_BENCHMARK_LIMIT = "hinge-benchmark"

_failed_before: set[str] = set()
"""The flow runs that this process will run again after a failure."""


def flow(**options: Any) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Turn a function that returns a record into a flow.

    The function has the parameters `store`, `workers` and `scheduler`, and `parameters` and
    `resume` unless `options` contains a name for the flow run. `options` are those of Prefect's
    decorator.
    """

    def decorate(function: Callable[P, R]) -> Flow[P, R]:
        name = options.get("name", function.__name__)
        return _GuardedFlow(
            _concluded(function, name), **{"flow_run_name": flow_run_name} | options
        )

    return decorate


class _GuardedFlow(Flow[P, R]):
    """A flow that requires the main guard in its caller if it starts worker processes."""

    def serialize_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters as JSON values.

        Prefect's own method does the same with FastAPI, whose import takes 0.2 s.
        """
        return {name: to_jsonable_python(value) for name, value in parameters.items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the flow; raise PipelineError if the calling script needs a guard and has none."""
        given = dict(zip(signature(self.fn).parameters, args, strict=False)) | kwargs
        address = scheduler_address(given.get("workers"), given.get("scheduler"))
        if address is None and not in_session():
            check_main_guard()
        try:
            with tags(*flow_run_tags(self.name.replace(" ", "-"), given)):
                return super().__call__(*args, **kwargs)
        except _InterruptedRunError as error:
            raise error.interruption from None


class _InterruptedRunError(Exception):
    """An ordinary exception that carries an interruption through Prefect.

    Prefect raises the error of a state within its event loop. An interruption is a BaseException,
    which would end the loop.
    """

    def __init__(self, interruption: Interrupted) -> None:
        super().__init__(interruption)
        self.interruption = interruption


def _concluded(function: Callable[P, R], name: str) -> Callable[P, Any]:
    """Return a function that returns the final state of the flow run.

    The caller of the flow gets the record, or the error, that the state holds.
    """

    @wraps(function)
    def concluded(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            with _tagged(name.replace(" ", "-")), _alone_if_benchmark():
                record: Any = function(*args, **kwargs)
        except Interrupted as error:
            message = "; ".join(filter(None, ("interrupted", str(error))))
            return Crashed(name="Interrupted", message=message, data=_InterruptedRunError(error))
        except Exception as error:
            if will_be_retried():
                _failed_before.add(runtime.flow_run.id)
            if will_be_retried() or not isinstance(error, DataError | PipelineError):
                raise
            message = " ".join(str(error).split())
            get_run_logger().error(message)
            return Failed(message=message, data=error)
        if runtime.flow_run.id in _failed_before:
            # Prefect 3.8.8 would raise the error of the first attempt if this one returned a state
            return record
        state = "Diverged" if record.status == "diverged" else "Completed"
        return Completed(name=state, message=record.in_words(), data=record)

    return concluded


@contextmanager
def _tagged(command: str) -> Iterator[None]:
    """Add the tags to a flow run that was created without them, by a deployment.

    It has those of its deployment, which say nothing about the data and the method.
    """
    has, missing = runtime.flow_run.tags, list[str]()
    if runtime.deployment.id or "hinge" not in has:
        wanted = flow_run_tags(command, runtime.flow_run.parameters)
        missing = [tag for tag in wanted if tag not in has]
    if missing:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(runtime.flow_run.id), tags=[*has, *missing])
    with tags(*has, *missing):
        yield


@contextmanager
def _alone_if_benchmark() -> Iterator[None]:
    """Wait until no other benchmark runs, if this flow run is one."""
    if BENCHMARK not in runtime.flow_run.tags:
        yield
        return
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(_BENCHMARK_LIMIT, 1)
    with concurrency(_BENCHMARK_LIMIT, strict=True):
        yield
