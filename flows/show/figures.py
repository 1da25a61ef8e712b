"""The pictures of weights: as images, by the margins of some examples, and by their mistakes."""

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
from flows.style import GREEN, GREY, HIGHEST, ORANGE
from storage.schema import IMAGE_SHAPE, Bytes, Split

Floats = NDArray[np.float64]

SPLIT_IMAGES: dict[Split, str] = {"train": "training images", "test": "test images"}
"""What the images of a split are called."""

_SIDE = IMAGE_SHAPE[-1]
_PIXEL = 0.052
"""Inches of a weight's pixel."""
_ABOVE, _BELOW, _BESIDE = 5, 9, 3
"""Pixels around an image of weights: for its name, for two lines of text, and for space."""

_BAR = 0.145
"""Inches from one margin's bar to the next: the classes' names stand beside them."""
_HEAD = 3.1
"""Space above an example's first bar, in heights of a bar: room for two lines of text."""
_NAMES, _BARS = 0.95, 2.5
"""Widths of the classes' names and of their bars, in inches."""


def draw_predictions(
    directory: Path, W: Floats, predictions: SplitPredictions, *, title: str
) -> tuple[Path, ...]:
    """Draw all three pictures into `directory`, and return their paths.

    They replace older ones once all are drawn, each whole.
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

    A weight of 0 is mid-grey; a row's largest absolute value is 255 or 0.
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
        "each channel: weight 0 is mid-grey; the class's largest weight (absolute, per grey level "
        "of the image)\nis 255 if it is positive, and 0 if it is negative",
        ha="center",
        fontsize=8,
    )
    figure.savefig(path)


def _as_images(weights: Floats, largest: Floats) -> Bytes:
    """Return weights (n, 3072) as colour images (n, 32, 32, 3), each scaled by its `largest`."""
    scaled = weights / np.where(largest > 0, largest, 1.0)[:, None]
    return _channels_last(np.rint(127.5 + 127.5 * scaled).astype(np.uint8))


def _channels_last(images: Bytes) -> Bytes:
    """Return images (n, 3072) with the channels last, (n, 32, 32, 3)."""
    return np.moveaxis(images.reshape(-1, *IMAGE_SHAPE), 1, -1)


def _montage(images: Bytes, columns: int) -> Bytes:
    """Return images (n, 32, 32, 3) as one, on white. Axes for each would take a second to draw."""
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

    All bars have one scale. A margin that is not finite, or too large to draw, leaves a gap.
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
    figure.savefig(path)


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
    """Draw examples one below the other: a class is 1 high, an example's caption `_HEAD`."""
    tops = _HEAD + np.arange(len(examples)) * (len(classes) + _HEAD)
    for top, each in zip(tops.tolist(), examples, strict=True):
        _draw_image(images, each, classes, top)
        _draw_margins(bars, each, top)
    images.set_axis_off()
    images.set_xlim(0, 1)
    places = (tops[:, None] + 0.5 + np.arange(len(classes))).ravel()
    bars.set_yticks(places, [*classes] * len(examples), fontsize=8)
    bars.tick_params(axis="y", length=0)
    bars.tick_params(axis="x", labelsize=8)
    bars.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.5)
    bars.spines[["top", "left", "right"]].set_visible(False)
    bars.set_xlabel("margin $s_j - s_y + 1$", fontsize=9)


def _draw_image(axes: Axes, example: ImagePrediction, classes: Sequence[str], top: float) -> None:
    """Draw an example's image from `top` on, with its true and predicted class above it."""
    [picture] = _channels_last(example.image)
    place = (0, 1, top + len(classes), top)
    axes.imshow(picture, extent=place, aspect="auto", interpolation="nearest")
    true, predicted = classes[example.label], classes[example.predicted]
    outcome = "predicted right" if true == predicted else f"predicted {predicted}"
    caption = f"row {example.row}: {true}\n{outcome}, loss {example.loss:.4g}"
    axes.text(0, top - 0.3, caption, va="bottom", fontsize=9)


def _draw_margins(axes: Axes, example: ImagePrediction, top: float) -> None:
    """Draw an example's margins from `top` on, each 1 high."""
    margins = example.margins
    colours = [ORANGE if margin > 0 else GREY for margin in margins]
    colours[example.label] = GREEN
    place = top + 0.5 + np.arange(len(margins))
    axes.barh(place, _drawable(margins), height=0.8, color=colours, zorder=2)
    axes.vlines(0, top, top + len(margins), "black", linewidth=0.8)
    axes.vlines(1, top, top + len(margins), "black", ":", linewidth=0.8)


def _explain_margins(figure: Figure) -> None:
    """Add a legend of the bars' colours and of the lines."""
    handles = [
        Patch(color=ORANGE, label="costs its margin (above 0)"),
        Patch(color=GREY, label="costs nothing"),
        Patch(color=GREEN, label="the true class: 1, and no loss"),
        Line2D([], [], color="black", linestyle=":", label="beyond: scored above the true class"),
    ]
    columns = 4 if figure.get_figwidth() > 8 else 2
    figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, fontsize=9)


def draw_confusion(
    path: Path, confusion: NDArray[np.int64], classes: Sequence[str], *, title: str
) -> None:
    """Draw the confusion matrix to `path` (PNG): true classes by row, predicted ones by column.

    A cell's colour is its part of the row, so classes of different sizes look alike.
    """
    size = 2.0 + 0.5 * len(classes)
    figure = Figure(figsize=(size + 1.2, size), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
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
    label = "part of the true class's images"
    figure.colorbar(picture, label=label, format=PercentFormatter(1), shrink=0.8)
    figure.savefig(path)


def _write_counts(axes: Axes, counts: NDArray[np.int64], light: NDArray[np.bool_]) -> None:
    """Write the counts into their cells, in black on light cells."""
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            *(column, row, f"{count:,}"),
            color="black" if light[row, column] else "white",
            ha="center",
            va="center",
            fontsize=9,
            in_layout=False,  # the layout would be slow
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
