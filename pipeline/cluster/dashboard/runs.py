"""The page `/hinge` of the Dask dashboard: loss curves, throughput of the workers, and the runs."""

import time
from collections.abc import Mapping
from typing import Any

from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import (
    ColumnDataSource,
    DataRange1d,
    FactorRange,
    HoverTool,
    NumeralTickFormatter,
)
from bokeh.models.widgets.tables import DataTable, HTMLTemplateFormatter, TableColumn
from bokeh.palettes import Category10
from bokeh.plotting import figure
from distributed import Scheduler

from pipeline.cluster.dashboard.run_history import RunHistory, RunView
from pipeline.cluster.dashboard.worker_metrics import IMAGES, LOSS, RESIDENT, STEPS

_UPDATE_MILLISECONDS = 500
_COLOURS = Category10[10]
_CURVES = 6
"""How many curves are shown. More would be hidden by their legend."""
_ALIVE_SECONDS = 60.0
"""A run in progress reports more often than this."""
_IDLE_IMAGES = 1_000
"""The range of the throughput if all workers are idle."""

# A cell is often too narrow, so its whole text is shown under the pointer.
_TEXT = """<span title="<%- value %>"><%- value %></span>"""
_STATUS = """<span style="color: <%- colour %>"><%- value %></span>"""
_RUN = """<% if (link) { %>
<a href="<%- link %>" target="_blank" title="<%- directory %>"><%- value %></a>
<% } else { %><span title="<%- directory %>"><%- value %></span><% } %>"""
_STATUS_COLOURS = {
    "running": "#1f77b4",
    "done": "#2ca02c",
    "converged": "#2ca02c",
    "interrupted": "#b35900",
}
_WIDTHS = {
    "what": 210,
    "status": 65,
    "progress": 180,
    "loss": 65,
    "rate": 65,
    "result": 250,
    "data": 60,
    "started": 65,
    "run": 230,
    "parameters": 120,
}
_HIDDEN = ("colour", "link", "directory")
"""Columns that only the templates of other columns use."""


def show_runs(
    history: RunHistory, scheduler: Scheduler, _extra: Mapping[str, Any], document: Document
) -> None:
    """Fill a document with the page, and keep it up to date while it is open."""
    losses, throughput, table = LossCurves(history), Throughput(scheduler), RunTable(history)

    def update() -> None:
        for part in (losses, throughput, table):
            part.update()

    update()
    document.title = "Hinge"
    document.add_root(
        column(
            row(losses.root, throughput.root, sizing_mode="stretch_both"),
            table.root,
            sizing_mode="stretch_both",
            name="hinge",
        )
    )
    document.add_periodic_callback(update, _UPDATE_MILLISECONDS)


class LossCurves:
    """The loss of the runs in progress, by step, or of the newest runs if there are none.

    Curves of earlier runs might be a hundred times as long, or as high.
    """

    def __init__(self, history: RunHistory) -> None:
        self._history = history
        self._source = ColumnDataSource({"x": [], "y": [], "run": [], "colour": []})
        self.root = figure(
            title="Loss (the lowest so far in a search)",
            x_axis_label="steps or trials",
            y_axis_type="log",
            sizing_mode="stretch_both",
            tools="pan,wheel_zoom,box_zoom,reset",
        )
        lines = self.root.multi_line(
            "x", "y", source=self._source, color="colour", legend_field="run", line_width=2
        )
        self.root.legend.label_text_font_size = "11px"
        self.root.legend.background_fill_alpha = 0.7
        self.root.add_tools(HoverTool(renderers=[lines], tooltips=[("run", "@run")]))

    def update(self) -> None:
        """Draw the curves as they are now."""
        runs = [run for run in self._history.runs if len(run.curve) > 1]
        alive = [
            run
            for run in runs
            if run.status == "running" and time.time() - run.heard < _ALIVE_SECONDS
        ]
        runs = (alive or runs)[-_CURVES:]
        self._source.data = {
            "x": [[step for step, _ in run.curve] for run in runs],
            "y": [[loss for _, loss in run.curve] for run in runs],
            "run": [f"{_what(run)}, {_time(run)}" for run in runs],
            "colour": [_COLOURS[run.number % len(_COLOURS)] for run in runs],
        }


