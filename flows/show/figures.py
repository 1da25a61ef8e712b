"""Figures of `hinge show`: weights as images, margins of examples, and a confusion matrix."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from flows.show.predictions import ImagePrediction, SplitPredictions, ratio
from flows.style import GREEN, GREY, HIGHEST, ORANGE, new_canvas, save_figure
from storage.schema import IMAGE_SHAPE, Bytes, Split

Floats = NDArray[np.float64]

SPLIT_IMAGES: dict[Split, str] = {"train": "training images", "test": "test images"}
"""Names for the images of a split, in titles and summaries."""

_SIDE = IMAGE_SHAPE[-1]
_PIXEL = 0.052
"""Size of a weight's pixel, in inches."""
_ABOVE, _BELOW, _BESIDE = 5, 9, 3
"""Space above an image of weights (its name), below it (two lines) and beside it, in pixels."""

_BAR = 0.145
"""Distance from one margin's bar to the next, in inches: enough for a class's name."""
_HEAD = 3.1
"""Space above an example's first bar, in bar heights: enough for two lines of text."""
_NAMES, _BARS = 0.95, 2.5
"""Widths of the classes' names and of their bars, in inches."""


def draw_predictions(
    directory: Path, W: Floats, predictions: SplitPredictions, *, title: str
) -> tuple[Path, ...]:
    """Draw all three pictures into `directory`, and return their paths.

    After all three are drawn, each one atomically replaces its older version.
    """
    classes, on_split = predictions.classes, f"{title}, {SPLIT_IMAGES[predictions.split]}"
    names = ("weights.png", "examples.png", "confusion.png")
    with tempfile.TemporaryDirectory(dir=directory, prefix=".show-") as temporary:
        weights, examples, mistakes = drawn = [Path(temporary) / name for name in names]
        draw_weights(weights, W, classes, title=title)
        draw_examples(examples, predictions.examples, classes, title=on_split)
        draw_confusion(mistakes, predictions.confusion, classes, title=on_split)
        return tuple(path.replace(directory / path.name) for path in drawn)


def draw_weights(path: Path, W: Floats, classes: Sequence[str], *, title: str) -> None:
    """Draw each row of weights (C, 3073) as a colour image to `path` (PNG), with its bias below.

    A weight of 0 is mid-grey. The weight with the largest absolute value of its row becomes 255 if
    it is positive, and 0 if it is negative.
    """
    largest = np.abs(W[:, :-1]).max(axis=1)
    columns = min(5, len(classes))
    montage = _montage(_as_images(W[:, :-1], largest), columns)
    down, across = _PIXEL * montage.shape[0], _PIXEL * montage.shape[1]
    figure = _figure(across + 0.2, down + 0.9, f"{title}: weights by pixel")
    axes = _axes_at(figure, 0.1, 0.47, across, down)
    axes.imshow(montage, interpolation="nearest")
    axes.set_axis_off()
    for index, name in enumerate(classes):
        row, column = divmod(index, columns)
        x = column * (_SIDE + 2 * _BESIDE) + _BESIDE + _SIDE / 2 - 0.5
        y = row * (_SIDE + _ABOVE + _BELOW) + _ABOVE - 0.5
        axes.text(x, y - 0.8, name, ha="center", va="bottom", fontsize=10)
        caption = f"bias {W[index, -1]:+.3g}\nlargest weight {largest[index]:.3g}"
        axes.text(x, y + _SIDE + 0.8, caption, ha="center", va="top", fontsize=8)
    figure.text(
        *(0.5, 0.12 / figure.get_figheight()),
        "In each channel, a weight of 0 is mid-grey. The largest weight of a class in absolute "
        "value is 255\nif it is positive, and 0 if it is negative. Weights are per grey level of "
        "the image.",
        ha="center",
        fontsize=8,
    )
    save_figure(figure, path)


def _as_images(weights: Floats, largest: Floats) -> Bytes:
    """Return weights (n, 3072) as colour images (n, 32, 32, 3), each scaled by its `largest`."""
    scaled = weights / np.where(largest > 0, largest, 1.0)[:, None]
    return _channels_last(np.rint(127.5 + 127.5 * scaled).astype(np.uint8))


