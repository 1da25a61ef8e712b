"""The figure of a sweep."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from flows.style import (
    BLUE,
    GREEN,
    GREY,
    HIGHEST,
    ORANGE,
    legend_below,
    new_figure,
    save_figure,
    spans_magnitudes,
)


def draw_step_sizes(
    path: Path,
    step_sizes: NDArray[np.float64],
    losses: NDArray[np.float64],
    *,
    initial: float,
    minimum: tuple[float, float],
    title: str,
) -> None:
    """Draw the loss by step size to `path` (PNG), with the lowest loss and the minimum marked.

    `initial` is the loss before the step. `minimum` is the exact minimum along the gradient: its
    step size and its loss. If the losses span several orders of magnitude, an inset shows only the
    step sizes with low losses.
    """
    figure, axes = new_figure(
        title, "step size (times the gradient)", "loss (mean hinge + regulariser)"
    )
    valley = losses <= initial * 1.1
    _draw_valley(axes, step_sizes, losses, initial, minimum)
    legend_below(figure, columns=2)
    if spans_magnitudes(losses):
        axes.set_yscale("log")
        if valley.any():
            # losses grow to the right, so the inset fits on the left
            inset = axes.inset_axes((0.09, 0.4, 0.42, 0.5))
            _draw_valley(inset, step_sizes[valley], losses[valley], initial, minimum)
            inset.set_title("detail: low losses", fontsize="small")
            inset.tick_params(labelsize="small")
    save_figure(figure, path)


def _draw_valley(
    axes: Axes,
    step_sizes: NDArray[np.float64],
    losses: NDArray[np.float64],
    initial: float,
    minimum: tuple[float, float],
) -> None:
    """Draw the loss by step size, the loss before the step, the lowest loss and the minimum."""
    axes.set_xscale("log")
    shown = np.where(losses < HIGHEST, losses, np.nan)
    axes.axhline(initial, color=GREY, linestyle="--", label=f"before the step: {initial:f}")
    marker = "." if len(losses) < 100 else ""
    label = f"after the step ({len(losses):,} step sizes)"
    axes.plot(step_sizes, shown, color=BLUE, linewidth=1.5, marker=marker, label=label)
    best = int(np.argmin(losses))
    label = f"lowest of these: {losses[best]:f} at {step_sizes[best]:.4g}"
    axes.scatter(step_sizes[best], losses[best], s=50, color=ORANGE, zorder=3, label=label)
    label = f"exact minimum: {minimum[1]:f} at {minimum[0]:.4g}"
    # a logarithmic axis cannot show a step size of 0
    there = minimum if minimum[0] else (np.nan, np.nan)
    axes.scatter(*there, s=70, color=GREEN, marker="x", zorder=4, label=label)
