"""Figures of slices of the loss: lines with their kinks, and planes as heat maps."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from numpy.typing import NDArray

from flows.landscape.slices import MOST_MARKED, LineSlice, PlaneSlice
from flows.style import (
    BLUE,
    GREY,
    HIGHEST,
    ORANGE,
    legend_below,
    new_canvas,
    plain_axes,
    save_figure,
)

Floats = NDArray[np.float64]

_HEAT = "RdYlBu_r"
"""Low is blue and high is red, as in the notes. Colour-blind readers can distinguish them."""

_MAGNITUDES = 30
"""The scale is logarithmic if the ratio of the highest to the lowest loss exceeds this."""

_LEVELS = 12
"""The number of contours."""


def draw_line(path: Path, line: LineSlice, *, title: str) -> None:
    """Draw the loss along a line, and its slope below, to `path` (PNG)."""
    figure = new_canvas(7, 5.6)
    figure.suptitle(title)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    _draw_loss(above, line)
    function = line.function
    below.step(
        function.positions,
        np.append(function.slopes, function.slopes[-1]),
        where="post",
        color=BLUE,
        linewidth=1.3,
    )
    plain_axes(below)
    below.set(xlabel=f"a, {line.axis.label}", ylabel="slope")
    above.set_ylabel("loss (mean hinge)")
    legend_below(figure, columns=3)
    save_figure(figure, path)


def _draw_loss(axes: Axes, line: LineSlice) -> None:
    """Draw the exact loss, its kinks and the evaluated points."""
    plain_axes(axes)
    function = line.function
    label = f"exact, {function.breakpoints:,} breakpoints"
    values = np.minimum(function.values, HIGHEST)
    axes.plot(function.positions, values, color=BLUE, linewidth=1.3, label=label)
    if 0 < function.breakpoints <= MOST_MARKED:
        inner = slice(1, -1)
        axes.plot(
            *(function.positions[inner], values[inner], "o"),
            color=ORANGE,
            markersize=6,
            label="kinks",
            zorder=3,
        )
    _draw_points(axes, line)


def _draw_points(axes: Axes, line: LineSlice) -> None:
    """Draw the mean hinge loss at the points, and the regularised loss if it differs."""
    steps, losses = line.axis.steps, np.minimum(line.losses, HIGHEST)
    hinges = np.minimum(line.losses - line.regularisers, HIGHEST)
    every = max(1, len(steps) // 25)
    which = f"every {every}th of {len(steps):,}" if every > 1 else f"{len(steps):,}"
    axes.plot(
        *(steps[::every], hinges[::every], "x"),
        color="black",
        markersize=4,
        markeredgewidth=0.8,
        label=f"evaluated points ({which})",
        zorder=4,
    )
    if line.regularisers.any():
        axes.plot(steps, losses, "--", color=GREY, linewidth=1.3, label="with the regulariser")


def draw_plane(path: Path, plane: PlaneSlice, run_path: Floats | None, *, title: str) -> None:
    """Draw the loss over a plane to `path` (PNG), with the path (T, 2) of a run if given."""
    figure = new_canvas(7, 6)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize="medium")
    heat = _draw_heat(axes, plane)
    a, b = plane.axes
    axes.set(xlabel=f"a, {a.label}", ylabel=f"b, {b.label}")
    for label in axes.xaxis.label, axes.yaxis.label:
        label.set_fontsize("small")
    _mark_runs(axes, plane)
    if run_path is not None:
        _draw_path(axes, run_path)
    figure.colorbar(heat, label=_loss_of(plane), shrink=0.9)
    legend_below(figure, columns=4)
    save_figure(figure, path)


def _loss_of(plane: PlaneSlice) -> str:
    return "loss (mean hinge + regulariser)" if plane.reg else "loss (mean hinge)"


def _draw_heat(axes: Axes, plane: PlaneSlice) -> ScalarMappable:
    """Draw the loss as colours with contours, and mark its lowest point."""
    a, b = (axis.steps for axis in plane.axes)
    losses = np.minimum(plane.losses, HIGHEST)
    low, high = float(losses.min()), float(losses.max())
    logarithmic = low > 0 and high > _MAGNITUDES * low
    norm = LogNorm(low, high) if logarithmic else Normalize(low, high)
    half = (a[1] - a[0]) / 2, (b[1] - b[0]) / 2
    edges = (a[0] - half[0], a[-1] + half[0], b[0] - half[1], b[-1] + half[1])
    heat = axes.imshow(
        losses, origin="lower", extent=edges, aspect="auto", norm=norm, cmap=_HEAT,
        interpolation="nearest",
    )  # fmt: skip
    levels = (np.geomspace if logarithmic else np.linspace)(low, high, _LEVELS + 2)[1:-1]
    # A loss that is constant up to rounding has no contours.
    if low < levels[0] and (np.diff(levels) > 0).all():
        lines = axes.contour(a, b, losses, levels=levels, colors="black", linewidths=0.5, alpha=0.6)
        axes.clabel(lines, levels[::3], fontsize="x-small", fmt="%.3g")
    _mark_lowest(axes, plane)
    return heat


def _mark_lowest(axes: Axes, plane: PlaneSlice) -> None:
    """Mark the lowest point with a star. The label states how many other points are as low."""
    row, column = plane.lowest
    low = float(plane.losses[row, column])
    equal = int((plane.losses == low).sum())
    label = f"lowest point: {low:.4g}" + (f" ({equal - 1:,} others equal)" if equal > 1 else "")
    a, b = (axis.steps for axis in plane.axes)
    axes.plot(
        *(a[column], b[row], "*"),
        color="white",
        markeredgecolor="black",
        markersize=13,
        linestyle="none",
        label=label,
        clip_on=False,
        zorder=5,
    )


def _mark_runs(axes: Axes, plane: PlaneSlice) -> None:
    """Mark the weights of the runs that the axes lead to, if they are within the figure."""
    a, b = plane.axes
    ends = [
        end
        for axis, end in ((a, (1.0, 0.0)), (b, (0.0, 1.0)))
        if axis.run is not None and a.low <= end[0] <= a.high and b.low <= end[1] <= b.high
    ]
    if ends:
        label = "weights of the run" if len(ends) == 1 else "weights of the runs"
        axes.plot(
            *np.transpose(ends), "D", color="black", markeredgecolor="white", markersize=7,
            linestyle="none", label=label, zorder=4,
        )  # fmt: skip


def _draw_path(axes: Axes, run_path: Floats) -> None:
    """Draw the path of a run from its start to its end."""
    outline = [patheffects.withStroke(linewidth=3.5, foreground="white")]
    axes.plot(
        *run_path.T, color="black", linewidth=1.2, path_effects=outline, label="path of the run"
    )
    for place, marker, label in (0, "o", "start"), (-1, "s", "end"):
        axes.plot(
            *run_path[place], marker, color="black", markeredgecolor="white", markersize=8,
            label=label, linestyle="none",
        )  # fmt: skip


def draw_panels(
    path: Path, line: LineSlice, planes: Mapping[str, PlaneSlice], *, title: str
) -> None:
    """Draw the notes' panels to `path` (PNG): the line of one example, and the named planes."""
    figure = new_canvas(9, 8.4)
    figure.suptitle(title)
    first, *others = figure.subplots(-(-(len(planes) + 1) // 2), 2).flat
    _draw_loss(first, line)
    first.set(title="one example, along a", xlabel="a", ylabel="loss (mean hinge)")
    first.legend(frameon=False, fontsize="small", loc="best")
    for axes, (name, plane) in zip(others, planes.items(), strict=True):
        heat = _draw_heat(axes, plane)
        axes.set(title=name, xlabel="a", ylabel="b")
        axes.legend(loc="lower right", fontsize="small")
        figure.colorbar(heat, label=_loss_of(plane))
    words = f"a: {line.axis.label}; b: another random direction"
    figure.supxlabel(words, fontsize="medium")
    save_figure(figure, path)