class Throughput:
    """The images per second of each worker."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._source = ColumnDataSource(
            {"worker": [], "images": [], "steps": [], "loss": [], "resident": []}
        )
        self._workers = FactorRange()
        self.root = figure(
            title="Images per second, by worker",
            x_range=DataRange1d(start=0, default_span=_IDLE_IMAGES),
            y_range=self._workers,
            sizing_mode="stretch_both",
            tools="",
            toolbar_location=None,
        )
        self.root.xaxis.formatter = NumeralTickFormatter(format="0,0")
        bars = self.root.hbar(y="worker", right="images", height=0.5, source=self._source)
        tooltips = [
            ("worker", "@worker"),
            ("images/s", "@images{0,0}"),
            ("steps/s", "@steps"),
            ("newest loss", "@loss"),
            ("resident images", "@resident{0.0 b}"),
        ]
        self.root.add_tools(HoverTool(renderers=[bars], tooltips=tooltips))

    def update(self) -> None:
        """Draw the rates of the workers' last heartbeats."""
        workers = sorted(self._scheduler.workers.values(), key=lambda worker: str(worker.name))
        # a worker that somebody started by hand has its address as its name
        names = [" ".join(dict.fromkeys((str(each.name), each.address))) for each in workers]
        if self._workers.factors != names:
            self._workers.factors = names
        metrics = [worker.metrics for worker in workers]
        self._source.data = {
            "worker": names,
            "images": [each.get(IMAGES, 0) for each in metrics],
            "steps": [each.get(STEPS, 0) for each in metrics],
            "loss": [each.get(LOSS, "") for each in metrics],
            "resident": [each.get(RESIDENT, 0) for each in metrics],
        }


class RunTable:
    """The runs on this cluster, the newest first."""

    def __init__(self, history: RunHistory) -> None:
        self._history = history
        self._source = ColumnDataSource({name: [] for name in (*_WIDTHS, *_HIDDEN)})
        templates = {"run": _RUN, "status": _STATUS}
        columns = [
            TableColumn(
                field=name,
                title=name,
                width=width,
                formatter=HTMLTemplateFormatter(template=templates.get(name, _TEXT)),
            )
            for name, width in _WIDTHS.items()
        ]
        self.root = DataTable(
            source=self._source,
            columns=columns,
            sizing_mode="stretch_both",
            index_position=None,
            sortable=False,
        )

    def update(self) -> None:
        """Show the runs as they are now."""
        rows = [_table_row(run) for run in reversed(self._history.runs)]
        data = {name: [each[name] for each in rows] for name in self._source.data}
        if data != self._source.data:  # an update would discard the reader's scroll position
            self._source.data = data


def _table_row(run: RunView) -> dict[str, str]:
    """Return the cells of a run."""
    parameters = (f"{name}={value}" for name, value in run.parameters.items())
    url = run.flow_run_url
    return {
        "run": run.run,
        "what": _what(run),
        "data": run.data,
        "parameters": ", ".join(parameters),
        "started": _time(run),
        "progress": _progress(run),
        "loss": "" if run.loss is None else f"{run.loss:.6g}",
        "rate": "" if run.rate is None else f"{run.rate:,.1f}/s",
        "status": run.status,
        "result": run.result,
        "directory": run.directory,
        "link": url if url.startswith(("http://", "https://")) else "",
        "colour": _STATUS_COLOURS.get(run.status, "#d62728"),
    }


def _what(run: RunView) -> str:
    return run.name or run.command or run.run


def _time(run: RunView) -> str:
    return time.strftime("%H:%M:%S", time.localtime(run.started))


def _progress(run: RunView) -> str:
    """Return how far a run is.

    Examples:
        >>> _progress(RunView("id", 0.0, what="train", done=50, total=200))
        'train 50 of 200 (25 %)'
    """
    if not run.what:
        return ""
    if not run.total:
        return f"{run.what} {run.done:,}"
    return f"{run.what} {run.done:,} of {run.total:,} ({run.done / run.total:.0%})".replace(
        "%", " %"
    )
