"""The figure of a grid of training runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from flows.grid.curves import Curve
from flows.style import HIGHEST, new_canvas, plain_axes, running_mean, save_figure


def draw_loss_curves(
    path: Path, panels: Mapping[str, Sequence[Curve]], *, columns: int, title: str
) -> None:
    """Draw panels of loss curves (running means) to `path` (PNG), `columns` panels per row.

    A label has the same colour in all panels. The curve of a run that diverged ends with a cross.
    Losses above the top of the figure are drawn at the top. The panel also lists the step size and
    the last step of each run that diverged.
    """
    curves = [curve for panel in panels.values() for curve in panel]
    labels = list(dict.fromkeys(curve.label for curve in curves))
    colours = dict(
        zip(labels, colormaps["viridis"](np.linspace(0, 0.93, len(labels))), strict=True)
    )
    top = 100 * max((curve.losses[0] for curve in curves if curve.losses[0] < HIGHEST), default=1)
    rows = -(-len(panels) // columns)
    size = (max(7, 1.5 + 3.4 * columns), 1.7 + 2.5 * rows)
    figure = new_canvas(*size)
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, panel) in zip(grid.flat, panels.items(), strict=False):
        _draw_panel(axes, name, panel, colours, top)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("step")
    figure.supylabel("loss of a batch (mean hinge + regulariser)")
    handles = [Line2D([], [], color=colours[label], label=label) for label in labels]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, title="step size")
    save_figure(figure, path)


def _draw_panel(
    axes: Axes, name: str, panel: Sequence[Curve], colours: Mapping[str, Any], top: float
) -> None:
    """Draw one panel; losses above `top` are drawn at `top`."""
    plain_axes(axes)
    axes.set_yscale("log")
    axes.set_title(name, fontsize="medium")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    for curve in panel:
        mean = np.minimum(running_mean(curve.losses, curve.window), top)
        axes.plot(mean, color=colours[curve.label], linewidth=1.3)
        if curve.diverged:
            last = len(mean) - 1
            axes.plot(last, mean[last], "x", color=colours[curve.label], markersize=7)
    words = [f"{c.label} diverged at step {len(c.losses) - 1}" for c in panel if c.diverged]
    axes.text(
        *(0.98, 0.97, "\n".join(words)),
        transform=axes.transAxes,
        fontsize="small",
        ha="right",
        va="top",
    )
