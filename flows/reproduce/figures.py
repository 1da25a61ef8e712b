"""The convergence figure of the report: full-batch against mini-batch gradient descent."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.style import BLUE, GREY, ORANGE, legend_below, new_figure, running_mean, save_figure

Floats = NDArray[np.float64]


def draw_convergence(
    path: Path, descent: Floats, batches: Floats, *, rows: int, batch_size: int, window: int
) -> None:
    """Draw the loss of two training runs against the number of images read, to `path` (PNG).

    `descent` (T + 1,) is the loss over all `rows` images before each of T steps, and after the
    last. Its first value is not drawn, because no image has been read yet. `batches` (S,) is the
    loss of each mini-batch; the running mean over `window` mini-batches is drawn.
    """
    figure, axes = new_figure("Gradient descent with all images and with mini-batches",
                         "images read", "loss (mean hinge)")  # fmt: skip
    means = running_mean(batches, window)
    looked = batch_size * np.arange(1, len(means) + 1)
    label = f"mini-batches of {batch_size}, mean of {window}"
    axes.plot(looked, means, color=ORANGE, linewidth=1.5, label=label)
    label = f"all {rows:,} images per step"
    looked = rows * np.arange(1, len(descent))
    axes.plot(looked, descent[1:], color=BLUE, marker=".", markersize=4, linewidth=1.2, label=label)
    label = f"final loss with all images: {descent[-1]:.4f}"
    axes.axhline(descent[-1], color=GREY, linestyle="--", label=label)
    axes.set_xscale("log")
    legend_below(figure, columns=2)  # three columns do not fit
    save_figure(figure, path)
