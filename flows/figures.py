"""The pictures a run leaves, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

# told apart by colour-blind people too
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#999999"
HIGHEST = 1e100  # of a diverged run; Matplotlib's own arithmetic overflows from 1e300 on


def draw_loss_curve(
    path: Path, losses: NDArray[np.float64], *, title: str, window: int = 1
) -> None:
    """Draw the loss before each step to `path` (PNG), with its running mean over `window` steps.

    A loss that is no number, or off every scale, leaves a gap.
    """
    figure, axes = sheet(title, "step", "loss (mean hinge + regulariser)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    steps = np.arange(len(losses))
    shown = np.where(losses < HIGHEST, losses, np.nan)
    if 1 < window < len(losses):
        axes.plot(steps, shown, color=GREY, linewidth=0.4, label="each batch")
        mean = np.convolve(shown, np.full(window, 1 / window), "valid")
        label = f"mean of {window} steps"
        axes.plot(steps[window - 1 :], mean, color=BLUE, linewidth=1.5, label=label)
        axes.legend(frameon=False)
    else:
        marker = "." if len(losses) < 50 else ""
        axes.plot(steps, shown, color=BLUE, linewidth=1.5, marker=marker)
    if _magnitudes(losses):
        axes.set_yscale("log")
    figure.savefig(path)


def draw_passes(
    path: Path,
    losses: NDArray[np.float64],
    lower_bounds: NDArray[np.float64],
    *,
    title: str,
) -> None:
    """Draw the loss of each pass to `path` (PNG), and the best lower bound so far under it.

    A bound below 0 leaves a gap, for it says nothing; so does a loss that is no number.
    """
    figure, axes = sheet(title, "pass over the images", "loss (mean hinge + regulariser)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    passes = np.arange(len(losses))
    marker = "." if len(losses) < 50 else ""
    for values, color, label in (
        (losses, BLUE, "loss"),
        (lower_bounds, ORANGE, "lower bound on the least loss"),
    ):
        shown = np.where((values >= 0) & (values < HIGHEST), values, np.nan)
        if np.isfinite(shown).any():
            axes.plot(passes, shown, color=color, linewidth=1.5, marker=marker, label=label)
    if _magnitudes(losses):
        axes.set_yscale("log")
    if axes.lines:
        legend_below(figure)
    figure.savefig(path)


def draw_trials(path: Path, losses: NDArray[np.float64], *, title: str) -> None:
    """Draw the loss of every trial of a random search to `path` (PNG), and the best so far."""
    figure, axes = sheet(title, "trial", "loss (mean hinge)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    trials = np.arange(len(losses))
    axes.scatter(trials, losses, s=8, color=GREY, linewidths=0, label="each trial")
    best = np.minimum.accumulate(losses)
    axes.step(trials, best, where="post", color=BLUE, linewidth=1.5, label="best so far")
    _mark_lowest(axes, losses)
    legend_below(figure)
    figure.savefig(path)


def draw_histogram(path: Path, losses: NDArray[np.float64], *, title: str) -> None:
    """Draw how many trials came to which loss to `path` (PNG), the lowest marked."""
    figure, axes = sheet(title, "loss (mean hinge)", "trials")
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    bins = int(np.clip(np.sqrt(len(losses)), 1, 50))
    axes.hist(losses, bins=bins, color=BLUE, edgecolor="white", linewidth=0.5)
    lowest = losses.min()
    axes.axvline(lowest, color=ORANGE, linewidth=1.5, label=f"best: {lowest:f}")
    legend_below(figure)
    figure.savefig(path)


def draw_local_search(
    path: Path, losses: NDArray[np.float64], accepted: NDArray[np.bool_], *, title: str
) -> None:
    """Draw the loss of the accepted weights over the tries to `path` (PNG), and the others'."""
    figure, axes = sheet(title, "try", "loss (mean hinge)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    tries = np.arange(len(losses))
    across, up = tries[~accepted], losses[~accepted]
    axes.scatter(across, up, s=8, color=GREY, alpha=0.5, linewidths=0, label="rejected")
    best = np.minimum.accumulate(losses)
    axes.step(tries, best, where="post", color=BLUE, linewidth=1.5, label="accepted weights")
    axes.scatter(tries[accepted], losses[accepted], s=10, color=BLUE, linewidths=0)
    _mark_lowest(axes, losses)
    legend_below(figure)
    figure.savefig(path)


def legend_below(figure: Figure, columns: int = 4) -> None:
    """Say what is what where it hides no point."""
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)


