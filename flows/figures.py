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


def draw_trials(path: Path, losses: NDArray[np.float64], *, title: str) -> None:
    """Draw the loss of every trial of a random search to `path` (PNG), and the best so far."""
    figure, axes = _sheet(title, "trial", "loss (mean hinge)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    trials = np.arange(len(losses))
    axes.scatter(trials, losses, s=8, color=_GREY, linewidths=0, label="each trial")
    best = np.minimum.accumulate(losses)
    axes.step(trials, best, where="post", color=_BLUE, linewidth=1.5, label="best so far")
    _mark_lowest(axes, losses)
    _legend_below(figure)
    figure.savefig(path)


def draw_histogram(path: Path, losses: NDArray[np.float64], *, title: str) -> None:
    """Draw how many trials came to which loss to `path` (PNG), the lowest marked."""
    figure, axes = _sheet(title, "loss (mean hinge)", "trials")
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    bins = int(np.clip(np.sqrt(len(losses)), 1, 50))
    axes.hist(losses, bins=bins, color=_BLUE, edgecolor="white", linewidth=0.5)
    lowest = losses.min()
    axes.axvline(lowest, color=_ORANGE, linewidth=1.5, label=f"best: {lowest:f}")
    _legend_below(figure)
    figure.savefig(path)


def draw_local_search(
    path: Path, losses: NDArray[np.float64], accepted: NDArray[np.bool_], *, title: str
) -> None:
    """Draw the loss of the accepted weights over the tries to `path` (PNG), and the others'."""
    figure, axes = _sheet(title, "try", "loss (mean hinge)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    tries = np.arange(len(losses))
    across, up = tries[~accepted], losses[~accepted]
    axes.scatter(across, up, s=8, color=_GREY, alpha=0.5, linewidths=0, label="rejected")
    best = np.minimum.accumulate(losses)
    axes.step(tries, best, where="post", color=_BLUE, linewidth=1.5, label="accepted weights")
    axes.scatter(tries[accepted], losses[accepted], s=10, color=_BLUE, linewidths=0)
    _mark_lowest(axes, losses)
    _legend_below(figure)
    figure.savefig(path)


def _legend_below(figure: Figure) -> None:
    """Say what is what where it hides no point."""
    figure.legend(loc="outside lower center", ncols=4, frameon=False)


def _mark_lowest(axes: Axes, losses: NDArray[np.float64]) -> None:
    """Mark the lowest loss, the first of equals, and say which it is."""
    best = int(np.argmin(losses))
    label = f"best: {losses[best]:f} at {best}"
    axes.scatter([best], [losses[best]], s=40, color=_ORANGE, zorder=3, label=label)


def _sheet(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes, which all pictures look like."""
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=across, ylabel=up)
    axes.grid(color=_GREY, alpha=0.3, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
