"""Our pages of the Dask dashboard: `/hinge`, and `/groups` in place of Dask's.

They are added as Dask adds its own. Dask's modules `distributed.dashboard` have no documentation,
and only the modules of this package use them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bokeh.document import Document
from distributed import Scheduler
from distributed.dashboard.components.scheduler import individual_doc
from distributed.dashboard.core import BokehApplication
from distributed.dashboard.scheduler import template_variables
from jinja2 import Environment, PackageLoader
from tornado.ioloop import IOLoop

from pipeline.cluster.dashboard.groups import UPDATE_MILLISECONDS, TaskGroups, show_groups
from pipeline.cluster.dashboard.run_history import RunHistory
from pipeline.cluster.dashboard.runs import show_runs

Show = Callable[[Scheduler, Mapping[str, Any], Document], None]
"""A function that fills a document with a page. The mapping has the variables of the template."""


def add_pages(scheduler: Scheduler, history: RunHistory) -> None:
    """Add our pages to the dashboard of a scheduler. Do nothing if it has none."""
    applications = scheduler.http_application.applications
    dask_pages = [each for each in applications if "/status" in getattr(each, "app_paths", ())]
    if not dask_pages:
        return
    variables = template_variables(scheduler)
    pages = BokehApplication(
        {
            "/hinge": _with_navigation(partial(show_runs, history)),
            "/groups": _with_navigation(show_groups),
            "/individual-groups": individual_doc(TaskGroups, UPDATE_MILLISECONDS),
        },
        scheduler,
        prefix=dask_pages[0].prefix,
        template_variables=variables,
    )
    pages.initialize(IOLoop.current())
    pages.start()
    applications.insert(0, pages)  # the first application that has a page shows it
    variables["pages"].insert(1, "hinge")  # all pages share this list


def _with_navigation(show: Show) -> Show:
    """Return a page with the bar that leads to the other pages."""
    environment = Environment(loader=PackageLoader("distributed", "http/templates"))
    template = environment.get_template("simple.html")

    def show_with_navigation(
        scheduler: Scheduler, extra: Mapping[str, Any], document: Document
    ) -> None:
        show(scheduler, extra, document)
        document.template = template
        document.template_variables.update(extra)

    return show_with_navigation