def _channels_last(images: Bytes) -> Bytes:
    """Return images (n, 3072) with the channels last, (n, 32, 32, 3)."""
    return np.moveaxis(images.reshape(-1, *IMAGE_SHAPE), 1, -1)


def _montage(images: Bytes, columns: int) -> Bytes:
    """Return images (n, 32, 32, 3) joined into one image with a white background.

    Separate axes for each image would take a second to draw.
    """
    missing = -len(images) % columns
    around = [(0, missing), (_ABOVE, _BELOW), (_BESIDE, _BESIDE), (0, 0)]
    each = np.pad(images, around, constant_values=255)
    each[len(images) :] = 255
    _, height, width, channels = each.shape
    rows = each.reshape(-1, columns, height, width, channels).swapaxes(1, 2)
    return rows.reshape(-1, columns * width, channels)


def draw_examples(
    path: Path, examples: Sequence[ImagePrediction], classes: Sequence[str], *, title: str
) -> None:
    """Draw examples to `path` (PNG), each with its margins `s_j - s_y + 1` as bars.

    All bars have the same scale. A margin that is not finite or too large to draw leaves a gap.
    """
    columns = min(2, len(examples))
    rows, side = -(-len(examples) // columns), _BAR * len(classes)
    width, height = side + _NAMES + _BARS, _BAR * rows * (len(classes) + _HEAD)
    figure = _figure(columns * (width + 0.3) + 0.1, height + 1.35, f"{title}: margins")
    limits = _limits(examples)
    for column in range(columns):
        left = 0.2 + column * (width + 0.3)
        images = _axes_at(figure, left, 0.95, side, height)
        bars = _axes_at(figure, left + side + _NAMES, 0.95, _BARS, height)
        _draw_column(images, bars, examples[column::columns], classes)
        for axes in images, bars:
            axes.set_ylim(rows * (len(classes) + _HEAD), 0)
        bars.set_xlim(limits)
    _explain_margins(figure)
    save_figure(figure, path)


def _limits(examples: Sequence[ImagePrediction]) -> tuple[float, float]:
    """Return the limits of an axis that shows all margins, with some space around them."""
    margins = np.concatenate([_drawable(each.margins) for each in examples])
    low, high = np.nanmin(margins, initial=0.0), np.nanmax(margins, initial=1.0)
    return float(low - 0.03 * (high - low)), float(high + 0.03 * (high - low))


def _drawable(values: Floats) -> Floats:
    return np.where(np.abs(values) < HIGHEST, values, np.nan)


def _draw_column(
    images: Axes, bars: Axes, examples: Sequence[ImagePrediction], classes: Sequence[str]
) -> None:
    """Draw examples one below the other; a bar has height 1, a caption has height `_HEAD`."""
    tops: Floats = np.float64(_HEAD) + np.arange(len(examples)) * (len(classes) + _HEAD)
    for top, each in zip(tops.tolist(), examples, strict=True):
        _draw_image(images, each, classes, top)
        _draw_names(bars, classes, top)
    images.set_axis_off()
    images.set_xlim(0, 1)
    _draw_margins(bars, examples, tops)
    bars.set_yticks([])
    bars.tick_params(axis="x", labelsize=8)
    bars.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.5)
    bars.spines[["top", "left", "right"]].set_visible(False)
    bars.set_xlabel("margin s_j - s_y + 1", fontsize=9)


def _draw_image(axes: Axes, example: ImagePrediction, classes: Sequence[str], top: float) -> None:
    """Draw an example's image below `top`, with its true and predicted class above."""
    [picture] = _channels_last(example.image)
    place = (0, 1, top + len(classes), top)
    axes.imshow(picture, extent=place, aspect="auto", interpolation="nearest")
    true, predicted = classes[example.label], classes[example.predicted]
    outcome = "predicted correctly" if true == predicted else f"predicted {predicted}"
    caption = f"row {example.row}: {true}\n{outcome}, loss {example.loss:.4g}"
    axes.text(0, top - 0.3, caption, va="bottom", fontsize=9)


