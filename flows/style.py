"""What all figures share: colours, axes, legends, running means. Drawn without a display."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

# distinguishable for colour-blind people too
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#999999"

HIGHEST = 1e100
"""The largest loss that is drawn. Matplotlib's own arithmetic overflows from 1e300 on."""


def legend_below(figure: Figure, columns: int = 4) -> None:
    """Say what is what where it hides no point."""
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)


def running_mean(losses: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return at each step the mean of the last `window` losses, or of all that there are yet.

    >>> running_mean(np.array([4.0, 2.0, 0.0, 1.0]), 2).tolist()
    [4.0, 3.0, 1.0, 0.5]
    """
    sums = np.concatenate([[0.0], np.cumsum(np.where(losses < HIGHEST, losses, HIGHEST))])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    mean: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return mean


def spans_magnitudes(losses: NDArray[np.float64]) -> bool:
    """Whether losses are so different that only a logarithmic scale shows them all."""
    shown = np.where(losses < HIGHEST, losses, np.nan)
    low, high = np.nanmin(shown, initial=1), np.nanmax(shown, initial=0)
    return bool(len(losses)) and high > 100 * max(low, 1e-9)


def plain_axes(axes: Axes) -> None:
    """Have axes look as in all pictures."""
    axes.grid(color=GREY, alpha=0.3, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def new_figure(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes, which all pictures look like."""
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=across, ylabel=up)
    plain_axes(axes)
    return figure, axes
