"""Figures of slices of the loss: their contents, and extreme losses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from flows.landscape.figures import draw_line, draw_panels, draw_plane
from flows.landscape.slices import LineSlice, PlaneSlice
from flows.landscape.three_points import loss_functions
from flows.landscape.three_points_figures import draw_three_points
from flows.style import BLUE, ORANGE
from kernels.piecewise import PiecewiseLinear
from pipeline.landscape.axes import Axis
from tests.flows.test_sweep_figures import words

Floats = NDArray[np.float64]


def axis(label: str, low: float, high: float, points: int) -> Axis:
    return Axis(np.ones((1, 2)), label, low, high, points)


def line_of(kinks: int, points: int = 5, scale: float = 1.0) -> LineSlice:
    """Return a line from -1 to 1 whose slope rises by `scale` at every kink."""
    positions = np.linspace(-1, 1, kinks + 2)
    slopes = scale * (np.arange(kinks + 1.0) - kinks / 2)
    values = 3 * scale + np.concatenate([[0.0], np.cumsum(slopes * np.diff(positions))])
    function = PiecewiseLinear(positions, values - min(0.0, values.min()), slopes)
    along = axis("hand-worked", -1, 1, points)
    losses = function(along.steps)
    return LineSlice(along, losses, np.zeros(points), function, 1, {})


def plane_of(losses: Floats, reg: float = 0.0) -> PlaneSlice:
    rows, columns = losses.shape
    return PlaneSlice(
        (axis("across", -1, 1, columns), axis("up", 0, 30, rows)), losses, 2.5, reg, 7, {}
    )


def bowl(rows: int = 7, columns: int = 5) -> Floats:
    """Return losses whose minimum, 2, is in row 4 and column 1."""
    up, across = np.arange(rows) - 4.0, np.arange(columns) - 1.0
    return np.asarray(2.0 + up[:, None] ** 2 + across**2)


def png_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        colours = picture.convert("RGB").getcolors(2**24)
        assert colours is not None
        assert len(colours) > 20
        return picture.size


def drawn(axes: Axes) -> dict[str, Any]:
    return {str(line.get_label()): line for line in axes.lines}


def points(line: Any) -> list[list[float]]:
    found: list[list[float]] = np.asarray(line.get_xydata()).tolist()
    return found


def heat_of(axes: Axes) -> Any:
    [heat] = axes.get_images()
    return heat


# Lines.


def test_line_figure_shows_loss_kinks_points_and_slope(
    tmp_path: Path, figures: list[Figure]
) -> None:
    found = line_of(3)
    draw_line(tmp_path / "l.png", found, title="a run")
    assert png_size(tmp_path / "l.png") == (1050, 840)
    [figure] = figures
    above, below = figure.axes
    lines = drawn(above)
    assert words(figure) == ["exact, 3 breakpoints", "kinks", "evaluated points (5)"]
    assert list(lines) == words(figure)
    assert points(lines["kinks"]) == [[-0.5, 2.25], [0.0, 2.0], [0.5, 2.25]]
    assert to_hex(lines["kinks"].get_color()) == ORANGE
    whole = points(lines["exact, 3 breakpoints"])
    assert whole == [[-1, 3], [-0.5, 2.25], [0, 2], [0.5, 2.25], [1, 3]]
    assert points(lines["evaluated points (5)"]) == whole
    [slope] = below.lines
    assert points(slope) == [[-1, -1.5], [-0.5, -0.5], [0, 0.5], [0.5, 1.5], [1, 1.5]]
    assert (slope.get_drawstyle(), to_hex(slope.get_color())) == ("steps-post", BLUE)
    assert (above.get_ylabel(), below.get_ylabel()) == ("loss (mean hinge)", "slope")
    assert below.get_xlabel() == "a, hand-worked"


@pytest.mark.slow
def test_line_figure_thins_many_points_and_omits_many_kinks(
    tmp_path: Path, figures: list[Figure]
) -> None:
    draw_line(tmp_path / "l.png", line_of(50, points=101), title="a run")
    draw_line(tmp_path / "m.png", line_of(1234, points=26), title="a run")
    few, many = figures
    assert words(few) == [
        "exact, 50 breakpoints",
        "kinks",
        "evaluated points (every 4th of 101)",
    ]
    assert len(points(few.axes[0].lines[1])) == 50
    assert len(points(few.axes[0].lines[2])) == 26
    assert words(many) == ["exact, 1,234 breakpoints", "evaluated points (26)"]


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1e-300, 1.0, 1e15, 1e300])
@pytest.mark.parametrize(("kinks", "number"), [(0, 2), (1, 2), (1, 51)])
def test_extreme_lines_can_be_drawn(
    tmp_path: Path, figures: list[Figure], scale: float, kinks: int, number: int
) -> None:
    draw_line(tmp_path / "l.png", line_of(kinks, number, scale), title="a run")
    assert png_size(tmp_path / "l.png") == (1050, 840)
    said = words(figures[0])
    assert said[0] == f"exact, {kinks} breakpoints"
    assert ("kinks" in said) == (kinks > 0)


# Planes.


def test_plane_figure_shows_losses_and_the_lowest_point(
    tmp_path: Path, figures: list[Figure]
) -> None:
    draw_plane(tmp_path / "p.png", plane_of(bowl()), None, title="a run")
    assert png_size(tmp_path / "p.png") == (1050, 900)
    [figure] = figures
    axes, scale = figure.axes
    heat = heat_of(axes)
    np.testing.assert_array_equal(heat.get_array(), bowl())
    assert heat.origin == "lower"
    assert heat.get_extent() == pytest.approx((-1.25, 1.25, -2.5, 32.5))  # edges of pixels
    assert isinstance(heat.norm, Normalize)
    assert (heat.norm.vmin, heat.norm.vmax) == (2.0, bowl().max())
    low, high = (heat.cmap(heat.norm(value)) for value in (2.0, bowl().max()))
    assert low[2] > low[0] + 0.3  # blue
    assert high[0] > high[2] + 0.3  # red
    assert [points(line) for line in axes.lines] == [[[-0.5, 20.0]]]
    assert words(figure) == ["lowest point: 2"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("a, across", "b, up")
    assert axes.get_title() == "a run"
    assert scale.get_ylabel() == "loss (mean hinge)"


@pytest.mark.parametrize(
    ("a", "b", "shown"),
    [
        (("one", 1.5), ("another", 1.5), [[1.0, 0.0], [0.0, 1.0]]),  # two runs, both in the plane
        (("one", 1.0), (None, 1.5), [[1.0, 0.0]]),  # a run on the edge, and no other
        ((None, 1.5), ("another", 1.5), [[0.0, 1.0]]),
        (("one", 0.9), ("another", 1.5), [[0.0, 1.0]]),  # the first run is outside
        (("one", 0.9), ("another", 0.9), []),  # both runs are outside
        ((None, 1.5), (None, 1.5), []),  # no runs
    ],
)
def test_plane_figure_marks_runs_within_its_bounds(
    tmp_path: Path,
    figures: list[Figure],
    a: tuple[str | None, float],
    b: tuple[str | None, float],
    shown: list[list[float]],
) -> None:
    axes = [Axis(np.ones((1, 2)), "towards a run", -reach, reach, 5, run) for run, reach in (a, b)]
    plane = replace(plane_of(bowl(5, 5), reg=2.0), axes=(axes[0], axes[1]))
    draw_plane(tmp_path / "p.png", plane, None, title="a run")
    [figure] = figures
    _lowest, *marked = figure.axes[0].lines
    assert [point for line in marked for point in points(line)] == shown
    label = "weights of the run" if len(shown) == 1 else "weights of the runs"
    assert words(figure)[1:] == ([label] if shown else [])
    assert figure.axes[1].get_ylabel() == "loss (mean hinge + regulariser)"


def test_low_losses_are_blue_and_high_losses_red(tmp_path: Path) -> None:
    """Check the pixels of the figure, which also shows that it is not upside down."""
    draw_plane(tmp_path / "p.png", plane_of(100 * bowl(21, 21)), None, title="a run")
    with Image.open(tmp_path / "p.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    inner = pixels[150:750, 150:650]
    red = inner[..., 0] - inner[..., 2]
    assert red[:200, -200:].mean() > 100
    assert red[-150:, :150].mean() < 0


def test_label_counts_points_that_are_equally_low(tmp_path: Path, figures: list[Figure]) -> None:
    losses = bowl()
    losses[:3] = 1.5
    draw_plane(tmp_path / "p.png", plane_of(losses), None, title="a run")
    assert words(figures[0]) == ["lowest point: 1.5 (14 others equal)"]
    assert points(figures[0].axes[0].lines[0]) == [[-1.0, 0.0]]


@pytest.mark.slow
def test_colour_scale_is_logarithmic_above_a_ratio_of_30(
    tmp_path: Path, figures: list[Figure]
) -> None:
    for name, highest in ("p", 59.0), ("q", 61.0):
        losses = bowl()
        losses[0, 0] = highest
        draw_plane(tmp_path / f"{name}.png", plane_of(losses), None, title="a run")
    plain, logarithmic = (heat_of(figure.axes[0]).norm for figure in figures)
    assert not isinstance(plain, LogNorm)
    assert isinstance(logarithmic, LogNorm)


def test_plane_figure_shows_the_path_of_a_run(tmp_path: Path, figures: list[Figure]) -> None:
    path = np.array([[-1.0, 20.0], [-0.5, 30.0], [0.0, 0.0]])
    draw_plane(tmp_path / "p.png", plane_of(bowl()), path, title="a run")
    lines = drawn(figures[0].axes[0])
    assert points(lines["path of the run"]) == path.tolist()
    assert points(lines["start"]) == [[-1.0, 20.0]]
    assert points(lines["end"]) == [[0.0, 0.0]]
    assert words(figures[0]) == ["lowest point: 2", "path of the run", "start", "end"]


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(np.full((5, 5), 9.0), id="constant"),
        pytest.param(bowl(2, 2), id="2 x 2"),
        pytest.param(np.geomspace(1e-12, 1e12, 36).reshape(6, 6), id="24 decades"),
        pytest.param(np.zeros((5, 5)), marks=pytest.mark.slow, id="zeros"),
        pytest.param(bowl() - 2.0, marks=pytest.mark.slow, id="minimum 0"),
        pytest.param(bowl() * 1e-300, marks=pytest.mark.slow, id="tiny"),
        pytest.param(bowl() * 1e15, marks=pytest.mark.slow, id="huge"),
        pytest.param(bowl(2, 9), marks=pytest.mark.slow, id="2 x 9"),
        pytest.param(np.where(np.eye(6) > 0, 1e6, 0.0), marks=pytest.mark.slow, id="peaks over 0"),
        pytest.param(9.0 + 1e-15 * bowl(), marks=pytest.mark.slow, id="constant up to rounding"),
        pytest.param(
            np.geomspace(1e-300, 1e300, 36).reshape(6, 6),
            marks=pytest.mark.slow,
            id="600 decades",
        ),
    ],
)
def test_extreme_planes_can_be_drawn(tmp_path: Path, figures: list[Figure], losses: Floats) -> None:
    draw_plane(tmp_path / "p.png", plane_of(losses), None, title="a run")
    assert png_size(tmp_path / "p.png") == (1050, 900)
    [said] = words(figures[0])
    assert said.startswith(f"lowest point: {losses.min():.4g}")


@pytest.mark.slow
def test_path_outside_the_plane_and_path_of_one_point_can_be_drawn(
    tmp_path: Path, figures: list[Figure]
) -> None:
    for name, path in ("p", [[-9.0, 99.0], [0.0, 0.0]]), ("q", [[0.0, 0.0], [0.0, 0.0]]):
        draw_plane(tmp_path / f"{name}.png", plane_of(bowl()), np.array(path), title="a run")
        assert png_size(tmp_path / f"{name}.png") == (1050, 900)


# Panels and three points.


def test_panels_figure_shows_a_line_and_named_planes(tmp_path: Path, figures: list[Figure]) -> None:
    planes = {name: plane_of(factor * bowl()) for factor, name in enumerate(["1", "100", "all"], 1)}
    draw_panels(tmp_path / "n.png", line_of(2), planes, title="a run")
    assert png_size(tmp_path / "n.png") == (1350, 1260)
    [figure] = figures
    line, *others = figure.axes[:4]
    assert line.get_title() == "one example, along a"
    assert len(points(drawn(line)["kinks"])) == 2
    assert [axes.get_title() for axes in others] == ["1", "100", "all"]
    for factor, axes in enumerate(others, 1):
        np.testing.assert_array_equal(heat_of(axes).get_array(), factor * bowl())
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == [f"lowest point: {2 * factor}"]
    assert [axes.get_ylabel() for axes in figure.axes[4:]] == ["loss (mean hinge)"] * 3


@pytest.mark.slow
def test_panels_of_zero_losses_can_be_drawn(tmp_path: Path) -> None:
    planes = {name: plane_of(np.zeros((2, 2))) for name in ("1", "100", "all")}
    draw_panels(tmp_path / "n.png", line_of(0, 2, 0.0), planes, title="a run")
    assert png_size(tmp_path / "n.png") == (1350, 1260)


@pytest.mark.slow
def test_three_points_figure_shows_each_loss_and_the_mean(
    tmp_path: Path, figures: list[Figure]
) -> None:
    draw_three_points(tmp_path / "t.png", loss_functions())
    assert png_size(tmp_path / "t.png") == (1200, 630)
    left, right = figures[0].axes
    labels = ["$L_0$", "$L_1$", "$L_2$", "mean of the three", "lowest: 3.833 at 0.25"]
    assert words(figures[0]) == labels
    assert points(left.lines[1]) == [[0.25, 1.5], [1.0, 0.0]]
    assert points(drawn(right)["lowest: 3.833 at 0.25"]) == [[0.25, pytest.approx(11.5 / 3)]]
