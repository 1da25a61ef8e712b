"""Figures of a gradient check: errors and kink crossings as images, and a histogram of errors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from numpy.typing import NDArray

from flows.style import BLUE, ORANGE, legend_below, new_canvas, new_figure, power_of_10, save_figure
from kernels.gradient_verdict import ERROR_DECADES
from storage.schema import IMAGE_SHAPE

Floats = NDArray[np.float64]

_GAP = 3
"""Gap between two images, in pixels."""

_LOWEST = 1e-16
"""Smaller relative errors are drawn as this value, which is about the precision of float64."""


def draw_error_images(
    path: Path, before: Floats | None, after: Floats, names: Sequence[str], *, title: str
) -> None:
    """Draw relative errors (n, D) as n images to `path` (PNG).

    A pixel shows the largest error of its three channels. `after` contains the errors with kinks
    removed. They are drawn below the errors as measured, `before`, if those are given. NaN marks a
    coordinate that was not checked; its pixel stays empty.
    """
    rows = {"as measured": before} if before is not None else {}
    rows["kinks removed"] = after
    shown = {label: _by_pixel(np.maximum(errors, _LOWEST)) for label, errors in rows.items()}
    highest = max(np.nanmax(images, initial=10 * _LOWEST) for images in shown.values())
    norm = LogNorm(_LOWEST, min(highest, 2.0))
    _draw_images(path, shown, names, norm, title=title, label="relative error |a - n| / max")


def draw_crossings(path: Path, crossings: Floats, names: Sequence[str], *, title: str) -> None:
    """Draw the numbers of margins that cross their kink (n, D) as n images to `path` (PNG)."""
    shown = {"": _by_pixel(crossings)}
    norm = Normalize(0, max(1.0, np.nanmax(shown[""], initial=1.0)))
    _draw_images(path, shown, names, norm, title=title, label="margins that cross their kink")


def _by_pixel(values: Floats) -> Floats:
    """Return the largest value over the channels (n, 32, 32); NaN if all three are NaN."""
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
    """Draw rows of named images on one colour scale.

    The images are joined into one, because separate axes for each would take about a second.
    """
    size = (max(4.5, 1.15 * len(names) + 1.2), 1.25 * len(rows) + 1.0)
    figure = new_canvas(*size)
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
    save_figure(figure, path)


def _side_by_side(images: Floats) -> Floats:
    """Join images (n, H, W) side by side, with a gap between them and below them."""
    gaps = np.pad(images, [(0, 0), (0, _GAP), (0, _GAP)], constant_values=np.nan)
    return np.asarray(np.concatenate(list(gaps), axis=1)[:, :-_GAP])


def draw_histogram(path: Path, histograms: NDArray[np.int64], *, title: str) -> None:
    """Draw a histogram of the coordinates' relative errors to `path` (PNG).

    `histograms` are those of `kernels.gradient_verdict.Findings`.
    """
    figure, axes = new_figure(title, "relative error |a - n| / max(|a|, |n|)", "coordinates")
    edges = np.array(ERROR_DECADES)
    for counts, color, label, shift in zip(
        histograms, (ORANGE, BLUE), ("as measured", "kinks removed"), (0.28, 0.72), strict=True
    ):
        axes.bar(edges[:-1] + shift, counts, width=0.4, color=color, label=label)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set_xticks(edges[::2], [power_of_10(edge) for edge in edges[::2].tolist()])
    legend_below(figure)
    save_figure(figure, path)