def _mark_lowest(axes: Axes, losses: NDArray[np.float64]) -> None:
    """Mark the lowest loss, the first of equals, and say which it is."""
    best = int(np.argmin(losses))
    label = f"best: {losses[best]:f} at {best}"
    axes.scatter([best], [losses[best]], s=40, color=ORANGE, zorder=3, label=label)


def draw_step_sizes(
    path: Path,
    step_sizes: NDArray[np.float64],
    losses: NDArray[np.float64],
    *,
    initial: float,
    minimum: tuple[float, float],
    title: str,
) -> None:
    """Draw the loss by the size of one step to `path` (PNG), the best and the minimum marked.

    `initial` is the loss before the step, `minimum` the best of all step sizes and its loss.
    Where losses are of several magnitudes, the valley is drawn once more, by itself.
    """
    figure, axes = sheet(title, "step size (times the gradient)", "loss (mean hinge + regulariser)")
    valley = losses <= initial * 1.1
    _draw_valley(axes, step_sizes, losses, initial, minimum)
    legend_below(figure, columns=2)
    if _magnitudes(losses):
        axes.set_yscale("log")
        if valley.any():
            # losses grow to the right: there is room on the left
            inset = axes.inset_axes((0.09, 0.4, 0.42, 0.5))
            _draw_valley(inset, step_sizes[valley], losses[valley], initial, minimum)
            inset.set_title("the same, where it is low", fontsize="small")
            inset.tick_params(labelsize="small")
    figure.savefig(path)


def _draw_valley(
    axes: Axes,
    step_sizes: NDArray[np.float64],
    losses: NDArray[np.float64],
    initial: float,
    minimum: tuple[float, float],
) -> None:
    """Draw the loss by step size, what it was before, its best and its minimum."""
    axes.set_xscale("log")
    shown = np.where(losses < HIGHEST, losses, np.nan)
    axes.axhline(initial, color=GREY, linestyle="--", label=f"before the step: {initial:f}")
    marker = "." if len(losses) < 100 else ""
    label = f"after it ({len(losses):,} step sizes)"
    axes.plot(step_sizes, shown, color=BLUE, linewidth=1.5, marker=marker, label=label)
    best = int(np.argmin(losses))
    label = f"best of them: {losses[best]:f} at {step_sizes[best]:.4g}"
    axes.scatter(step_sizes[best], losses[best], s=50, color=ORANGE, zorder=3, label=label)
    label = f"exact minimum: {minimum[1]:f} at {minimum[0]:.4g}"
    # a step size of 0 has no place on a logarithmic scale
    there = minimum if minimum[0] else (np.nan, np.nan)
    axes.scatter(*there, s=70, color=GREEN, marker="x", zorder=4, label=label)


class Curve(NamedTuple):
    """A training run's losses, to be drawn beside others."""

    label: str
    """What it has in common with a curve of every other panel."""
    losses: NDArray[np.float64]
    window: int
    """How many steps' losses are averaged."""
    diverged: bool


def draw_loss_curves(
    path: Path, panels: Mapping[str, Sequence[Curve]], *, columns: int, title: str
) -> None:
    """Draw panels of loss curves (running means) to `path` (PNG), `columns` side by side.

    A label has one colour in all of them. A run that diverged is drawn to its end, or to where
    it leaves the picture, and named there.
    """
    curves = [curve for panel in panels.values() for curve in panel]
    labels = list(dict.fromkeys(curve.label for curve in curves))
    colours = dict(
        zip(labels, colormaps["viridis"](np.linspace(0, 0.93, len(labels))), strict=True)
    )
    top = 100 * max((curve.losses[0] for curve in curves if curve.losses[0] < HIGHEST), default=1)
    rows = -(-len(panels) // columns)
    size = (max(7, 1.5 + 3.4 * columns), 1.7 + 2.5 * rows)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
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
    figure.savefig(path)


def _draw_panel(
    axes: Axes, name: str, panel: Sequence[Curve], colours: Mapping[str, Any], top: float
) -> None:
    """Draw one panel; what is above `top` is off it."""
    plain(axes)
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


def _magnitudes(losses: NDArray[np.float64]) -> bool:
    """Whether losses are so different that only a logarithmic scale shows them all."""
    shown = np.where(losses < HIGHEST, losses, np.nan)
    low, high = np.nanmin(shown, initial=1), np.nanmax(shown, initial=0)
    return bool(len(losses)) and high > 100 * max(low, 1e-9)


def plain(axes: Axes) -> None:
    """Have axes look as in all pictures."""
    axes.grid(color=GREY, alpha=0.3, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def sheet(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes, which all pictures look like."""
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=across, ylabel=up)
    plain(axes)
    return figure, axes
