"""The figure of a grid: its panels, colours and labels, and how diverged runs are drawn."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from flows.grid.curves import Curve
from flows.grid.figures import draw_loss_curves
from flows.style import running_mean
from tests.flows.test_sweep_figures import words


def test_curves_are_drawn_in_panels_and_labelled_once(
    tmp_path: Path, figures: list[Figure]
) -> None:
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
def test_diverged_run_is_drawn_to_its_end_and_labelled(
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
    assert axes.get_ylim()[1] < 1e4  # with higher limits the other curve would be flat
    assert [text.get_text() for text in axes.texts] == ["1e-3 diverged at step 2"]


def test_running_mean_matches_numpy(tmp_path: Path) -> None:
    losses = np.random.default_rng(0).normal(9, 1, 300)
    for window in (1, 7, 300, 400):
        expected = [losses[max(0, t + 1 - window) : t + 1].mean() for t in range(300)]
        np.testing.assert_allclose(running_mean(losses, window), expected, rtol=1e-12)
