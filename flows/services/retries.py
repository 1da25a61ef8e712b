"""Retries of flow runs after faults that may pass.

Only runs of deployments are retried. A retried run resumes where it stopped
(`flows.runs.lifecycle`). A command on a terminal reports the fault at once, and the user can resume
the run. Bad input, and an error that would be the same at every attempt, are never retried.

The retries are granted when the fault happens, by changing the flow run's policy before Prefect
proposes its final state. A number of retries in the flow's options would apply to every error and
to commands too.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

from distributed import KilledWorker
from prefect.client.orchestration import get_client
from prefect.client.schemas import FlowRun
from prefect.context import FlowRunContext

from storage.errors import DataError

_log = logging.getLogger(__name__)

RETRIES = 2
"""The number of retries of a run of a deployment."""

RETRY_DELAY_SECONDS = 10

FAULTS = (OSError, DataError, KilledWorker, CancelledError)
"""Temporary faults: of the network, the disk, the store, the workers or the scheduler.

Dask raises an OSError for a lost connection, and CancelledError for tasks that are lost with it.
"""


@contextmanager
def retried_after_faults() -> Iterator[None]:
    """Let Prefect retry a run of a deployment if a fault, or what it caused, ends the block."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FAULTS) or isinstance(error.__cause__, FAULTS):
            _grant_retries()
        raise


def _grant_retries() -> None:
    """Set the number of retries of this flow run, if it is one of a deployment."""
    flow_run = _current()
    if flow_run is None or flow_run.deployment_id is None or flow_run.parent_task_run_id:
        return
    policy = flow_run.empirical_policy
    if not policy.retries:
        granted = policy.model_copy(update={"retries": RETRIES, "retry_delay": RETRY_DELAY_SECONDS})
        try:
            with get_client(sync_client=True) as client:
                client.update_flow_run(flow_run.id, empirical_policy=granted)
        except Exception as error:  # the fault itself is what matters
            _log.warning("Prefect grants no retry: %s", error)
        else:
            policy.retries, policy.retry_delay = RETRIES, RETRY_DELAY_SECONDS


def will_be_retried() -> bool:
    """Return whether Prefect will retry this flow run if it fails now."""
    flow_run = _current()
    return flow_run is not None and flow_run.run_count <= (flow_run.empirical_policy.retries or 0)


def _current() -> FlowRun | None:
    context = FlowRunContext.get()
    return context.flow_run if context else None
