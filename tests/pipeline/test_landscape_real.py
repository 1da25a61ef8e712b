"""Slices of the loss over the real CIFAR-10: points, breakpoints and reproducibility."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray

from pipeline.cluster.connect import connect
from pipeline.cluster.map_shards import MapShards, sum_over_shards
from pipeline.cluster.placement import PlacedDataset
from pipeline.cluster.tasks import map_in_tasks
from pipeline.inputs.weights import InitialWeights
from pipeline.landscape.axes import Axis, gradient_axis, random_axis
from pipeline.landscape.parameters import AROUND
from pipeline.objective import Objective
from pipeline.slices.line import LineRequest, LossAlongLine, line_losses, line_slopes
from pipeline.slices.plane import LossOverPlane, PlaneRequest, plane_losses
from storage.dataset import Dataset
from tests.pipeline.conftest import Store
from tests.pipeline.test_line import function_bits

pytestmark = [pytest.mark.real, pytest.mark.slow]

Floats = NDArray[np.float64]
W = InitialWeights.parse(AROUND).weights(10, 0)
POINTS = 21


def map_all_shards(client: Client, dataset: Dataset) -> MapShards:
    return map_in_tasks(client, PlacedDataset(client, dataset).shards("train"))


@contextmanager
def tasks(dataset: Dataset, workers: int) -> Iterator[MapShards]:
    with connect(workers=workers) as client:
        yield map_all_shards(client, dataset)


@pytest.fixture(name="dataset")
def all_images(store: Store, real_cifar10: Path) -> Dataset:
    dataset = store(7001, real_cifar10)
    assert (dataset.name, dataset.rows("train")) == ("cifar10", 50_000)
    return dataset


def axes(objective: Objective) -> tuple[Axis, Axis]:
    """Return the axes of `hinge landscape --directions gradient`."""
    return (
        gradient_axis(objective, W, None, None, POINTS),
        random_axis(W, 0, 1, None, POINTS),
    )


def separate_loss(
    map_shards: MapShards, dataset: Dataset, at: Floats, dtype: str, reg: float = 0.0
) -> float:
    value = Objective(map_shards, dataset.mean, reg, dtype)(at)
    assert value.rows == 50_000
    return value.loss


@pytest.mark.parametrize("reg", [0.0, 1e3])
def test_plane_losses_match_separate_evaluations(
    client: Client, dataset: Dataset, reg: float
) -> None:
    map_shards = map_all_shards(client, dataset)
    objective = Objective(map_shards, dataset.mean, reg, "float64")
    first, second = axes(objective)
    losses = LossOverPlane(objective, W, first.direction, second.direction)(
        first.steps, second.steps
    )
    assert losses.shape == (POINTS, POINTS)
    corners = [0, POINTS - 1, POINTS * (POINTS - 1), POINTS**2 - 1, POINTS**2 // 2]
    others = np.random.default_rng(5).choice(POINTS**2, 7, replace=False)
    for place in [*corners, *others.tolist()]:
        k, j = divmod(place, POINTS)
        at = W + first.steps[j] * first.direction + second.steps[k] * second.direction
        double, single = (
            separate_loss(map_shards, dataset, at, each, reg) for each in ("float64", "float32")
        )
        assert losses[k, j] == pytest.approx(double, rel=1e-12, abs=0)
        assert losses[k, j] == pytest.approx(single, rel=1e-5, abs=0)
    assert losses[POINTS // 2].argmin() == 15  # a = 1, the lowest loss along the gradient


def test_function_along_the_gradient_matches_the_loss(client: Client, dataset: Dataset) -> None:
    map_shards = map_all_shards(client, dataset)
    objective = Objective(map_shards, dataset.mean, 0.0, "float64")
    axis, _ = axes(objective)
    line = LossAlongLine(objective, W, axis.direction)
    function = line.function(axis.low, axis.high)
    assert 100_000 < function.breakpoints <= 450_000
    assert (np.diff(function.positions) >= 0).all()
    assert (np.diff(function.slopes) >= 0).all()
    chosen = np.random.default_rng(5).choice(len(function.positions), 200, replace=False)
    places, values = function.positions[chosen], function.values[chosen]
    np.testing.assert_allclose(values, line(places), rtol=1e-12)
    for place, value in zip(places[:12].tolist(), values[:12].tolist(), strict=True):
        at = W + place * axis.direction
        assert value == pytest.approx(
            separate_loss(map_shards, dataset, at, "float64"), rel=1e-12, abs=0
        )
    at, lowest = function.minimum
    assert at == line.minimum().step_size == pytest.approx(1.0, rel=1e-12)
    assert lowest == pytest.approx(min(line(axis.steps)), rel=1e-12, abs=0)  # 1 is one of the steps


def integers(map_shards: MapShards, dataset: Dataset) -> dict[str, Any]:
    """Return the integer sums of a line and a plane, and a digest of the exact function."""
    objective = Objective(map_shards, dataset.mean, 0.0, "float64")
    first, second = axes(objective)
    plane = LossOverPlane(objective, W, first.direction, second.direction)
    points = PlaneRequest(plane._scorers, None, first.steps, second.steps)
    line = LossAlongLine(objective, W, first.direction)
    steps = LineRequest(*line._scorers, first.steps)
    function = line.function(first.low, first.high)
    found = sum_over_shards(map_shards, plane_losses, points)
    return {
        "rows": found.rows,
        "plane": (found.limbs.tolist(), found.overflows.tolist()),
        "losses": sum_over_shards(map_shards, line_losses, steps),
        "slopes": sum_over_shards(map_shards, line_slopes, steps),
        "function": function_bits(function),
    }


def test_integer_sums_do_not_depend_on_the_number_of_workers(
    client: Client, dataset: Dataset
) -> None:
    expected = integers(map_all_shards(client, dataset), dataset)
    assert expected["rows"] == 50_000
    for workers in (1, 4):
        with tasks(dataset, workers) as map_shards:
            assert integers(map_shards, dataset) == expected
