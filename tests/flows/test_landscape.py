"""`hinge landscape`, `hinge panels` and `hinge three-points`, from the command line.

Losses are compared with the formula in NumPy. Random weights, directions and samples are drawn
here independently of the project.
"""

import json
import math
import os
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from prefect.client.orchestration import get_client

from flows.cli import run_command
from flows.landscape.results import ExactMinimum, Kink, LineResult, summarise_line
from flows.landscape.slices import LineSlice
from flows.runs.directory import RunDirectory
from flows.runs.lifecycle import RunKind
from flows.runs.record import plain
from kernels.piecewise import PiecewiseLinear
from pipeline.landscape.axes import Axis
from pipeline.training.parameters import LBFGS, GradientDescent
from storage.dataset import open_dataset
from tests.flows.conftest import Command, Finished, User
from tests.flows.test_command import loss_in_numpy, read
from tests.flows.test_flows import artifacts_of, flow_run_of, task_runs_of
from tests.flows.test_refusals import edit, late, left, refused
from tests.flows.test_sweep import gradient_in_numpy, uniform

Floats = NDArray[np.float64]
Data = tuple[Floats, NDArray[np.uint8]]

WEIGHTS, EXAMPLES, DIRECTION = 1, 6, 8
"""The purposes of random streams, as numbers in their keys."""

FILES = {"landscape.npz", "landscape.png", "result.json", ".lock"}


@pytest.fixture
def landscape(user: User, hinge: Command, store: Path) -> Any:
    """Return a function that runs `hinge landscape` on the small store."""

    def run(*given: object) -> Finished:
        finished = hinge("landscape", "--store", store, "--scheduler", user.scheduler, *given)
        assert finished.status == 0, finished.err
        return finished

    return run


@pytest.fixture
def panels(user: User, hinge: Command, store: Path) -> Any:
    """Return a function that runs `hinge panels` on the small store."""

    def run(*given: object) -> Finished:
        finished = hinge("panels", "--store", store, "--scheduler", user.scheduler, *given)
        assert finished.status == 0, finished.err
        return finished

    return run


@pytest.fixture
def data(store: Path) -> Data:
    """All centred training images with a column of ones, and their labels."""
    return read(open_dataset(str(store)), "train")


def generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    """Return the random stream of a seed, a purpose and a number, made with NumPy alone."""
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, number))
    return np.random.Generator(np.random.Philox(sequence))


def normal(seed: int) -> Floats:
    """Return the weights of `normal:1e-3`."""
    return 1e-3 * generator(seed, WEIGHTS, 0).standard_normal((10, 3073))


def direction(seed: int, number: int, W: Floats) -> Floats:
    """Return the direction of a random axis, which is as long as the weights."""
    drawn = generator(seed, DIRECTION, number).standard_normal((10, 3073))
    return np.asarray(drawn * np.sqrt((W**2).sum() / (drawn**2).sum()))


def sampled(data: Data, number: int, seed: int) -> Data:
    """Return the examples that `--examples NUMBER` selects."""
    chosen = generator(seed, EXAMPLES, 0).choice(600, number, replace=False, shuffle=False)
    rows = sorted(chosen.tolist())
    return data[0][rows], data[1][rows]


def arrays_of(runs: Path, result: dict[str, Any]) -> dict[str, NDArray[Any]]:
    with np.load(runs / result["run"] / result["values"]) as arrays:
        return dict(arrays)


def assert_plane_losses(
    losses: Floats, a: Floats, b: Floats, weights: tuple[Floats, ...], data: Data, reg: float = 0.0
) -> None:
    """Compare the loss at every point with the formula at the weights of that point."""
    W, U, V = weights
    assert losses.shape == (len(b), len(a))
    for (row, column), loss in np.ndenumerate(losses):
        expected = loss_in_numpy(W + a[column] * U + b[row] * V, *data, reg)
        assert loss == pytest.approx(expected, rel=1e-9), (row, column)


def assert_line_losses(
    losses: Floats, a: Floats, weights: tuple[Floats, Floats], data: Data, reg: float = 0.0
) -> None:
    assert_plane_losses(losses[None], a, np.zeros(1), (*weights, np.zeros((10, 3073))), data, reg)


def margins_and_gains(weights: tuple[Floats, Floats], data: Data) -> tuple[Floats, Floats]:
    """Return the margins of the wrong classes, and the gain of each margin per unit step."""
    (X, y), parts = data, []
    wrong = np.arange(10) != y[:, None]
    for number, W in enumerate(weights):
        scores = X @ W.T
        parts.append((scores - scores[~wrong][:, None] + (number == 0))[wrong])
    return parts[0], parts[1]


# Losses.