def _draw_names(axes: Axes, classes: Sequence[str], top: float) -> None:
    """Write the classes' names to the left of an example's bars. Tick labels would be slower."""
    for number, name in enumerate(classes):
        axes.text(
            *(-0.02, top + 0.5 + number, name),
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center_baseline",
            fontsize=8,
        )


def _draw_margins(axes: Axes, examples: Sequence[ImagePrediction], tops: Floats) -> None:
    """Draw the examples' margins as bars below their `tops` (n,), each of height 1.

    The bars are thick lines, which are one object of Matplotlib's; it draws rectangles slowly.
    """
    margins = np.array([each.margins for each in examples])
    colours = np.where(margins > 0, ORANGE, GREY)
    colours[np.arange(len(examples)), [each.label for each in examples]] = GREEN
    places, bottoms = tops[:, None] + 0.5 + np.arange(margins.shape[1]), tops + margins.shape[1]
    axes.hlines(
        *(places.ravel(), 0, _drawable(margins).ravel()),
        colors=colours.ravel().tolist(),
        linewidth=0.8 * 72 * _BAR,
        zorder=2,
    )
    axes.vlines(np.zeros_like(tops), tops, bottoms, "black", linewidth=0.8, zorder=3)
    axes.vlines(np.ones_like(tops), tops, bottoms, "black", ":", linewidth=0.8, zorder=3)


def _explain_margins(figure: Figure) -> None:
    """Add a legend of the bars' colours and of the lines."""
    handles = [
        Patch(color=ORANGE, label="above 0: adds to the loss"),
        Patch(color=GREY, label="adds no loss"),
        Patch(color=GREEN, label="true class: always 1, no loss"),
        Line2D([], [], color="black", linestyle=":", label="beyond 1: scored above the true class"),
    ]
    columns = 4 if figure.get_figwidth() > 8 else 2
    figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, fontsize=9)


def draw_confusion(
    path: Path, confusion: NDArray[np.int64], classes: Sequence[str], *, title: str
) -> None:
    """Draw the confusion matrix to `path` (PNG): true classes by row, predicted ones by column.

    A cell's colour shows its fraction of the row, so classes of different sizes are comparable.
    """
    size = 2.0 + 0.5 * len(classes)
    figure = new_canvas(size + 1.2, size)
    axes = figure.add_subplot(xlabel="predicted class", ylabel="true class")
    accuracy = confusion.trace() / max(confusion.sum(), 1)
    axes.set_title(f"{title}: accuracy {accuracy:.2%}", fontsize="medium", pad=12)
    parts = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(parts, cmap="cividis", vmin=0, vmax=parts.max())
    _write_counts(axes, confusion, parts > 0.5 * parts.max())
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    recall = ratio(confusion.diagonal(), confusion.sum(axis=1))
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(classes)), [_percent(part) for part in recall])
    right.set_ylabel("recall")
    for each in axes, right:
        each.tick_params(length=0)
        each.spines[:].set_visible(False)
    label = "fraction of the true class's images"
    figure.colorbar(picture, label=label, format=PercentFormatter(1), shrink=0.8)
    save_figure(figure, path)


def _write_counts(axes: Axes, counts: NDArray[np.int64], light: NDArray[np.bool_]) -> None:
    """Write the counts into their cells, in black on light cells and in white on others."""
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            *(column, row, f"{count:,}"),
            color="black" if light[row, column] else "white",
            ha="center",
            va="center",
            fontsize=9,
            in_layout=False,  # including the texts would make the layout slow
        )


def _percent(part: float) -> str:
    return "none" if np.isnan(part) else f"{part:.1%}"


def _figure(width: float, height: float, title: str) -> Figure:
    """Return an empty figure of this size in inches, with its title at the top."""
    figure = Figure(figsize=(width, height), dpi=150)
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.15 / height, title, ha="center", va="top", fontsize=11)
    return figure


def _axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Return axes at a position given in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))
