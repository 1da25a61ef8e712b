"""Shared parts of all figures: colours, axes, ticks, legends and running means.

No display is needed. Every figure is created by `new_canvas` or `new_figure`, and written by
`save_figure`, which lays it out once and draws it once.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

# colour-blind readers can distinguish these colours
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#999999"

HIGHEST = 1e100
"""The largest loss that is drawn. Matplotlib's arithmetic overflows above about 1e300."""

_MOST_POWERS = 8
"""The most ticks on a logarithmic axis."""

_COMPRESSION = 3
"""Level of a PNG's compression. The usual 6 takes twice as long for files 10 % smaller."""

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def legend_below(figure: Figure, columns: int = 4) -> None:
    """Put the legend below the axes, where it hides no point."""
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)


def running_mean(losses: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return for each step the mean of the last `window` losses, or of all losses so far.

    Examples:
        >>> running_mean(np.array([4.0, 2.0, 0.0, 1.0]), 2).tolist()
        [4.0, 3.0, 1.0, 0.5]
    """
    sums = np.concatenate([[0.0], np.cumsum(np.where(losses < HIGHEST, losses, HIGHEST))])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    mean: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return mean


def spans_magnitudes(losses: NDArray[np.float64]) -> bool:
    """Return whether the losses differ so much that they need a logarithmic scale."""
    shown = np.where(losses < HIGHEST, losses, np.nan)
    low, high = np.nanmin(shown, initial=1), np.nanmax(shown, initial=0)
    return bool(len(losses)) and high > 100 * max(low, 1e-9)


def plain_axes(axes: Axes) -> None:
    """Give the axes the style that all figures share."""
    axes.grid(color=GREY, alpha=0.3, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def new_canvas(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_figure(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes, in the style that all figures share."""
    figure = new_canvas(7, 4.2)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=across, ylabel=up)
    plain_axes(axes)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure to `path` (PNG).

    Matplotlib measures every tick several times per layout, and draws a figure that has a layout
    engine twice. So logarithmic axes get few ticks, and the layout is computed before the only
    draw.
    """
    for axes in figure.axes:
        for each in (axes, *axes.child_axes):
            _thin_ticks(each.xaxis)
            _thin_ticks(each.yaxis)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)  # otherwise `savefig` draws twice
    figure.savefig(path, pil_kwargs={"compress_level": _COMPRESSION})


def _thin_ticks(axis: Axis) -> None:
    """Keep at most `_MOST_POWERS` powers of 10 as the ticks of a logarithmic axis.

    An axis that shows only one power of 10 keeps its ticks.
    """
    if axis.get_scale() == "symlog":
        axis.set_major_formatter(FuncFormatter(_signed_power))
    if axis.get_scale() != "log":
        return
    low, high = np.log10(sorted(axis.get_view_interval()))
    powers = np.arange(np.ceil(low - 1e-9), np.floor(high + 1e-9) + 1)
    if len(powers) >= 2:
        shown = powers[:: -(-len(powers) // _MOST_POWERS)]
        axis.set_major_locator(FixedLocator((10.0**shown).tolist()))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(_signed_power))


def _signed_power(value: float, _position: int | None = None) -> str:
    """Return 0 or a power of 10 as text."""
    return power_of_10(round(np.log10(value))) if value > 0 else f"{value:g}"


def power_of_10(exponent: int) -> str:
    """Return a power of 10 as text, without the parser for formulas, which takes 0.1 s to start.

    Examples:
        >>> power_of_10(-12)
        '10⁻¹²'
    """
    return "10" + str(exponent).translate(_SUPERSCRIPTS)
