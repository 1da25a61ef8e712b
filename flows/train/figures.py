"""The figures of a training run."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from flows.style import (
    BLUE,
    GREY,
    HIGHEST,
    ORANGE,
    legend_below,
    new_figure,
    running_mean,
    save_figure,
    spans_magnitudes,
)


def draw_loss_curve(
    path: Path, losses: NDArray[np.float64], *, title: str, window: int = 1
) -> None:
    """Draw the loss before each step to `path` (PNG), with its running mean over `window` steps.

    Non-finite losses, and losses too large to draw, are omitted.
    """
    figure, axes = new_figure(title, "step", "loss (mean hinge + regulariser)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    steps = np.arange(len(losses))
    shown = np.where(losses < HIGHEST, losses, np.nan)
    if 1 < window < len(losses):
        axes.plot(steps, shown, color=GREY, linewidth=0.4, label="each batch")
        mean = running_mean(losses, window)[window - 1 :]
        mean = np.where(mean < HIGHEST / window, mean, np.nan)
        label = f"mean of {window} steps"
        axes.plot(steps[window - 1 :], mean, color=BLUE, linewidth=1.5, label=label)
        axes.legend(frameon=False)
    else:
        marker = "." if len(losses) < 50 else ""
        axes.plot(steps, shown, color=BLUE, linewidth=1.5, marker=marker)
    if spans_magnitudes(losses):
        axes.set_yscale("log")
    save_figure(figure, path)


def draw_passes(
    path: Path,
    losses: NDArray[np.float64],
    lower_bounds: NDArray[np.float64],
    *,
    title: str,
) -> None:
    """Draw the loss of each pass, and the best lower bound so far, to `path` (PNG).

    Lower bounds below 0, which are trivial, and non-finite losses are omitted.
    """
    figure, axes = new_figure(title, "pass over the images", "loss (mean hinge + regulariser)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    passes = np.arange(len(losses))
    marker = "." if len(losses) < 50 else ""
    for values, color, label in (
        (losses, BLUE, "loss"),
        (lower_bounds, ORANGE, "lower bound on the lowest possible loss"),
    ):
        shown = np.where((values >= 0) & (values < HIGHEST), values, np.nan)
        if np.isfinite(shown).any():
            axes.plot(passes, shown, color=color, linewidth=1.5, marker=marker, label=label)
    if spans_magnitudes(losses):
        axes.set_yscale("log")
    if axes.lines:
        legend_below(figure)
    save_figure(figure, path)
