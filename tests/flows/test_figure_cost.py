"""Figures are laid out once and drawn once, with few ticks: this determines their CPU time."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from flows.style import new_figure, save_figure


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The numbers of layouts and draws of all figures."""
    counted = Counter[str]()

    def count(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def counting(*given: Any, **options: Any) -> Any:
            counted[name] += 1
            return original(*given, **options)

        monkeypatch.setattr(owner, name, counting)

    count(ConstrainedLayoutEngine, "execute")
    count(Figure, "draw")
    return counted


def ticks(axes: Axes) -> int:
    return sum(
        len(axis.get_majorticklocs()) + len(axis.get_minorticklocs())
        for axis in (axes.xaxis, axes.yaxis)
    )


def drawn(path: Path, low: float, high: float) -> Axes:
    """Draw a line from `low` to `high` on logarithmic axes, with an inset of it."""
    figure, axes = new_figure("title", "across", "up")
    for each in (axes, axes.inset_axes((0.1, 0.5, 0.4, 0.4))):
        each.plot([low, high], [low, high])
        each.set(xscale="log", yscale="log")
    save_figure(figure, path)
    return axes


def test_figure_is_laid_out_once_and_drawn_once(tmp_path: Path, calls: Counter[str]) -> None:
    drawn(tmp_path / "a.png", 1e-10, 1e5)
    assert calls == {"execute": 1, "draw": 1}


@pytest.mark.parametrize("decades", [2, 5, 15, 90])
def test_logarithmic_axes_have_few_ticks_at_powers_of_10(tmp_path: Path, decades: int) -> None:
    axes = drawn(tmp_path / "a.png", 1.0, 10.0**decades)
    for each in (axes, *axes.child_axes):
        assert isinstance(each, Axes)
        assert 4 <= ticks(each) <= 16
        powers = np.log10(each.xaxis.get_majorticklocs())
        np.testing.assert_allclose(powers, np.round(powers))
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert len(set(labels)) == len(labels)
    assert decades > 15 or "10⁰" in labels


def test_logarithmic_axis_within_one_decade_keeps_its_labels(tmp_path: Path) -> None:
    axes = drawn(tmp_path / "a.png", 2.0, 8.0)
    labels = [each.get_text() for each in axes.get_xticklabels(which="minor")]
    assert any(labels)
