"""The picture that only the page has: two descents, by the images that they have read."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.style import BLUE, GREY, ORANGE, legend_below, new_figure, running_mean

Floats = NDArray[np.float64]


def draw_convergence(
    path: Path, descent: Floats, batches: Floats, *, rows: int, batch_size: int, window: int
) -> None:
    """Draw the loss of two descents to `path` (PNG), by the images that they have read.

    `descent` (T + 1,) is the loss over all `rows` images before each of T steps, and after the
    last. It is drawn from the second step on, because no images are read before the first.
    `batches` (S,) is the loss of each mini-batch; its mean over the last `window` is drawn.
    """
    figure, axes = new_figure("The same descent, by all images and by batches of them",
                         "images looked at", "loss (mean hinge)")  # fmt: skip
    means = running_mean(batches, window)
    looked = batch_size * np.arange(1, len(means) + 1)
    label = f"batches of {batch_size}, mean of {window}"
    axes.plot(looked, means, color=ORANGE, linewidth=1.5, label=label)
    label = f"all {rows:,} images a step"
    looked = rows * np.arange(1, len(descent))
    axes.plot(looked, descent[1:], color=BLUE, marker=".", markersize=4, linewidth=1.2, label=label)
    label = f"where that ended: {descent[-1]:.4f}"
    axes.axhline(descent[-1], color=GREY, linestyle="--", label=label)
    axes.set_xscale("log")
    legend_below(figure, columns=2)  # three are wider than the figure
    figure.savefig(path)
