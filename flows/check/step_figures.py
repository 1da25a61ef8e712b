"""The picture of a study of steps: errors by the step of the difference, beside theory."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from flows.style import BLUE, GREY, ORANGE, legend_below, new_figure

Floats = NDArray[np.float64]


def draw_step_errors(
    path: Path,
    steps: Floats,
    errors: dict[str, Floats],
    theory: dict[str, Floats],
    *,
    mark: float,
    title: str,
) -> None:
    """Draw errors (n,) by the step of the difference to `path` (PNG), beside theory's predictions.

    The names of `errors` begin with the scheme. `theory` holds the predictions. The step `mark`
    is marked by a vertical line.
    """
    figure, axes = new_figure(title, "step h", "root mean square error")
    axes.set(xscale="log", yscale="log")
    styles = {"centred": (BLUE, "o"), "forward": (ORANGE, "s")}
    for name, values in errors.items():
        color, marker = styles[name.split(",")[0]]
        style = ("--", "none") if "less kinks" in name else ("-", color)
        axes.plot(
            steps, np.where(values > 0, values, np.nan), style[0], color=color, marker=marker,
            markersize=4, markerfacecolor=style[1], linewidth=1.3, label=name,
        )  # fmt: skip
    _draw_theory(axes, steps, theory)
    axes.axvline(mark, color=GREY, linewidth=1, label=f"h = {mark:g}")
    legend_below(figure, columns=3)
    figure.savefig(path)


def _draw_theory(axes: Axes, steps: Floats, theory: dict[str, Floats]) -> None:
    dashes = (":", (0, (1, 3)), "-.", (0, (6, 3)))
    for (name, values), dash in zip(theory.items(), dashes, strict=False):
        shown = np.where(values > 0, values, np.nan)
        axes.plot(steps, shown, color="black", linestyle=dash, linewidth=1, label=name)
