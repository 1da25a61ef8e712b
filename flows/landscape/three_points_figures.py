"""The figure of the three points."""

from collections.abc import Mapping
from pathlib import Path

from flows.style import BLUE, GREEN, ORANGE, legend_below, new_canvas, plain_axes, save_figure
from kernels.piecewise import PiecewiseLinear

_LINES = {
    "L0": {"color": BLUE, "linestyle": "-", "label": "$L_0$"},
    "L1": {"color": ORANGE, "linestyle": "--", "label": "$L_1$"},
    "L2": {"color": GREEN, "linestyle": "-.", "label": "$L_2$"},
    "mean": {"color": "black", "linestyle": "-", "label": "mean of the three"},
}


def draw_three_points(path: Path, losses: Mapping[str, PiecewiseLinear]) -> None:
    """Draw the loss of each point, and their mean, as functions of w_0 to `path` (PNG)."""
    figure = new_canvas(8, 4.2)
    figure.suptitle("Three points of three classes: the loss as a function of one weight")
    left, right = figure.subplots(1, 2, sharex=True)
    for name, loss in losses.items():
        axes, line = right if name == "mean" else left, _LINES[name]
        axes.plot(loss.positions, loss.values, linewidth=1.6, **line)
        inner = slice(1, -1)
        kinks = loss.positions[inner], loss.values[inner]
        axes.plot(*kinks, "o", color=line["color"], markersize=6)
    where, lowest = losses["mean"].minimum
    right.plot(where, lowest, "*", color="white", markeredgecolor="black", markersize=13,
               linestyle="none", label=f"lowest: {lowest:.4g} at {where:.4g}")  # fmt: skip
    for axes, title in (left, "loss of each point"), (right, "loss of the data set"):
        plain_axes(axes)
        axes.set(title=title, xlabel="$w_0$", ylabel="loss (hinge)")
    legend_below(figure, columns=5)
    save_figure(figure, path)
