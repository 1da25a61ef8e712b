"""The scheduler's plugin that collects the events of runs and adds our pages to the dashboard.

The scheduler imports this module, so it must be cheap to import and must not need Bokeh.
"""

import logging
import time
from typing import Any

from distributed import Client, Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

from pipeline.cluster.dashboard.on_request import DashboardOnRequest
from pipeline.cluster.dashboard.run_history import TOPIC, RunHistory

_log = logging.getLogger(__name__)


class HingeDashboard(SchedulerPlugin):
    """Collects the runs on the cluster and shows them on a page of the dashboard.

    With `on_request`, the scheduler has no dashboard yet. It gets one when someone opens a page.
    """

    name = "hinge-dashboard"
    idempotent = True

    def __init__(self, *, on_request: bool) -> None:
        self.history = RunHistory()
        self._on_request = on_request

    async def start(self, scheduler: Scheduler) -> None:
        """Add the pages, if the scheduler has a dashboard."""
        for seconds, message in scheduler.get_events(TOPIC):
            self.history.record(message, seconds)
        if self._on_request:
            dashboard = DashboardOnRequest(scheduler, self.history)
            scheduler.http_application.add_application(dashboard)
            return
        try:
            from pipeline.cluster.dashboard.pages import add_pages  # noqa: PLC0415  needs Bokeh
        except ImportError:
            return
        add_pages(scheduler, self.history)

    def log_event(self, topic: str, msg: Any) -> None:
        """Take an event of a run into account."""
        if topic == TOPIC:
            self.history.record(msg, time.time())


def add_to_dashboard(client: Client, *, on_request: bool = False) -> None:
    """Add our pages to the scheduler's dashboard, unless they are there.

    `on_request` says that the scheduler starts its dashboard on request (`DashboardOnRequest`). A
    scheduler on which the package cannot be imported, or that takes no plugins, has no such pages.
    """
    try:
        client.register_plugin(HingeDashboard(on_request=on_request))
    except Exception as error:  # whatever the scheduler raised, the page is not worth a failure
        _log.info("the dashboard has no page /hinge: %s", error)
