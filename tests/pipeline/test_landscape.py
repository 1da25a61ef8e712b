"""Slices of the loss: their parameters and the directions of their axes."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from pipeline.cluster.map_shards import run_in_process
from pipeline.inputs.errors import PipelineError
from pipeline.landscape.axes import Axis, AxisSummary, gradient_axis, random_axis, run_axis
from pipeline.landscape.parameters import Landscape, Panels, check_grid
from pipeline.objective import Objective
from storage.dataset import Dataset
from tests.bits import bits
from tests.pipeline.conftest import Store
from tests.pipeline.test_line import resident_shards, single_shard

Floats = NDArray[np.float64]
Rows = NDArray[np.int64] | None

DIRECTIONS_2 = (
    "directions must be `random`, `gradient`, or 2 of these or of different runs (one per "
    "dimension), separated by commas, not "
)
DIRECTIONS_1 = DIRECTIONS_2.replace("or 2", "or 1")
OWN_PLANE = (
    "--path determines the plane and the loss; leave out --dims, --around, --directions and --reg"
)
EXAMPLES = (
    "examples must be `all`, a number of images to sample, or `first:N`, with numbers of at least "
    "1, not "
)
EXTENT = "the extent must be a positive number, at most 1e+15, not "
# fmt: off
INVALID = [
    ({"examples": "none"}, EXAMPLES + "'none'"),
    ({"examples": "first:0"}, EXAMPLES + "'first:0'"),
    ({"dims": 0}, "a slice must have 1 or 2 dimensions, not 0"),
    ({"dims": 3}, "a slice must have 1 or 2 dimensions, not 3"),
    ({"dims": -1, "points": 1}, "a slice must have 1 or 2 dimensions, not -1"),
    ({"points": 1}, "an axis must have from 2 to 2,000 points, not 1"),
    ({"points": -5}, "an axis must have from 2 to 2,000 points, not -5"),
    ({"points": 2001}, "an axis must have from 2 to 2,000 points, not 2,001"),
    ({"dims": 1, "points": 1}, "an axis must have from 2 to 100,000 points, not 1"),
    ({"dims": 1, "points": 100_001}, "an axis must have from 2 to 100,000 points, not 100,001"),
    ({"extent": 0.0}, EXTENT + "0.0"),
    ({"extent": -1.0}, EXTENT + "-1.0"),
    ({"extent": 1.1e15}, EXTENT + "1100000000000000.0"),
    ({"extent": math.inf}, EXTENT + "inf"),
    ({"extent": math.nan}, EXTENT + "nan"),
    ({"reg": -0.5}, "the regulariser must be a non-negative number, not -0.5"),
    ({"reg": math.inf}, "the regulariser must be a non-negative number, not inf"),
    ({"reg": math.nan}, "the regulariser must be a non-negative number, not nan"),
    ({"seed": -1}, "the seed must be from 0 to 2^64 - 1, not -1"),
    ({"seed": 2**64}, "the seed must be from 0 to 2^64 - 1, not 18446744073709551616"),
    # directions: none, too few, too many, an empty name, the same direction twice
    ({"directions": ""}, DIRECTIONS_2 + "''"),
    ({"directions": "a-run"}, DIRECTIONS_2 + "'a-run'"),
    ({"directions": "random,gradient,random"}, DIRECTIONS_2 + "'random,gradient,random'"),
    ({"directions": "random,"}, DIRECTIONS_2 + "'random,'"),
    ({"directions": ",a-run"}, DIRECTIONS_2 + "',a-run'"),
    ({"directions": "a-run, a-run"}, DIRECTIONS_2 + "'a-run, a-run'"),
    ({"directions": "gradient,gradient"}, DIRECTIONS_2 + "'gradient,gradient'"),
    ({"dims": 1, "directions": "random,gradient"}, DIRECTIONS_1 + "'random,gradient'"),
    ({"dims": 1, "directions": " "}, DIRECTIONS_1 + "' '"),
    # options that do not apply to a path
    ({"path": "a-run", "dims": 1}, OWN_PLANE),
    ({"path": "a-run", "around": "zeros"}, OWN_PLANE),
    ({"path": "a-run", "directions": "gradient"}, OWN_PLANE),
    ({"path": "a-run", "directions": "nonsense,"}, OWN_PLANE),
    ({"path": "a-run", "points": 1}, "an axis must have from 2 to 2,000 points, not 1"),
]
# fmt: on


@pytest.mark.parametrize(("given", "message"), INVALID)
def test_invalid_parameters_raise_pipeline_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Landscape(**given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"points": 2, "extent": 5e-324, "examples": "1"},
        {"points": 2000, "extent": 1e15, "seed": 2**64 - 1, "reg": 1.7e308},
        {"dims": 1, "points": 100_000, "examples": "first:1"},
        {"path": "a-run", "points": 2000, "extent": 3.0, "examples": "10"},
    ],
)
def test_parameters_at_their_limits_are_valid(given: dict[str, Any]) -> None:
    Landscape(**given)


@pytest.mark.parametrize(
    ("dims", "directions", "each"),
    [
        (1, "random", ["random"]),
        (2, "random", ["random", "random"]),
        (1, "gradient", ["gradient"]),
        (2, "gradient", ["gradient", "random"]),
        (2, "random,random", ["random", "random"]),
        (2, "random , gradient", ["random", "gradient"]),
        (1, " a-run ", ["a-run"]),
        (2, "a-run,random", ["a-run", "random"]),
        (2, "a-run, another/run", ["a-run", "another/run"]),
    ],
)
def test_each_dimension_gets_its_direction(dims: int, directions: str, each: list[str]) -> None:
    assert Landscape(dims=dims, directions=directions).each_direction() == each


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"points": 1}, "an axis must have from 2 to 2,000 points, not 1"),
        ({"points": 2001}, "an axis must have from 2 to 2,000 points, not 2,001"),
        ({"extent": math.nan}, EXTENT + "nan"),
        ({"reg": -0.5}, "the regulariser must be a non-negative number, not -0.5"),
        ({"seed": -1}, "the seed must be from 0 to 2^64 - 1, not -1"),
    ],
)
def test_invalid_panel_parameters_raise_pipeline_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Panels(**given)
    assert str(caught.value) == message


def test_check_grid_limits_the_number_of_points() -> None:
    check_grid(2, None, 2)
    with pytest.raises(PipelineError, match="an axis must have from 2 to 5 points, not 6"):
        check_grid(6, None, 5)


# Axes.

ENDS = st.floats(1e-12, 1e12)


def axis(low: float, high: float, points: int) -> Axis:
    return Axis(np.ones((2, 3)), "hand-worked", low, high, points)


@given(extent=ENDS, points=st.integers(2, 300))
def test_steps_of_a_symmetric_axis_are_symmetric_bit_for_bit(extent: float, points: int) -> None:
    steps = axis(-extent, extent, points).steps
    assert len(steps) == points
    assert (steps[0], steps[-1]) == (-extent, extent)
    assert (steps == -steps[::-1]).all()
    assert (0.0 in steps) == (points % 2 == 1)
    np.testing.assert_allclose(np.diff(steps), 2 * extent / (points - 1), rtol=1e-9)


@given(ends=st.lists(st.floats(-3, 3), min_size=2, max_size=2), points=st.integers(2, 300))
def test_steps_of_an_asymmetric_axis_are_evenly_spaced(ends: list[float], points: int) -> None:
    low, high = min(ends), max(ends) + 0.01
    steps = axis(low, high, points).steps
    assert len(steps) == points
    assert (np.diff(steps) > 0).all()
    np.testing.assert_allclose(steps, np.linspace(low, high, points), rtol=0, atol=1e-15)
    assert steps[0] == low


def test_last_step_of_an_asymmetric_axis_is_its_high_end() -> None:
    assert axis(-2.0, -0.9, 12).steps[-1] == -0.9


def test_summary_describes_the_axis() -> None:
    expected = AxisSummary(label="hand-worked", low=-1.0, high=2.0, length=math.sqrt(6))
    assert axis(-1.0, 2.0, 5).summary() == expected


# Random directions.


def some_weights() -> Floats:
    W = np.random.default_rng(4).normal(0, 1e-3, (10, 3073))
    W[:, -1] *= 100
    return W


def random_direction(W: Floats, seed: int, number: int) -> Floats:
    """Return the random direction, drawn with NumPy only."""
    sequence = np.random.SeedSequence(seed, spawn_key=(8, number))
    normals = np.random.Generator(np.random.Philox(sequence)).standard_normal(W.shape)
    return np.asarray(normals / math.sqrt(np.sum(normals**2)) * math.sqrt(np.sum(W**2)))


@pytest.mark.parametrize(("seed", "number"), [(0, 0), (0, 1), (5, 0), (2**64 - 1, 1)])
def test_random_direction_is_as_long_as_the_weights(seed: int, number: int) -> None:
    W = some_weights()
    found = random_axis(W, seed, number, None, 11)
    np.testing.assert_allclose(found.direction, random_direction(W, seed, number), rtol=1e-12)
    assert np.linalg.norm(found.direction) == pytest.approx(np.linalg.norm(W), rel=1e-12)
    assert (found.low, found.high, found.points) == (-1.0, 1.0, 11)
    assert found.label == "random direction (a step of 1 is as long as the weights)"
    again = random_axis(W, seed, number, 3.0, 7)
    assert bits(again.direction) == bits(found.direction)
    assert (again.low, again.high, again.points) == (-3.0, 3.0, 7)


def test_random_directions_differ_by_number_and_seed() -> None:
    W = some_weights()
    found = [
        random_axis(W, seed, number, None, 2).direction.ravel() / np.linalg.norm(W)
        for seed in (0, 1)
        for number in (0, 1)
    ]
    cosines = np.array([[a @ b for b in found] for a in found])
    # the cosine of two random directions is about 1 / sqrt(30,730) = 0.006
    np.testing.assert_allclose(cosines, np.eye(4), atol=0.03)


def test_random_direction_at_zero_weights_has_a_default_length() -> None:
    found = random_axis(np.zeros((10, 3073)), 0, 0, None, 2)
    assert np.linalg.norm(found.direction) == pytest.approx(1e-3 * math.sqrt(30_730), rel=1e-12)
    assert found.label == "random direction (a step of 1 is of length 0.175)"


# Axes along the gradient.


class LineInNumpy:
    """The regularised loss along a line, in NumPy."""

    def __init__(self, dataset: Dataset, W: Floats, V: Floats, rows: Rows, reg: float) -> None:
        images, labels = dataset.read("train", 0, dataset.rows("train"))
        chosen = np.arange(len(labels)) if rows is None else rows
        X = np.column_stack([images - dataset.mean, np.ones(len(labels))])[chosen]
        self.scores, self.gains = X @ W.T, X @ V.T
        self.own = np.eye(10, dtype=bool)[labels[chosen]]
        self.W, self.V, self.reg = W[:, :-1], V[:, :-1], reg

    def __call__(self, a: float) -> float:
        scores = self.scores + a * self.gains
        margins = np.maximum(0, scores - scores[self.own][:, None] + 1)
        hinge = margins[~self.own].sum() / len(scores)
        return float(hinge + self.reg * ((self.W + a * self.V) ** 2).sum())


def assert_lowest_at_1(loss: LineInNumpy) -> None:
    """Compare with the minimum found by SciPy. A flat minimum must have its left end at 1."""
    found = minimize_scalar(
        lambda a, *_: loss(float(a)), bounds=(0.0, 4.0), method="bounded", options={"xatol": 1e-9}
    )
    assert loss(1.0) <= found.fun + 1e-13 * loss(0.0)
    assert loss(1.0) < min(loss(1 - 1e-6), loss(0.0))
    assert found.x >= 1 - 1e-6


SOME = np.random.default_rng(8).integers(0, 600, 250)


@pytest.mark.parametrize("rows", [None, SOME, np.array([411])], ids=["all", "some", "one"])
@pytest.mark.parametrize("reg", [0.0, 2e3])
def test_step_1_of_the_gradient_axis_is_the_lowest_loss(
    store: Store, rows: Rows, reg: float
) -> None:
    dataset, W = store(151, "synthetic:600"), some_weights()
    objective = Objective(run_in_process(resident_shards(dataset)), dataset.mean, reg, "float64")
    found = gradient_axis(objective, W, rows, None, 11)
    assert_lowest_at_1(LineInNumpy(dataset, W, found.direction, rows, reg))
    gradient = objective(W, rows).gradient
    step = np.linalg.norm(found.direction) / np.linalg.norm(gradient)
    np.testing.assert_allclose(found.direction, -step * gradient, rtol=1e-12)
    assert (found.low, found.high, found.points) == (-2.0, 2.0, 11)
    assert found.label == (
        f"negative gradient (1 is the lowest loss along it, at step size {step:.3g})"
    )
    cut = gradient_axis(
        replace(objective, map_shards=run_in_process(single_shard(dataset))), W, rows, 0.5, 3
    )
    assert bits(cut.direction) == bits(found.direction)
    assert (cut.low, cut.high, cut.points) == (-0.5, 0.5, 3)


@pytest.mark.parametrize("factor", [0.999, 1.001, -1.0])
def test_wrong_step_of_the_gradient_axis_is_detected(store: Store, factor: float) -> None:
    dataset, W = store(151, "synthetic:600"), some_weights()
    objective = Objective(run_in_process(resident_shards(dataset)), dataset.mean, 2e3, "float64")
    found = gradient_axis(objective, W, None, None, 11)
    with pytest.raises(AssertionError):
        assert_lowest_at_1(LineInNumpy(dataset, W, factor * found.direction, None, 2e3))


def test_gradient_axis_over_other_rows_is_detected(store: Store) -> None:
    """The check of the lowest loss would not detect wrong rows if these directions were equal."""
    dataset, W = store(151, "synthetic:600"), some_weights()
    objective = Objective(run_in_process(resident_shards(dataset)), dataset.mean, 0.0, "float64")
    found = [gradient_axis(objective, W, rows, None, 3).direction for rows in (None, SOME)]
    with pytest.raises(AssertionError):
        assert_lowest_at_1(LineInNumpy(dataset, W, found[0], SOME, 0.0))
    assert_lowest_at_1(LineInNumpy(dataset, W, found[1], SOME, 0.0))


def separating_weights(label: int) -> Floats:
    """Return weights at which all images of one class have zero loss and zero gradient."""
    W = np.zeros((10, 3073))
    W[label, -1] = 2.0
    return W


def test_zero_gradient_raises_pipeline_error(store: Store) -> None:
    dataset = store(151, "synthetic:600")
    objective = Objective(run_in_process(resident_shards(dataset)), dataset.mean)
    _, labels = dataset.read("train", 0, 600)
    own, other = (np.flatnonzero(chosen) for chosen in (labels == 3, labels != 3))
    with pytest.raises(PipelineError) as caught:
        gradient_axis(objective, separating_weights(3), own, None, 3)
    assert str(caught.value) == (
        "the loss does not fall along the negative gradient at these weights; choose other "
        "weights with --around, or use random directions"
    )
    gradient_axis(objective, separating_weights(3), other, None, 3)  # the others' loss falls


@pytest.mark.parametrize(
    ("scale", "reg", "message"),
    [
        (1e30, 0.0, "the loss at these weights is not finite; use smaller weights"),
        (1e100, 1e200, "the loss at these weights is not finite; use smaller weights"),
        (1e10, 1e60, "cannot find the lowest loss along the gradient: "),
    ],
)
def test_loss_out_of_range_raises_pipeline_error(
    store: Store, scale: float, reg: float, message: str
) -> None:
    dataset = store(151, "synthetic:600")
    objective = Objective(run_in_process(resident_shards(dataset)), dataset.mean, reg)
    with pytest.raises(PipelineError, match=f"^{message}"):
        gradient_axis(objective, scale * some_weights(), None, None, 3)


# Axes towards a run.


def test_step_1_of_a_run_axis_is_at_the_weights_of_the_run() -> None:
    W, end = some_weights(), some_weights()[::-1].copy()
    found = run_axis(W, end, "train-7", None, 11)
    np.testing.assert_allclose(W + found.direction, end, rtol=0, atol=1e-16)
    assert (found.low, found.high, found.points) == (-1.5, 1.5, 11)
    assert found.label == "towards train-7 (its weights are at 1)"
    assert run_axis(W, end, "train-7", 4.0, 3).steps.tolist() == [-4.0, 0.0, 4.0]


def test_run_with_the_weights_in_the_middle_raises_pipeline_error() -> None:
    with pytest.raises(PipelineError) as caught:
        run_axis(some_weights(), some_weights(), "train-7", None, 11)
    assert str(caught.value) == "run train-7 has the same weights as the middle; name another run"
    almost = some_weights()
    almost[9, 3072] = np.nextafter(almost[9, 3072], 1)
    assert np.count_nonzero(run_axis(some_weights(), almost, "train-7", None, 11).direction) == 1
