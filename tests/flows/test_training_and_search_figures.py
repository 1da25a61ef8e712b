"""Figures of training runs and searches, checked as pixels with Pillow."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from flows.search.figures import draw_histogram, draw_local_search, draw_trials
from flows.train.figures import draw_loss_curve, draw_passes
from pipeline.search.random_search import improvements

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


def drawn(path: Path, losses: list[float] | NDArray[np.float64], window: int = 1) -> NDArray[Any]:
    """Draw a loss curve, and return its pixels (height, width, 3)."""
    draw_loss_curve(path, np.asarray(losses, dtype=float), title="a run", window=window)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def blue_points(picture: NDArray[Any]) -> NDArray[np.intp]:
    """Return the positions of the curve's pixels (n, 2), from the top and from the left."""
    return points_of(picture, BLUE)


def points_of(picture: NDArray[Any], colour: tuple[int, int, int]) -> NDArray[np.intp]:
    return np.argwhere((np.abs(picture.astype(int) - colour) < 30).all(axis=-1))


def test_falling_loss_is_drawn_falling_from_left_to_right(tmp_path: Path) -> None:
    points = blue_points(drawn(tmp_path / "loss.png", 9 - 4 * np.linspace(0, 1, 200)))
    left, right = points[points[:, 1].argmin()], points[points[:, 1].argmax()]
    assert right[1] - left[1] > 500
    assert right[0] - left[0] > 300  # a lower loss is further down


def test_running_mean_is_drawn_over_noisy_batch_losses(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=2000)
    picture = drawn(tmp_path / "loss.png", 9 + noise, window=50)
    low, high = np.quantile(blue_points(picture)[:, 0], [0.1, 0.9])  # without the legend
    height = high - low
    assert 0 < height < 0.4 * picture.shape[0]  # the mean of 50 has 7 times less noise


def test_running_mean_is_drawn_at_the_height_of_its_losses(tmp_path: Path) -> None:
    losses = 9 - 4 * np.linspace(0, 1, 400)
    heights = [
        np.median(blue_points(drawn(tmp_path / "loss.png", losses, window))[:, 0])
        for window in (1, 20)
    ]
    assert abs(heights[0] - heights[1]) < 40


@pytest.mark.slow
@pytest.mark.parametrize(
    "losses",
    [
        [],  # a run that stopped before its first step
        [9.0],
        [9.0] * 120,  # constant
        [9.0, 1e3, 1e8, math.inf],  # diverged
        [math.nan] * 3,
        [math.inf, math.inf],
        [0.0, 0.0],
        [9.0, 0.0, 1e-12],
        [1e300, 1e308],
    ],
)
@pytest.mark.parametrize("window", [1, 2])
def test_loss_curve_accepts_extreme_losses(
    tmp_path: Path, losses: list[float], window: int
) -> None:
    picture = drawn(tmp_path / "loss.png", losses, window)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 5  # at least axes and text
    if sum(loss < 1e100 for loss in losses) > 1 and window == 1:
        assert len(blue_points(picture)) > 10


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 12, 200])
def test_step_axis_has_integer_ticks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    draw_loss_curve(tmp_path / "loss.png", 9 - np.linspace(0, 1, steps), title="a run")
    [figure] = figures
    ticks = figure.axes[0].xaxis.get_ticklocs()
    np.testing.assert_array_equal(ticks, np.round(ticks))
    assert np.any((ticks >= 0) & (ticks < steps))


def test_diverging_loss_curve_shows_its_start(tmp_path: Path) -> None:
    growing = drawn(tmp_path / "loss.png", 9 * 10 ** np.linspace(0, 6, 100))
    heights = blue_points(growing)[:, 0]
    # On a linear scale most steps would be at the bottom. On a log scale the curve is a line.
    assert abs(np.median(heights) - (heights.min() + heights.max()) / 2) < 40


def searched(path: Path, losses: NDArray[np.float64]) -> list[NDArray[Any]]:
    """Draw the figures of searches with these losses, and return their pixels."""
    draw_trials(path / "random.png", losses, title="a search")
    draw_local_search(path / "local.png", losses, improvements(losses), title="a search")
    draw_histogram(path / "histogram.png", losses, title="a search")
    pictures = []
    for name in ("random", "local", "histogram"):
        with Image.open(path / f"{name}.png") as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    return pictures


def test_best_trial_is_marked_at_its_position(tmp_path: Path) -> None:
    losses = 9 + np.random.default_rng(0).normal(scale=0.3, size=1000)
    losses[750] = 7.0
    random, local, histogram = (
        points_of(picture, ORANGE)[:, ::-1] / picture.shape[1::-1]
        for picture in searched(tmp_path, losses)
    )
    for points in random, local:
        across, up = np.median(points[points[:, 1] < 0.9], axis=0)  # without the legend
        assert across == pytest.approx(0.75, abs=0.05)
        assert up > 0.7
    assert np.median(histogram[:, 0]) < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("losses", [[9.0], [9.0, 9.0], [9.0, 8.0, 8.5], [9.0, 1e19], [0.0] * 40])
def test_search_figures_accept_extreme_losses(tmp_path: Path, losses: list[float]) -> None:
    for picture in searched(tmp_path, np.array(losses)):
        assert len(points_of(picture, ORANGE)) > 10
        assert len(blue_points(picture)) > 10


def passes(path: Path, losses: list[float], bounds: list[float]) -> NDArray[Any]:
    """Draw the losses and lower bounds of passes, and return the pixels."""
    draw_passes(path, np.array(losses), np.array(bounds), title="a run")
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_lower_bound_is_drawn_below_the_loss(tmp_path: Path) -> None:
    losses = [9.0, 6.0, 5.0, 5.0, 5.0, 5.0]
    picture = passes(tmp_path / "loss.png", losses, [-1e6, -3.0, 3.0, 3.5, 3.5, 3.5])
    legend = 0.9 * picture.shape[0]
    loss, bound = (
        points[points[:, 0] < legend]
        for points in (points_of(picture, BLUE), points_of(picture, ORANGE))
    )
    assert bound[:, 0].min() > np.median(loss[:, 0])  # row 0 is at the top
    assert bound[:, 1].min() > loss[:, 1].min() + 100  # negative bounds are not drawn
    assert len(points_of(picture, ORANGE)) > len(bound)  # both are in the legend
    assert len(points_of(picture, BLUE)) > len(loss)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("losses", "bounds"),
    [
        ([], []),
        ([9.0], [-math.inf]),
        ([math.inf], [-math.inf]),
        ([9.0, 8.0], [-5.0, -4.0]),
        ([9e4, 9.0, 5.0], [-1e9, 0.0, 1.0]),
        ([1e300, 9.0], [0.0, 0.0]),
    ],
)
def test_passes_figure_accepts_extreme_values(
    tmp_path: Path, losses: list[float], bounds: list[float]
) -> None:
    picture = passes(tmp_path / "loss.png", losses, bounds)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 5
    assert bool(len(points_of(picture, ORANGE))) == any(bound >= 0 for bound in bounds)
