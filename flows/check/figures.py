"""The pictures of a gradient check: errors and crossings as images, and a histogram of errors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flows.style import BLUE, ORANGE, legend_below, new_figure
from kernels.gradient_verdict import ERROR_DECADES
from storage.schema import IMAGE_SHAPE

Floats = NDArray[np.float64]

_GAP = 3
"""Pixels between two images."""

_LOWEST = 1e-16
"""Smaller relative errors are drawn as this: a rounded number has no more digits."""


def draw_error_images(
    path: Path, before: Floats | None, after: Floats, names: Sequence[str], *, title: str
) -> None:
    """Draw relative errors (n, D) as n images to `path` (PNG), the largest of three channels.

    `after` holds the errors once kinks are accounted for; they are drawn below those of `before`,
    if there are any. NaN stands for a coordinate that was not checked and stays empty.
    """
    rows = {"as it is": before} if before is not None else {}
    rows["less kinks"] = after
    shown = {label: _by_pixel(np.maximum(errors, _LOWEST)) for label, errors in rows.items()}
    highest = max(np.nanmax(images, initial=10 * _LOWEST) for images in shown.values())
    norm = LogNorm(_LOWEST, min(highest, 2.0))
    _draw_images(path, shown, names, norm, title=title, label="relative error |a - n| / max")


def draw_crossings(path: Path, crossings: Floats, names: Sequence[str], *, title: str) -> None:
    """Draw how many margins cross their kink (n, D) to `path` (PNG), as n images."""
    shown = {"": _by_pixel(crossings)}
    norm = Normalize(0, max(1.0, np.nanmax(shown[""], initial=1.0)))
    _draw_images(path, shown, names, norm, title=title, label="margins that cross their kink")


def _by_pixel(values: Floats) -> Floats:
    """Return the largest value over the channels (n, 32, 32); NaN where all are NaN."""
    images = values.reshape(-1, *IMAGE_SHAPE)
    largest = np.fmax(np.fmax(images[:, 0], images[:, 1]), images[:, 2])
    return np.asarray(largest, np.float64)


def _draw_images(
    path: Path,
    rows: dict[str, Floats],
    names: Sequence[str],
    norm: Normalize,
    *,
    title: str,
    label: str,
) -> None:
    """Draw rows of named images on one scale.

    They are joined to one image, because axes for each would take a second.
    """
    size = (max(4.5, 1.15 * len(names) + 1.2), 1.25 * len(rows) + 1.0)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=title)
    axes.title.set_fontsize("medium")
    axes.spines[:].set_visible(False)
    _, height, width = next(iter(rows.values())).shape
    across = (width + _GAP) * np.arange(len(names)) + width / 2 - 0.5
    down = (height + _GAP) * np.arange(len(rows)) + height / 2 - 0.5
    axes.set_xticks(across, names, fontsize="small")
    axes.set_yticks(down, list(rows), fontsize="small", rotation=90, va="center")
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    image = np.concatenate([_side_by_side(images) for images in rows.values()])[:-_GAP]
    picture = axes.imshow(image, norm=norm, cmap="viridis", interpolation="nearest")
    figure.colorbar(picture, label=label, shrink=0.9, pad=0.01)
    figure.savefig(path)


def _side_by_side(images: Floats) -> Floats:
    """Join images (n, H, W) to one, with a gap beside and below each."""
    gaps = np.pad(images, [(0, 0), (0, _GAP), (0, _GAP)], constant_values=np.nan)
    return np.asarray(np.concatenate(list(gaps), axis=1)[:, :-_GAP])


def draw_histogram(path: Path, histograms: NDArray[np.int64], *, title: str) -> None:
    """Draw how many coordinates have a relative error of each size, to `path` (PNG).

    `histograms` are those of `kernels.gradient_verdict.Findings`.
    """
    figure, axes = new_figure(title, "relative error |a - n| / max(|a|, |n|)", "coordinates")
    edges = np.array(ERROR_DECADES)
    for counts, color, label, shift in zip(
        histograms, (ORANGE, BLUE), ("as it is", "less kinks"), (0.28, 0.72), strict=True
    ):
        axes.bar(edges[:-1] + shift, counts, width=0.4, color=color, label=label)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set_xticks(edges[::2], [f"$10^{{{edge}}}$" for edge in edges[::2].tolist()])
    legend_below(figure)
    figure.savefig(path)