def test_plane_losses_match_numpy(landscape: Any, data: Data, tmp_path: Path) -> None:
    given = ("--points", 5, "--reg", "1e3", "--seed", 3, "--around", "uniform:1e-3")
    result = landscape("--json", *given, "--extent", 0.5).result
    [path] = (tmp_path / "runs").iterdir()
    assert left(path) == FILES
    assert json.loads((path / "result.json").read_text()) == result
    arrays = arrays_of(tmp_path / "runs", result)
    assert arrays.keys() == {"a", "b", "loss"}
    assert arrays["a"].tolist() == arrays["b"].tolist() == [-0.5, -0.25, 0.0, 0.25, 0.5]
    W = uniform(3)
    U, V = (direction(3, number, W) for number in range(2))
    assert_plane_losses(arrays["loss"], arrays["a"], arrays["b"], (W, U, V), data, 1e3)

    assert (result["command"], result["status"]) == ("landscape", "done")
    assert (result["points"], result["examples"], result["seed"]) == (25, 600, 3)
    assert (result["minimum"], result["maximum"]) == (arrays["loss"].min(), arrays["loss"].max())
    a, b = result["minimum_at"]
    assert loss_in_numpy(W + a * U + b * V, *data, 1e3) == pytest.approx(result["minimum"])
    lengths = [axis["length"] for axis in result["axes"]]
    assert lengths == pytest.approx([np.sqrt((W**2).sum())] * 2)
    assert {(axis["low"], axis["high"]) for axis in result["axes"]} == {(-0.5, 0.5)}
    assert result["seconds"] == result["timings"]["passes"] + result["timings"]["points"]
    assert not {"breakpoints", "kinks", "path"} & result.keys()


def test_comparison_with_numpy_detects_a_wrong_direction(data: Data) -> None:
    """A direction that is wrong by 0.1 %, or that is from another stream, fails."""
    W, few = normal(0), (data[0][:20], data[1][:20])
    U, a = direction(0, 0, W), np.linspace(-1, 1, 3)
    losses = np.array([loss_in_numpy(W + step * U, *few) for step in a])
    assert_line_losses(losses, a, (W, U), few)
    for other in (1.001 * U, direction(0, 1, W), direction(1, 0, W)):
        with pytest.raises(AssertionError):
            assert_line_losses(losses, a, (W, other), few)


def test_line_over_one_example_reports_every_kink(
    landscape: Any, data: Data, tmp_path: Path
) -> None:
    result = landscape("--json", "--dims", 1, "--points", 7, "--examples", "first:1").result
    arrays = arrays_of(tmp_path / "runs", result)
    assert arrays.keys() == {"a", "loss", "breakpoints", "hinge_loss", "slopes"}
    W = normal(0)
    U, one = direction(0, 0, W), (data[0][:1], data[1][:1])
    assert_line_losses(arrays["loss"], arrays["a"], (W, U), one)
    lines = [*zip(*margins_and_gains((W, U), one), strict=True)]
    places = sorted(-m / d for m, d in lines if -1 < -m / d < 1)
    assert 2 <= len(places) == result["breakpoints"] == len(result["kinks"])
    for kink, a, after in zip(result["kinks"], places, [*places[1:], 1.0], strict=True):
        assert kink["a"] == pytest.approx(a, rel=1e-9)
        assert kink["hinge_loss"] == pytest.approx(loss_in_numpy(W + a * U, *one), rel=1e-9)
        between = (a + after) / 2
        slope = sum(d for m, d in lines if m + between * d > 0)
        assert kink["slope_after"] == pytest.approx(slope, rel=1e-9)
    assert result["slope_at_ends"] == [arrays["slopes"][0], arrays["slopes"][-1]]
    assert arrays["breakpoints"].tolist()[1:-1] == [kink["a"] for kink in result["kinks"]]


def test_line_over_all_images_is_convex_and_exact(
    landscape: Any, data: Data, tmp_path: Path
) -> None:
    result = landscape("--json", "--dims", 1, "--points", 7, "--reg", "1e3", "--seed", 5).result
    arrays = arrays_of(tmp_path / "runs", result)
    W = normal(5)
    weights = W, direction(5, 0, W)
    assert_line_losses(arrays["loss"], arrays["a"], weights, data, 1e3)
    margins, gains = margins_and_gains(weights, data)
    places = -margins / gains
    assert result["breakpoints"] == np.count_nonzero((places > -1) & (places <= 1)) > 1000
    assert (len(arrays["breakpoints"]), len(arrays["slopes"])) == (
        result["breakpoints"] + 2,
        result["breakpoints"] + 1,
    )
    assert (np.diff(arrays["breakpoints"]) >= 0).all()
    assert (np.diff(arrays["slopes"]) >= 0).all()
    assert result["slopes_rise"] is True
    assert result["max_difference"] < 1e-12
    assert result["kinks"] == []  # too many to record
    where, lowest = result["exact_minimum"]["a"], result["exact_minimum"]["hinge_loss"]
    assert lowest == pytest.approx(loss_in_numpy(W + where * weights[1], *data), rel=1e-9)
    assert lowest == arrays["hinge_loss"].min()
    for at in np.linspace(-1, 1, 21):
        assert lowest <= loss_in_numpy(W + at * weights[1], *data) * (1 + 1e-12)


