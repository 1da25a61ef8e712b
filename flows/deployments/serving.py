"""Serving deployments: run what Prefect schedules, in processes of this machine.

The runner is Prefect's own. It runs in a thread, with its own event loop, beside what the process
does otherwise. Each flow run is a process of its own.
"""

import asyncio
import contextvars
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from threading import Event, Thread
from uuid import UUID

import psutil  # type: ignore[import-untyped]
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner

from flows.services.errors import ServerError
from flows.services.interruption import before_sudden_end
from pipeline.cluster.waiting import in_slices

POLL_SECONDS = 2.0
"""The interval at which the runner asks Prefect for runs to start, or to cancel."""

PROCESSES = 4
"""The largest number of flow runs at the same time. Each is a process; all use the same workers."""

STOP_SECONDS = 20.0
"""Time limit for the flow runs to end when serving ends; then their processes are killed."""

PAUSE_SECONDS = 5.0
"""Time limit for what follows: the runner notices it, and the schedules are paused."""

_LOOK_SECONDS = 0.05
"""The interval at which the runner's thread looks for the request to stop."""


@contextmanager
def served(deployments: Sequence[RunnerDeployment]) -> Iterator[Callable[[], None]]:
    """Register the deployments with Prefect, and run their runs while the block runs.

    Prefect's settings must name an API. After the block, the runs under way are cancelled, which
    interrupts them, so that they can be resumed. Schedules are paused until the next time.

    Yields a function that raises ServerError if runs are no longer run, because the runner gave up
    after several requests to Prefect had failed.

    Raises the error of Prefect if a deployment cannot be registered, and Interrupted on a request
    to stop meanwhile.
    """
    runner = _ServedRunner(deployments)
    with before_sudden_end(_kill_flow_runs):
        try:
            runner.start()
            yield runner.check
        finally:
            runner.stop()


class _ServedRunner:
    """Prefect's runner in a thread."""

    def __init__(self, deployments: Sequence[RunnerDeployment]) -> None:
        self._deployments = deployments
        self._ids = list[UUID]()
        self._runner = Runner(
            name="hinge",
            query_seconds=POLL_SECONDS,
            limit=PROCESSES,
            pause_on_shutdown=False,  # it would pause those without a schedule too, one by one
        )
        self._registered: Future[None] = Future()
        self._stopping = Event()
        self._failure: BaseException | None = None
        context = contextvars.copy_context()  # the caller's Prefect settings apply in the thread
        self._thread = Thread(
            target=context.run, args=(self._work,), name="hinge-deployments", daemon=True
        )

    def start(self) -> None:
        """Start the thread, and wait until the deployments are registered."""
        self._thread.start()
        in_slices(self._registered.result, self._registered.done)

    def check(self) -> None:
        """Raise ServerError if the runner has stopped because of an error."""
        if self._failure is not None:
            raise ServerError(
                f"deployments are no longer run: {self._failure}; check the Prefect server, and "
                "start `hinge serve` again"
            )

    def stop(self) -> None:
        """End the runs and the thread, within bounded time."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive() or self._failure is not None:
            _kill_flow_runs()
            self._thread.join(PAUSE_SECONDS)

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._registered.done():
                self._failure = error
            else:
                self._registered.set_exception(error)

    async def _serve(self) -> None:
        try:
            for deployment in self._deployments:
                if self._stopping.is_set():
                    return
                # `prefect deploy` may have given the deployment to a work pool.
                deployment.work_pool_name = deployment.work_queue_name = None
                self._ids.append(await self._runner.aadd_deployment(deployment))
            self._registered.set_result(None)
            await asyncio.gather(self._runner.start(), self._stop_runner())
        finally:
            await self._pause_schedules()

    async def _stop_runner(self) -> None:
        """Wait for the request to stop, and stop the runner, which may just be starting."""
        while not (self._stopping.is_set() and self._runner.started):
            await asyncio.sleep(_LOOK_SECONDS)
        await self._runner.astop()

    async def _pause_schedules(self) -> None:
        """Pause the deployments with schedules, also those that Prefect's page has added."""
        these = DeploymentFilter(id=DeploymentFilterId(any_=self._ids))
        async with get_client() as client:
            for each in await client.read_deployments(deployment_filter=these):
                if each.schedules:
                    await client.pause_deployment(each.id)


def _kill_flow_runs() -> None:
    """Kill the processes of flow runs."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if "prefect.engine" in child.cmdline():
                child.kill()
