"""The pictures of the effect of the step size: what is drawn where, and of what is not drawn."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flows.figures import Curve, draw_loss_curves, draw_step_sizes, running_mean

Floats = NDArray[np.float64]
STEP_SIZES = np.array([1e-8, 1e-7, 1e-6, 1e-5, 1e-4])
LOSSES = np.array([11.0, 10.0, 8.0, 36.0, 3600.0])


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved; their PNGs are written as well."""
    saved: list[Figure] = []
    save = Figure.savefig

    def noting(figure: Figure, path: Path) -> None:
        save(figure, path)
        saved.append(figure)

    monkeypatch.setattr(Figure, "savefig", noting)
    return saved


def sweep(path: Path, losses: Floats = LOSSES, minimum: tuple[float, float] = (5e-7, 7.5)) -> None:
    sizes = np.geomspace(1e-8, 1e-4, len(losses))
    draw_step_sizes(path, sizes, losses, initial=11.25, minimum=minimum, title="a run")


def points(axes: Axes, number: int) -> list[list[float]]:
    """Where the marks of one kind are: 0 the best, 1 the minimum."""
    offsets: list[list[float]] = np.asarray(axes.collections[number].get_offsets()).tolist()
    return offsets


def words(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_the_best_and_the_minimum_are_marked_and_named(
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
        "after it (5 step sizes)",
        "best of them: 8.000000 at 1e-06",
        "exact minimum: 7.500000 at 5e-07",
    ]
    assert "loss" in axes.get_ylabel()
    assert "times the gradient" in axes.get_xlabel()


def test_the_valley_is_drawn_by_itself_where_it_would_be_flat(
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
def test_any_sweep_can_be_drawn(
    tmp_path: Path, figures: list[Figure], losses: list[float], minimum: tuple[float, float]
) -> None:
    sweep(tmp_path / "steps.png", np.array(losses), minimum)
    assert (tmp_path / "steps.png").stat().st_size > 5000


def test_curves_are_drawn_in_panels_and_named_once(tmp_path: Path, figures: list[Figure]) -> None:
    slow, fast = np.linspace(20, 19, 100), np.linspace(20, 5, 100)
    panels = {
        "a": [Curve("1e-9", slow, 50, False), Curve("1e-7", fast, 50, False)],
        "b": [Curve("1e-9", slow, 1, False), Curve("1e-7", fast, 1, False)],
        "c": [Curve("1e-7", fast, 50, False)],
    }
    draw_loss_curves(tmp_path / "curves.png", panels, columns=2, title="a run")
    [figure] = figures
    assert words(figure) == ["1e-9", "1e-7"]
    a, b, c, empty = figure.axes
    assert [axes.get_title() for axes in (a, b, c)] == ["a", "b", "c"]
    assert not empty.axison
    assert a.get_ylim() == b.get_ylim() == c.get_ylim()
    assert {axes.get_yscale() for axes in (a, b, c)} == {"log"}
    np.testing.assert_allclose(np.asarray(b.lines[1].get_ydata()), fast)
    assert np.asarray(a.lines[1].get_ydata())[-1] == pytest.approx(fast[50:].mean())
    colours = [[to_hex(line.get_color()) for line in axes.lines] for axes in (a, b, c)]
    assert colours == [colours[0], colours[0], colours[0][1:]]
    assert len(set(colours[0])) == 2


@pytest.mark.slow
@pytest.mark.parametrize("last", [2e3, 1e9, 1e300, math.inf, math.nan])
def test_what_diverged_is_drawn_to_its_end_and_named(
    tmp_path: Path, figures: list[Figure], last: float
) -> None:
    good, bad = np.full(100, 15.0), np.array([20.0, 300.0, last])
    panels = {"a": [Curve("1e-7", good, 50, False), Curve("1e-3", bad, 50, True)]}
    draw_loss_curves(tmp_path / "curves.png", panels, columns=1, title="a run")
    [axes] = figures[0].axes
    curve, cross = axes.lines[1:]
    assert np.asarray(curve.get_xdata()).tolist() == [0, 1, 2]
    assert np.asarray(cross.get_xydata())[0, 0] == 2
    assert cross.get_marker() == "x"
    assert to_hex(cross.get_color()) == to_hex(curve.get_color())
    assert axes.get_ylim()[1] < 1e4  # or the other curve would be flat
    assert [text.get_text() for text in axes.texts] == ["1e-3 diverged at step 2"]


def test_a_running_mean_is_numpys(tmp_path: Path) -> None:
    losses = np.random.default_rng(0).normal(9, 1, 300)
    for window in (1, 7, 300, 400):
        expected = [losses[max(0, t + 1 - window) : t + 1].mean() for t in range(300)]
        np.testing.assert_allclose(running_mean(losses, window), expected, rtol=1e-12)
