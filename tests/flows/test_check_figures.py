"""Figures of a gradient check: positions, values, and missing values."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flows.check.figures import draw_crossings, draw_error_images, draw_histogram
from flows.check.step_figures import draw_step_errors
from kernels.gradient_verdict import ERROR_DECADES
from tests.flows.test_sweep_figures import words

Floats = NDArray[np.float64]
NAMES = ("cat", "dog")
STEPS = np.geomspace(1e-3, 1e-9, 7)


def images_of(figure: Figure) -> list[Any]:
    """Split a figure into its images, as masked arrays; the gaps between them are 3 pixels."""
    [shown] = [image.get_array() for axes in figure.axes for image in axes.get_images()]
    whole: Any = shown
    down, across = (range(0, size, 32 + 3) for size in whole.shape)
    return [whole[i : i + 32, j : j + 32] for i in down for j in across]


def test_error_images_show_the_largest_channel_error_per_pixel(
    tmp_path: Path, figures: list[Figure]
) -> None:
    before = np.full((2, 3072), 1e-9)
    before[0, 1024 + 5 * 32 + 7] = 1e-3  # green channel of row 5, column 7
    before[1, 40] = np.nan  # only one channel is NaN
    before[1, [50, 1074, 2098]] = np.nan  # all three channels of row 1, column 18 are NaN
    draw_error_images(tmp_path / "e.png", before, before / 10, NAMES, title="a run")
    [figure] = figures
    cat, dog, *after = images_of(figure)
    assert len(after) == 2
    assert np.argwhere(cat > 1e-8).tolist() == [[5, 7]]
    assert cat[5, 7] == 1e-3
    assert after[0][5, 7] == pytest.approx(1e-4)
    assert np.argwhere(np.ma.getmaskarray(np.ma.masked_invalid(dog))).tolist() == [[1, 18]]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(NAMES)
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "as measured",
        "kinks removed",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, 1e-300, 1e-16, 0.5, 2.0, 1e9, np.inf, np.nan])
def test_error_images_accept_extreme_values(
    tmp_path: Path, figures: list[Figure], value: float
) -> None:
    errors = np.full((1, 3072), value)
    draw_error_images(tmp_path / "e.png", None, errors, ["largest"], title="a run")
    some = np.full((2, 3072), np.nan)
    some[1, 9] = value  # a single checked coordinate
    draw_error_images(tmp_path / "f.png", some, some, NAMES, title="a run")
    draw_error_images(tmp_path / "g.png", some * np.nan, some, NAMES, title="a run")
    for name in "efg":
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert [len(images_of(figure)) for figure in figures] == [1, 4, 4]


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, 1.0, 12.0, 1e15, np.nan])
def test_crossing_images_accept_extreme_values(
    tmp_path: Path, figures: list[Figure], value: float
) -> None:
    crossings = np.zeros((2, 3072))
    crossings[1, 2048 + 31 * 32] = value  # blue channel of the last row
    draw_crossings(tmp_path / "c.png", crossings, NAMES, title="a run")
    cat, dog = images_of(figures[0])
    assert cat.max() == 0
    assert dog[31, 0] == (0 if np.isnan(value) else value)  # the other channels are 0
    draw_crossings(tmp_path / "d.png", crossings * np.nan, NAMES, title="a run")
    assert (tmp_path / "d.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 30730, 10**9, 2**62])
def test_histogram_accepts_extreme_counts(
    tmp_path: Path, figures: list[Figure], count: int
) -> None:
    counts = np.zeros((2, len(ERROR_DECADES) - 1), np.int64)
    counts[0, 3], counts[1, 11] = count, count // 2
    draw_histogram(tmp_path / "h.png", counts, title="a run")
    [axes] = figures[0].axes
    bars = [bar for container in axes.containers for bar in container]
    tall = {(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in bars}
    drawn = {(round(x // 1), height) for x, height in tall if height}
    assert drawn == {(-15, count), (-7, count // 2)} - {(-15, 0), (-7, 0)}
    assert words(figures[0]) == ["as measured", "kinks removed"]


def curves(errors: Floats) -> tuple[dict[str, Floats], dict[str, Floats]]:
    names = [
        f"{scheme}{rest}" for scheme in ("centred", "forward") for rest in ("", ", kinks removed")
    ]
    lines = ["kinks (theory), centred", "kinks (theory), forward", "rounding (theory)", "bound"]
    return dict.fromkeys(names, errors), dict.fromkeys(lines, errors)


def test_step_errors_are_drawn_with_theory_and_the_marked_step(
    tmp_path: Path, figures: list[Figure]
) -> None:
    errors, lines = curves(np.sqrt(STEPS))
    errors["forward"] = STEPS * 7
    draw_step_errors(tmp_path / "s.png", STEPS, errors, lines, mark=1e-5, title="a run")
    [figure] = figures
    [axes] = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    drawn = {str(line.get_label()): np.asarray(line.get_xydata()) for line in axes.lines}
    np.testing.assert_array_equal(drawn["forward"], np.transpose([STEPS, STEPS * 7]))
    np.testing.assert_array_equal(drawn["centred"], np.transpose([STEPS, np.sqrt(STEPS)]))
    assert set(drawn["h = 1e-05"][:, 0]) == {1e-5}
    assert sorted(words(figure)) == sorted([*errors, *lines, "h = 1e-05"])


@pytest.mark.slow
@pytest.mark.parametrize("values", [[0.0] * 7, [np.nan] * 7, [1e-9] * 7, [1e-30, 1e30] + [0.0] * 5])
@pytest.mark.parametrize("number", [1, 7])
def test_step_errors_accept_extreme_values(
    tmp_path: Path, figures: list[Figure], values: list[float], number: int
) -> None:
    errors, lines = curves(np.array(values[:number]))
    lines["bound"] = np.full(number, 1e-11)  # the bound on rounding is never 0
    draw_step_errors(tmp_path / "s.png", STEPS[:number], errors, lines, mark=1e-5, title="a run")
    assert (tmp_path / "s.png").stat().st_size > 5000


def test_single_step_equal_to_the_marked_step_can_be_drawn(
    tmp_path: Path, figures: list[Figure]
) -> None:
    """This is the figure of `hinge check-step --steps 1e-5:1e-5`."""
    errors, lines = curves(np.array([1e-9]))
    draw_step_errors(tmp_path / "s.png", np.array([1e-5]), errors, lines, mark=1e-5, title="a run")
    assert (tmp_path / "s.png").stat().st_size > 5000