def line_result(slopes: list[float], losses: list[float], regulariser: float = 0.0) -> LineResult:
    """Return the result of a line whose exact hinge loss is 2, 1 and 2 at -1, 0 and 1."""
    function = PiecewiseLinear(
        np.array([-1.0, 0.0, 1.0]), np.array([2.0, 1.0, 2.0]), np.array(slopes)
    )
    W = np.zeros((10, 3073))
    axis = Axis(W + 1, "hand-worked", -1.0, 1.0, 3)
    line = LineSlice(axis, np.array(losses), np.full(3, regulariser), function, 1, {})
    return summarise_line(line, W)


def test_result_reports_falling_slopes_and_inexact_points() -> None:
    good = line_result([-1.0, 1.0], [2.0, 1.0, 2.0])
    assert (good.slopes_rise, good.max_difference) == (True, 0.0)
    assert good.kinks == (Kink(a=0.0, hinge_loss=1.0, slope_after=1.0),)
    assert (good.minimum_at, good.exact_minimum) == ((0.0,), ExactMinimum(a=0.0, hinge_loss=1.0))
    assert line_result([1.0, -1.0], [2.0, 1.0, 2.0]).slopes_rise is False
    assert line_result([-1.0, 1.0], [2.0, 1.5, 2.0]).max_difference == 0.5 / 1.5
    assert line_result([-1.0, 1.0], [5.0, 4.0, 5.0], regulariser=3.0).max_difference == 0.0
    assert line_result([-1.0, 1.0], [5.0, 4.0, 5.0], regulariser=2.0).max_difference > 0.3


@pytest.mark.slow
def test_gradient_axis_has_its_lowest_loss_at_1(landscape: Any, data: Data, tmp_path: Path) -> None:
    given = ("--directions", "gradient", "--points", 5, "--examples", 40, "--reg", 100)
    result = landscape("--json", *given).result
    arrays = arrays_of(tmp_path / "runs", result)
    assert arrays["a"].tolist() == [-2, -1, 0, 1, 2]
    assert arrays["b"].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert result["examples"] == 40
    W, some = normal(0), sampled(data, 40, 0)
    gradient = gradient_in_numpy(W, *some, 100)
    U = -gradient * result["axes"][0]["length"] / np.sqrt((gradient**2).sum())
    assert_plane_losses(
        arrays["loss"], arrays["a"], arrays["b"], (W, U, direction(0, 1, W)), some, 100
    )
    lowest = loss_in_numpy(W + U, *some, 100)
    for near in (0.0, 0.9999, 1.0001, 2.0):
        assert loss_in_numpy(W + near * U, *some, 100) > lowest


# Axes and paths of runs.


@dataclass(frozen=True)
class Trained:
    """Two finished training runs with float64 scores."""

    runs: Path
    gd: dict[str, Any]
    batches: dict[str, Any]

    def path(self, record: dict[str, Any]) -> Path:
        return self.runs / str(record["run"])

    def weights(self, record: dict[str, Any]) -> Floats:
        W: Floats = np.load(self.path(record) / "weights.npy")
        return W


GD = ("--method", "gd", "--steps", "6", "--init", "normal:1e-3", "--reg", "50", "--reg-bias")
BATCHES = ("--method", "minibatch", "--steps", "9", "--batch-size", "32", "--reg", "20")


