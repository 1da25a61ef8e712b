"""The figure of a sweep: its curve, marks, legend and inset."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flows.sweep.figures import draw_step_sizes

Floats = NDArray[np.float64]
STEP_SIZES = np.array([1e-8, 1e-7, 1e-6, 1e-5, 1e-4])
LOSSES = np.array([11.0, 10.0, 8.0, 36.0, 3600.0])


def sweep(path: Path, losses: Floats = LOSSES, minimum: tuple[float, float] = (5e-7, 7.5)) -> None:
    sizes = np.geomspace(1e-8, 1e-4, len(losses))
    draw_step_sizes(path, sizes, losses, initial=11.25, minimum=minimum, title="a run")


def points(axes: Axes, number: int) -> list[list[float]]:
    """Return the positions of a kind of mark: 0 is the lowest loss, 1 the exact minimum."""
    offsets: list[list[float]] = np.asarray(axes.collections[number].get_offsets()).tolist()
    return offsets


def words(figure: Figure) -> list[str]:
    """Return the texts of the figure's legends."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_lowest_loss_and_minimum_are_marked_and_labelled(
    tmp_path: Path, figures: list[Figure]
) -> None:
    sweep(tmp_path / "steps.png")
    [figure] = figures
    [axes] = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    before, after = axes.lines
    assert set(np.asarray(before.get_ydata()).tolist()) == {11.25}
    np.testing.assert_allclose(np.asarray(after.get_xydata()), np.transpose([STEP_SIZES, LOSSES]))
    assert points(axes, 0) == [[1e-6, 8.0]]
    assert points(axes, 1) == [[5e-7, 7.5]]
    assert words(figure) == [
        "before the step: 11.250000",
        "after the step (5 step sizes)",
        "lowest of these: 8.000000 at 1e-06",
        "exact minimum: 7.500000 at 5e-07",
    ]
    assert "loss" in axes.get_ylabel()
    assert "times the gradient" in axes.get_xlabel()


def test_inset_shows_low_losses_if_losses_span_magnitudes(
    tmp_path: Path, figures: list[Figure]
) -> None:
    sweep(tmp_path / "steps.png")
    sweep(tmp_path / "flat.png", LOSSES[:4])
    [steep, flat] = figures
    [inset] = steep.axes[0].child_axes
    assert isinstance(inset, Axes)
    np.testing.assert_allclose(np.asarray(inset.lines[1].get_ydata()), LOSSES[:3])
    assert inset.get_yscale() == "linear"
    assert flat.axes[0].child_axes == []
    assert flat.axes[0].get_yscale() == "linear"


@pytest.mark.slow
@pytest.mark.parametrize(
    "losses",
    [[9.0], [9.0] * 3, [12.0, 1e4], [9.0, 1e50, math.inf], [math.inf], [0.0, 0.0], [0.0, 1e9]],
)
@pytest.mark.parametrize("minimum", [(5e-7, 8.0), (0.0, 9.0)])
def test_extreme_losses_can_be_drawn(
    tmp_path: Path, figures: list[Figure], losses: list[float], minimum: tuple[float, float]
) -> None:
    sweep(tmp_path / "steps.png", np.array(losses), minimum)
    assert (tmp_path / "steps.png").stat().st_size > 5000
