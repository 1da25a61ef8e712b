"""The dashboard of a local cluster, created when someone first opens one of its pages.

Dask imports Bokeh for its dashboard, which takes a second of CPU time at the start of every
command. So a local scheduler starts without Dask's dashboard, but it listens on its port.
"""

from typing import Any

from distributed import Scheduler
from tornado.httputil import HTTPServerRequest
from tornado.web import Application

from pipeline.cluster.dashboard.run_history import RunHistory


class DashboardOnRequest(Application):
    """Stands for the dashboard until the first request that nothing else answers."""

    def __init__(self, scheduler: Scheduler, history: RunHistory) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._history = history

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Replace this application by the dashboard's, and let them answer the request."""
        from distributed.dashboard.scheduler import connect  # noqa: PLC0415  imports Bokeh

        from pipeline.cluster.dashboard.pages import add_pages  # noqa: PLC0415  imports Bokeh

        application = self._scheduler.http_application
        application.applications.remove(self)
        connect(application, self._scheduler.http_server, self._scheduler)
        add_pages(self._scheduler, self._history)
        return application.find_handler(request, **kwargs)
