"""The figure of a study of difference steps: measured and predicted errors against h."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from flows.style import BLUE, GREY, ORANGE, legend_below, new_figure, save_figure

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
    """Draw errors (n,) against the difference step (n,) to `path` (PNG).

    Each name in `errors` begins with the scheme, such as "centred, kinks removed". `theory`
    contains the predicted errors. A vertical line marks the step `mark`.
    """
    figure, axes = new_figure(title, "difference step h", "root mean square error")
    axes.set(xscale="log", yscale="log")
    styles = {"centred": (BLUE, "o"), "forward": (ORANGE, "s")}
    for name, values in errors.items():
        color, marker = styles[name.split(",")[0]]
        style = ("--", "none") if "kinks removed" in name else ("-", color)
        axes.plot(
            steps, np.where(values > 0, values, np.nan), style[0], color=color, marker=marker,
            markersize=4, markerfacecolor=style[1], linewidth=1.3, label=name,
        )  # fmt: skip
    _draw_theory(axes, steps, theory)
    axes.axvline(mark, color=GREY, linewidth=1, label=f"h = {mark:g}")
    legend_below(figure, columns=3)
    save_figure(figure, path)


def _draw_theory(axes: Axes, steps: Floats, theory: dict[str, Floats]) -> None:
    dashes = (":", (0, (1, 3)), "-.", (0, (6, 3)))
    for (name, values), dash in zip(theory.items(), dashes, strict=False):
        shown = np.where(values > 0, values, np.nan)
        axes.plot(steps, shown, color="black", linestyle=dash, linewidth=1, label=name)
