"""The figures of a search."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from flows.style import BLUE, GREY, ORANGE, legend_below, new_figure, save_figure


def draw_trials(path: Path, losses: NDArray[np.float64], *, title: str) -> None:
    """Draw the loss of each trial of a random search, and the lowest so far, to `path` (PNG)."""
    figure, axes = new_figure(title, "trial", "loss (mean hinge)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    trials = np.arange(len(losses))
    axes.scatter(trials, losses, s=8, color=GREY, linewidths=0, label="each trial")
    best = np.minimum.accumulate(losses)
    axes.step(trials, best, where="post", color=BLUE, linewidth=1.5, label="best so far")
    _mark_lowest(axes, losses)
    legend_below(figure)
    save_figure(figure, path)


def draw_histogram(path: Path, losses: NDArray[np.float64], *, title: str) -> None:
    """Draw a histogram of the trials' losses to `path` (PNG), with the lowest loss marked."""
    figure, axes = new_figure(title, "loss (mean hinge)", "trials")
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    bins = int(np.clip(np.sqrt(len(losses)), 1, 50))
    axes.hist(losses, bins=bins, color=BLUE, edgecolor="white", linewidth=0.5)
    lowest = losses.min()
    axes.axvline(lowest, color=ORANGE, linewidth=1.5, label=f"best: {lowest:f}")
    legend_below(figure)
    save_figure(figure, path)


def draw_local_search(
    path: Path, losses: NDArray[np.float64], accepted: NDArray[np.bool_], *, title: str
) -> None:
    """Draw the loss of each trial, and of the accepted weights, to `path` (PNG)."""
    figure, axes = new_figure(title, "trial", "loss (mean hinge)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    tries = np.arange(len(losses))
    across, up = tries[~accepted], losses[~accepted]
    axes.scatter(across, up, s=8, color=GREY, alpha=0.5, linewidths=0, label="rejected")
    best = np.minimum.accumulate(losses)
    axes.step(tries, best, where="post", color=BLUE, linewidth=1.5, label="accepted weights")
    axes.scatter(tries[accepted], losses[accepted], s=10, color=BLUE, linewidths=0)
    _mark_lowest(axes, losses)
    legend_below(figure)
    save_figure(figure, path)


def _mark_lowest(axes: Axes, losses: NDArray[np.float64]) -> None:
    """Mark the lowest loss, or the first of several equal ones."""
    best = int(np.argmin(losses))
    label = f"best: {losses[best]:f} in trial {best}"
    axes.scatter([best], [losses[best]], s=40, color=ORANGE, zorder=3, label=label)