@pytest.fixture(scope="module")
def trained(user: User, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    runs = tmp_path_factory.mktemp("trained")
    common = ("--dtype", "float64", "--scheduler", user.scheduler, "--runs", str(runs))
    with user.settings():
        for given in (GD, BATCHES):
            assert run_command(["train", "--store", str(store), *given, *common]) == 0
    records = [json.loads(file.read_text()) for file in runs.glob("*/result.json")]
    by_method = {record["parameters"]["method"]: record for record in records}
    return Trained(runs, by_method["gd"], by_method["minibatch"])


@pytest.mark.slow
def test_run_axis_has_the_weights_of_the_run_at_1(
    landscape: Any, trained: Trained, data: Data, tmp_path: Path
) -> None:
    run = trained.path(trained.batches)
    given = ("--dims", 1, "--around", "zeros", "--directions", run, "--reg", 20, "--points", 7)
    result = landscape("--json", *given).result
    arrays = arrays_of(tmp_path / "runs", result)
    assert arrays["a"].tolist() == [-1.5, -1, -0.5, 0, 0.5, 1, 1.5]
    assert arrays["loss"][3] == 9.0  # at zero weights each of nine wrong classes adds 1
    assert arrays["loss"][5] == pytest.approx(trained.batches["loss"], rel=1e-12)
    assert run.name in result["axes"][0]["label"]
    weights = np.zeros((10, 3073)), trained.weights(trained.batches)
    assert_line_losses(arrays["loss"], arrays["a"], weights, data, 20)


@pytest.mark.slow
def test_plane_of_two_runs_around_a_third_matches_numpy(
    landscape: Any, trained: Trained, data: Data, tmp_path: Path
) -> None:
    """The directions and the middle are given as names of runs in `--runs`."""
    runs, W = tmp_path / "runs", normal(8)
    runs.mkdir()
    for record in (trained.gd, trained.batches):
        (runs / record["run"]).symlink_to(trained.path(record))
    RunDirectory(third := runs / "third").path.mkdir()
    RunDirectory(third).write_document({"run": "third"})
    RunDirectory(third).write_weights(W)
    names = f"{trained.gd['run']}, {trained.batches['run']}"
    given = ("--around", "third", "--directions", names, "--points", 3, "--extent", 1)
    result = landscape("--json", *given, "--reg", 20).result
    arrays = arrays_of(runs, result)
    U, V = (trained.weights(record) - W for record in (trained.gd, trained.batches))
    assert_plane_losses(arrays["loss"], arrays["a"], arrays["b"], (W, U, V), data, 20)
    assert arrays["loss"][2, 1] == pytest.approx(trained.batches["loss"], rel=1e-12)


def descent_in_numpy(data: Data) -> Floats:
    """Return the weights (7, 10, 3073) on the path of the run `GD`."""
    path = [normal(0)]
    for _ in range(6):
        gradient = gradient_in_numpy(path[-1], *data, 50)
        gradient[:, -1] += 2 * 50 * path[-1][:, -1]
        path.append(path[-1] - 1e-7 * gradient)
    return np.array(path)


@pytest.mark.slow
def test_path_of_a_run_matches_gradient_descent_in_numpy(
    landscape: Any, trained: Trained, data: Data, tmp_path: Path
) -> None:
    given = ("--json", "--path", trained.path(trained.gd), "--points", 5)
    result = landscape(*given).result
    arrays = arrays_of(tmp_path / "runs", result)
    weights = descent_in_numpy(data)
    W = weights[-1]
    away = (weights - W).reshape(7, -1)
    squares, turns = np.linalg.eigh(away @ away.T)
    sizes, turns = np.sqrt(squares[:-3:-1]), turns[:, :-3:-1]
    # The path starts at negative coordinates.
    U, V = ((away.T @ turns) / sizes).T * -np.sign(turns[:1].T)
    coordinates = away @ np.transpose([U, V])
    np.testing.assert_allclose(arrays["path"], coordinates, rtol=1e-6, atol=1e-6 * sizes[1])
    assert arrays["path"][-1].tolist() == [0, 0]
    assert (arrays["path"][0] < 0).all()
    assert arrays["path_steps"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert result["path"]["run"] == trained.gd["run"]
    assert result["path"]["looks"] == 7
    explained = squares[:-3:-1] / squares.sum()
    np.testing.assert_allclose(result["path"]["explained"], explained, rtol=1e-6)
    for axis, name, along in zip(result["axes"], "ab", coordinates.T, strict=True):
        margin = 0.15 * (along.max() - along.min())
        ends = [along.min() - margin, along.max() + margin]
        assert [axis["low"], axis["high"]] == pytest.approx(ends, rel=1e-6)
        assert arrays[name][[0, -1]].tolist() == pytest.approx([axis["low"], axis["high"]])
        assert axis["length"] == pytest.approx(1)
    for (row, column), loss in np.ndenumerate(arrays["loss"]):
        at = W + (arrays["a"][column] * U + arrays["b"][row] * V).reshape(10, 3073)
        expected = loss_in_numpy(at, *data, 50) + 50 * (at[:, -1] ** 2).sum()
        assert loss == pytest.approx(expected, rel=1e-7), (row, column)

    middle = landscape(*given, "--extent", 1e-3).result
    found = arrays_of(tmp_path / "runs", middle)
    assert (found["a"][2], found["b"][2]) == (0, 0)
    assert found["loss"][2, 2] == pytest.approx(trained.gd["loss"], rel=1e-12)
    assert middle["weights_sha256"] == trained.gd["weights_sha256"]


@pytest.mark.slow
def test_path_that_ends_at_other_weights_fails(
    user: User, hinge: Command, store: Path, trained: Trained, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "train-elsewhere"
    run.mkdir(parents=True)
    RunDirectory(run).write_document(trained.gd | {"weights_sha256": "0" * 64})
    RunDirectory(run).write_weights(np.zeros((10, 3073)))
    given = ("landscape", "--store", store, "--scheduler", user.scheduler, "--points", 3)
    late(hinge(*given, "--path", run.name), "train-elsewhere cannot be repeated")


# The notes' figures.


@pytest.mark.slow
def test_panel_losses_match_numpy(panels: Any, data: Data, tmp_path: Path) -> None:
    result = panels("--json", "--points", 3, "--seed", 2).result
    [path] = (tmp_path / "runs").iterdir()
    assert left(path) == {"panels.npz", "panels.png", "result.json", ".lock"}
    assert result["command"] == "panels"
    assert result["values"] == "panels.npz"
    arrays = arrays_of(tmp_path / "runs", result)
    W = normal(2)
    weights, a = (W, *(direction(2, number, W) for number in range(2))), np.array([-1.0, 0.0, 1.0])
    examples = {"one example": 1, "100 examples": 100, "all examples": 600}
    assert arrays.keys() == {"a", "line", *(name.replace(" ", "_") for name in examples)}
    assert arrays["a"].tolist() == a.tolist()
    for name, number in examples.items():
        losses = arrays[name.replace(" ", "_")]
        assert_plane_losses(
            losses, a, a, weights, data if number == 600 else sampled(data, number, 2)
        )
        plane = result["planes"][name]
        assert (plane["minimum"], plane["maximum"]) == (losses.min(), losses.max())
        assert (plane["examples"], plane["points"]) == (number, 9)
    np.testing.assert_array_equal(arrays["line"], arrays["one_example"][1])
    assert result["line"]["breakpoints"] == len(result["line"]["kinks"])


def three_losses(w0: float) -> list[float]:
    """Return the notes' three losses, and their mean, at weights w_0, 0.5 and -0.25."""
    x, w = [2.0, -1.0, 4.0], [w0, 0.5, -0.25]
    losses = []
    for i in range(3):
        loss = 0.0
        for j in range(3):
            if j != i:
                loss += max(0.0, w[j] * x[i] - w[i] * x[i] + 1)
        losses.append(loss)
    return [*losses, sum(losses) / 3]


def test_three_points_match_hand_worked_kinks_without_a_store(
    hinge: Command, tmp_path: Path
) -> None:
    finished = hinge("three-points", "--json")
    assert (finished.status, finished.err) == (0, "")
    result = finished.result
    [path] = (tmp_path / "runs").iterdir()
    assert left(path) == {"three-points.png", "result.json"}
    assert (result["run"], result["command"]) == (path.name, "three-points")
    assert path.name.startswith("three-points-")
    assert json.loads((path / "result.json").read_text()) == result
    assert (result["points"], result["weights"]) == ([2.0, -1.0, 4.0], [0.0, 0.5, -0.25])
    # x_0 = 2:  w_1 x_0 - w_0 x_0 + 1 = 2 - 2 w_0, w_2 x_0 - w_0 x_0 + 1 = 0.5 - 2 w_0
    # x_1 = -1: -w_0 + 1.5, and the constant 1.75;   x_2 = 4: 4 w_0 + 2, and the constant 4
    kinks = [[0.25, 1.0], [1.5], [-0.5], [-0.5, 0.25, 1.0, 1.5]]
    slopes = [[-2.0, 0.0], [0.0], [4.0], [-1 / 3, 1 / 3, 1.0, 4 / 3]]
    lowest = [(0.0, 1.0), (1.75, 1.5), (4.0, -2.0), (11.5 / 3, 0.25)]
    for number, name in enumerate(["L0", "L1", "L2", "mean"]):
        found = result["losses"][name]
        assert [kink["w0"] for kink in found["kinks"]] == kinks[number]
        assert [kink["slope_after"] for kink in found["kinks"]] == pytest.approx(slopes[number])
        for kink in found["kinks"]:
            assert kink["loss"] == pytest.approx(three_losses(kink["w0"])[number], rel=1e-12)
        assert (found["minimum"], found["minimum_at"]) == pytest.approx(lowest[number])
        everywhere = [three_losses(-2 + step / 100)[number] for step in range(501)]
        assert min(everywhere) == pytest.approx(found["minimum"], rel=1e-12)
    with Image.open(path / "three-points.png") as picture:
        assert picture.size == (1200, 630)


# Output, resuming and flow runs.


def test_line_output_states_extremes_and_every_kink(landscape: Any, tmp_path: Path) -> None:
    finished = landscape("--dims", 1, "--points", 7, "--examples", 1)
    [path] = (tmp_path / "runs").iterdir()
    record = json.loads((path / "result.json").read_text())
    lines = finished.out.splitlines()
    kinks, said = lines[: len(record["kinks"])], lines[len(record["kinks"]) :]
    for line, kink in zip(kinks, record["kinks"], strict=True):
        assert line.startswith(f"kink at a = {kink['a']:+.6f}: loss {kink['hinge_loss']:.6f}, ")
        assert line.endswith(f"{kink['slope_after']:+.6f}")
    words = dict(line.split(maxsplit=1) for line in said)
    assert words["run"] == record["run"] == path.name
    assert words["a"] == "-1 to 1, random direction (a step of 1 is as long as the weights)"
    assert words["loss"].startswith(f"lowest {record['minimum']:.6f} at ")
    assert f"highest {record['maximum']:.6f}" in words["loss"]
    assert words["exact"].startswith(f"{record['breakpoints']} breakpoints; the slope rises ")
    for name in ("landscape.png", "landscape.npz", "result.json"):
        assert name in words["files"]
        assert (path / name).stat().st_size > 500
    [line] = finished.err.splitlines()
    assert line.startswith("Dask dashboard: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "module", "name", "examples"),
    [
        (["landscape", "--dims", 1], "flow", "loss", lambda data: data),
        (["panels"], "panels_flow", "line", lambda data: sampled(data, 1, 4)),
    ],
)
def test_interrupted_slice_prints_the_command_that_resumes_it(
    user: User,
    hinge: Command,
    store: Path,
    data: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[object],
    module: str,
    name: str,
    examples: Callable[[Data], Data],
) -> None:
    def interrupt(*_given: object) -> None:
        raise KeyboardInterrupt

    scheduler = ("--scheduler", user.scheduler)
    with monkeypatch.context() as patched:
        patched.setattr(f"flows.landscape.{module}.save_results", interrupt)
        finished = hinge(*given, "--store", store, "--points", 3, "--seed", 4, *scheduler)
    assert (finished.status, finished.out) == (130, ""), finished.err
    [run] = (tmp_path / "runs").iterdir()
    assert json.loads((run / "result.json").read_text())["status"] == "interrupted"
    assert left(run) == {"result.json", ".lock"}
    told = finished.err.splitlines()[-1]
    assert told.startswith(f"hinge: interrupted; `hinge {given[0]} ")
    assert told.endswith("` resumes it")
    program, *typed = shlex.split(told.split("`")[1])
    assert program == "hinge"
    resumed = hinge(*typed, *scheduler, "--json")
    assert resumed.status == 0, resumed.err
    assert resumed.result["status"] == "done"
    W, arrays = normal(4), arrays_of(tmp_path / "runs", resumed.result)
    assert arrays["a"].tolist() == [-1, 0, 1]
    assert_line_losses(arrays[name], arrays["a"], (W, direction(4, 0, W)), examples(data))
    again = hinge(*typed, "--json")  # the run is finished, so no cluster is started
    assert (again.status, again.err) == (0, "")
    assert again.result == resumed.result


@pytest.mark.parametrize("command", ["landscape", "panels"])
def test_command_plans_its_run_once(
    user: User, hinge: Command, store: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    planned, plan = list[str](), RunKind.plan

    def counting(kind: Any, *given: Any, **options: Any) -> Any:
        planned.append(kind.command)
        return plan(kind, *given, **options)

    monkeypatch.setattr(RunKind, "plan", counting)
    given = ("--store", store, "--scheduler", user.scheduler, "--points", 3, "--json")
    finished = hinge(command, *given)
    assert finished.status == 0, finished.err
    assert planned == [command]
    again = hinge(command, "--store", store, "--resume", finished.result["run"], "--json")
    assert again.result == finished.result
    assert planned == [command] * 2


@pytest.mark.slow
def test_slice_is_a_flow_run_with_tasks_table_and_figure(
    landscape: Any, user: User, tmp_path: Path
) -> None:
    result = landscape("--json", "--points", 3).result
    with user.settings(), get_client(sync_client=True) as client:
        flow_run = flow_run_of(client, tmp_path / "runs")
        name = "landscape 2d random around normal:1e-3 seed 0"
        assert (flow_run.name, flow_run.state.type) == (name, "COMPLETED")
        tasks = ["directions", "plane", "save results"]
        assert task_runs_of(client, flow_run, 3) == dict.fromkeys(tasks, "COMPLETED")
        shown = artifacts_of(client, flow_run)
    assert shown.keys() == {f"landscape-2-synthetic-{name}" for name in ("run", "result", "loss")}
    assert all(result["run"] in artifact.description for artifact in shown.values())
    table = {
        row["result"]: row["value"]
        for row in json.loads(shown["landscape-2-synthetic-result"].data)
    }
    assert (table["points"], table["minimum"]) == (9, result["minimum"])
    assert shown["landscape-2-synthetic-loss"].data.startswith("![")


# Refusals and failures.


@pytest.fixture
def kept(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the runs that the tested options name. Most of them are unusable.

    * train-kept: usable
    * train-shape: weights of another shape
    * train-begun: not finished, without weights
    * train-foreign: on other data
    * train-old: parameters that cannot be read
    * search-best: a run of another command
    * train-short: one step of gradient descent
    * train-brief: at most one iteration of L-BFGS
    * panels-old: an interrupted run of an earlier version's panels command
    """
    monkeypatch.chdir(tmp_path)
    runs, data = tmp_path / "runs", plain(open_dataset(str(store)).summary())
    header = {
        "command": "train",
        "status": "done",
        "data": data,
        "started": "2026-11-26T18:25:04+00:00",
        "versions": {"hinge": "0.1.0"},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
        "parameters": asdict(GradientDescent(steps=5)),
    }

    def keep(name: str, W: Floats | None, **record: Any) -> None:
        run = RunDirectory(runs / name)
        run.path.mkdir(parents=True)
        run.write_document({**header, "run": name, **record})
        if W is not None:
            run.write_weights(W)

    W, ended = normal(0), {"weights_sha256": "0" * 64}
    keep("train-kept", W, **ended)
    keep("train-shape", np.zeros((3, 3073)), **ended)
    keep("train-begun", None, status="interrupted")
    keep("train-foreign", W, data=data | {"fingerprint": "0" * 64}, **ended)
    keep("train-old", W, parameters={"steps": 5}, **ended)
    keep("search-best", W, command="search random", **ended)
    keep("train-short", W, parameters=asdict(GradientDescent(steps=1)), **ended)
    keep("train-brief", W, parameters=asdict(LBFGS(steps=1)), **ended)
    keep("panels-old", None, command="landscape --panels", status="interrupted")
    return runs


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("landscape --store STORE --points 1", ["2 to 2,000 points", "not 1"]),
        ("landscape --store STORE --points 0", ["2 to 2,000 points", "not 0"]),
        ("landscape --store STORE --points 2001", ["2,000", "2,001"]),
        ("landscape --store STORE --points 100001 --dims 1", ["100,000", "100,001"]),
        ("landscape --store STORE --points many", ["--points", "many"]),
        ("landscape --store STORE --extent nan", ["extent", "nan"]),
        ("landscape --store STORE --extent -1", ["extent", "-1"]),
        ("landscape --store STORE --extent 0", ["extent", "positive", "not 0"]),
        ("landscape --store STORE --extent inf", ["extent", "inf"]),
        ("landscape --store STORE --extent 1e16", ["1e+15"]),
        ("landscape --store STORE --dims 3", ["1 or 2 dimensions", "3"]),
        ("landscape --store STORE --dims 0", ["1 or 2 dimensions", "0"]),
        ("landscape --store STORE --examples 0", ["at least 1", "'0'"]),
        ("landscape --store STORE --examples first:0", ["at least 1", "first:0"]),
        ("landscape --store STORE --examples -5", ["examples", "-5"]),
        ("landscape --store STORE --examples few", ["examples", "few"]),
        ("landscape --store STORE --examples 601", ["601 of 600"]),
        ("landscape --store STORE --examples first:601", ["601 of 600"]),
        ("landscape --store STORE --around train-1970", ["no run 'train-1970'"]),
        ("landscape --store STORE --around normal:-1", ["normal:-1"]),
        ("landscape --store STORE --around train-shape", ["(3, 3073)", "(10, 3073)"]),
        ("landscape --store STORE --around train-begun", ["train-begun", "no weights"]),
        ("landscape --store STORE --directions train-1970,random", ["no run 'train-1970'"]),
        ("landscape --store STORE --directions train-shape,random", ["(3, 3073)", "(10, 3073)"]),
        ("landscape --store STORE --directions train-begun,random", ["train-begun", "no weights"]),
        ("landscape --store STORE --directions train-kept,train-kept", ["differ"]),
        ("landscape --store STORE --directions gradient,gradient", ["differ"]),
        ("landscape --store STORE --directions train-kept", ["2 of these", "'train-kept'"]),
        (
            "landscape --store STORE --directions random,random,random",
            ["2 of these", "random,random,"],
        ),
        ("landscape --store STORE --directions train-kept, ", ["2 of these"]),
        (
            "landscape --store STORE --around train-kept --directions train-kept,random",
            ["the same weights as the middle"],
        ),
        ("landscape --store STORE --dims 1 --directions random,gradient", ["1 of these"]),
        ("landscape --store STORE --reg -1", ["regulariser", "-1"]),
        ("landscape --store STORE --reg nan", ["regulariser", "nan"]),
        ("landscape --store STORE --reg inf", ["regulariser", "inf"]),
        (f"landscape --store STORE --seed {2**64}", ["seed", str(2**64)]),
        ("landscape --store STORE --seed -1", ["--seed", "-1"]),
        ("landscape --store STORE --path train-1970", ["no run 'train-1970'"]),
        ("landscape --store STORE --path search-best", ["search-best", "hinge train"]),
        ("landscape --store STORE --path train-begun", ["train-begun", "finished"]),
        ("landscape --store STORE --path train-foreign", ["train-foreign", "other data"]),
        ("landscape --store STORE --path train-old", ["train-old", "parameters"]),
        ("landscape --store STORE --path train-short", ["train-short", "one step"]),
        ("landscape --store STORE --path train-brief", ["train-brief", "one step"]),
        ("landscape --store STORE --path train-shape", ["(3, 3073)", "(10, 3073)"]),
        ("landscape --store STORE --path train-kept --directions gradient", ["--directions"]),
        ("landscape --store STORE --path train-kept --dims 1", ["--dims"]),
        ("landscape --store STORE --path train-kept --around zeros", ["--around"]),
        ("landscape --store STORE --path train-kept --reg 1", ["--reg"]),
        ("panels --store STORE --dims 2", ["--dims"]),
        ("panels --store STORE --examples 5", ["--examples"]),
        ("panels --store STORE --directions gradient", ["--directions"]),
        ("panels --store STORE --path train-kept", ["--path"]),
        ("panels --store STORE --points 1", ["not 1"]),
        ("panels --store STORE --points 2001", ["2,000", "2,001"]),
        ("panels --store STORE --extent nan", ["extent", "nan"]),
        ("panels --store STORE --around train-shape", ["(3, 3073)"]),
        (f"panels --store STORE --seed {2**64}", ["seed"]),
        ("three-points --store STORE", ["--store"]),
        ("landscape --store STORE --panels", ["--panels"]),
        ("landscape --three-points", ["--three-points"]),
        ("three-points --seed 1", ["--seed"]),
        ("three-points --points 5", ["--points"]),
        ("three-points --resume train-kept", ["--resume"]),
        ("landscape", ["--store", "hinge landscape --help"]),
        ("panels", ["--store", "hinge panels --help"]),
        ("landscape --store nothing.zarr", ["nothing.zarr", "ingest"]),
        ("landscape --store STORE --resume landscape-1970", ["no run 'landscape-1970'"]),
        ("landscape --store STORE --resume train-kept --points 5", ["--points", "resumed"]),
        ("landscape --store STORE --resume search-best", ["search-best"]),
        (
            "landscape --store STORE --resume panels-old",
            ["not a run of `hinge landscape`", "`hinge panels`"],
        ),
        (
            "landscape --store STORE --workers 1 --scheduler tcp://127.0.0.1:9",
            ["--workers", "--scheduler"],
        ),
    ],
    ids=str,
)
def test_invalid_options_are_refused_and_change_nothing(
    hinge: Command, store: Path, kept: Path, given: str, words: list[str]
) -> None:
    runs = {name: left(kept / name) for name in left(kept)}
    typed = [str(store) if word == "STORE" else word for word in given.split(" ") if word]
    refused(hinge(*typed), *words)
    assert {name: left(kept / name) for name in left(kept)} == runs
    assert os.listdir() == ["runs"]  # noqa: PTH208 (names)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--around", "normal:1e200"], "not finite"),
        pytest.param(
            ["--around", "normal:1e200", "--directions", "gradient"],
            "not finite",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--around", "normal:1e3", "--reg", "1e308"],
            "not finite",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_failure_during_a_run_prints_one_line(
    user: User, hinge: Command, store: Path, kept: Path, given: list[object], words: str
) -> None:
    before = left(kept)
    scheduler = ("--scheduler", user.scheduler, "--points", 3)
    late(hinge("landscape", "--store", store, *given, *scheduler), words)
    [name] = left(kept) - before
    record = json.loads((kept / name / "result.json").read_text())
    assert record["status"] == "failed"
    assert words in record["error"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # a value out of bounds
        (lambda record: record["parameters"].update(points=1), ["points"]),
        # a missing parameter
        (lambda record: record["parameters"].pop("dims"), ["dims"]),
        # a value that JSON cannot represent
        (lambda record: record["parameters"].update(extent=math.inf), ["parameters"]),
    ],
)
def test_damaged_record_cannot_be_resumed(
    hinge: Command,
    store: Path,
    kept: Path,
    change: Callable[[dict[str, Any]], object],
    words: list[str],
) -> None:
    parameters = {"dims": 2, "examples": "all", "around": "zeros", "directions": "random",
                  "extent": None, "points": 3, "path": None, "reg": 0.0, "seed": 0}  # fmt: skip
    begun = kept / "train-kept"
    edit(begun, lambda record: record.update(command="landscape", parameters=parameters))
    edit(begun, lambda record: record.update(status="interrupted", started="2026-01-01"))
    edit(begun, change)
    before = (begun / "result.json").read_text()
    refused(hinge("landscape", "--store", store, "--resume", begun.name), begun.name, *words)
    assert (begun / "result.json").read_text() == before
