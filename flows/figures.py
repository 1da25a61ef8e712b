"""The pictures a run leaves, drawn without a display."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#999999"  # told apart by colour-blind people too
_HIGHEST = 1e100  # of a diverged run; Matplotlib's own arithmetic overflows from 1e300 on


def draw_loss_curve(
    path: Path, losses: NDArray[np.float64], *, title: str, window: int = 1
) -> None:
    """Draw the loss before each step to `path` (PNG), with its running mean over `window` steps.

    A loss that is no number, or off every scale, leaves a gap.
    """
    figure, axes = _sheet(title, "step", "loss (mean hinge + regulariser)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    steps = np.arange(len(losses))
    shown = np.where(losses < _HIGHEST, losses, np.nan)
    if 1 < window < len(losses):
        axes.plot(steps, shown, color=_GREY, linewidth=0.4, label="each batch")
        mean = np.convolve(shown, np.full(window, 1 / window), "valid")
        label = f"mean of {window} steps"
        axes.plot(steps[window - 1 :], mean, color=_BLUE, linewidth=1.5, label=label)
        axes.legend(frameon=False)
    else:
        marker = "." if len(losses) < 50 else ""
        axes.plot(steps, shown, color=_BLUE, linewidth=1.5, marker=marker)
    if len(losses) and np.nanmax(shown, initial=0) > 100 * max(np.nanmin(shown, initial=1), 1e-9):
        axes.set_yscale("log")
    figure.savefig(path)


def _sheet(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes, which all pictures look like."""
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=across, ylabel=up)
    axes.grid(color=_GREY, alpha=0.3, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
