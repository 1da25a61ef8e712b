"""The path of a run, whose snapshots are the run's own weights, and the plane of a path."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray

from pipeline.cluster.placement import PlacedDataset
from pipeline.inputs.errors import PipelineError
from pipeline.training import trajectory as trajectories
from pipeline.training.descent import DescentState
from pipeline.training.parameters import PassParameters, StepPlacement
from pipeline.training.quasi_newton import preconditioner
from pipeline.training.steps import TakeSteps, train
from pipeline.training.trajectory import SNAPSHOTS, PathPlane, Trajectory, path_plane, trajectory
from storage.dataset import Dataset
from tests.bits import bits
from tests.pipeline.conftest import Store
from tests.pipeline.runs import StepRun, parameters, reference_run
from tests.pipeline.test_quasi_newton import PLAIN, SMOOTHED, run

Floats = NDArray[np.float64]

RUNS = {
    "gd": parameters("gd"),
    "gd with momentum": parameters("gd with momentum", steps=7),
    "samples": parameters("samples"),
    "epochs": parameters("epochs", batch_size=200),
}


@pytest.fixture(scope="module")
def dataset(store: Store) -> Dataset:
    return store(150, "synthetic:600")


@pytest.fixture(scope="module")
def placed_dataset(cluster: Client, dataset: Dataset) -> Iterator[PlacedDataset]:
    placed = PlacedDataset(cluster, dataset)
    yield placed
    placed.close()


def repeat_run(placed_dataset: PlacedDataset, wanted: StepRun | PassParameters) -> Trajectory:
    """Repeat a run, and check its snapshots against its reports."""
    reported = list[int]()
    path = trajectory(placed_dataset, wanted, reported.append)
    assert path.steps.tolist() == [0, *reported]
    assert path.weights.shape == (len(path.steps), 10, 3073)
    assert bits(path.weights[0]) == bits(wanted.first_weights(10))
    return path


def with_steps(wanted: StepRun, steps: int) -> StepRun:
    """Return the same run with another number of steps."""
    return replace(wanted, epochs=None, steps=steps)


# Gradient descent and mini-batches.


def shorter_runs(dataset: Dataset, wanted: StepRun, path: Trajectory) -> list[str]:
    """Return the weights of reference runs that end at the snapshots."""
    if wanted.epochs is None:
        ends = [with_steps(wanted, step) for step in path.steps[1:].tolist()]
    else:  # a run with `steps` draws uniform samples, so only whole epochs can be compared
        ends = [replace(wanted, epochs=epochs + 1) for epochs in range(wanted.epochs)]
    return [bits(reference_run(dataset, end).W) for end in ends]


def assert_path_of_shorter_runs(path: Trajectory, wanted: StepRun, dataset: Dataset) -> None:
    found = [bits(W) for W in path.weights[1:]]
    assert found == shorter_runs(dataset, wanted, path)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("placement", [StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER])
@pytest.mark.parametrize(
    ("kind", "snapshots", "steps"),
    [
        ("gd", 60, [0, 1, 2, 3, 4, 5, 6]),
        ("gd with momentum", 3, [0, 3, 6, 7]),  # the last interval is shorter
        ("samples", 5, [0, 3, 6, 9, 12]),
        ("epochs", 2, [0, 3, 6]),  # two epochs of 600 rows in batches of 200
        ("samples", 1, [0, 12]),
    ],
)
def test_snapshots_equal_the_weights_of_shorter_runs(
    placed_dataset: PlacedDataset,
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    snapshots: int,
    steps: list[int],
    placement: StepPlacement,
) -> None:
    monkeypatch.setattr(trajectories, "SNAPSHOTS", snapshots)
    wanted = replace(RUNS[kind], placement=placement)
    path = repeat_run(placed_dataset, wanted)
    assert path.steps.tolist() == steps
    assert_path_of_shorter_runs(path, wanted, dataset)
    assert bits(path.weights[-1]) == bits(reference_run(dataset, wanted).W)


@pytest.mark.parametrize("steps", [59, 60, 61, 119, 121])
def test_run_has_at_most_sixty_snapshots_at_equal_distances(
    placed_dataset: PlacedDataset, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    def skip_steps(take_steps: TakeSteps, *given: Any, **options: Any) -> DescentState:
        return train(lambda state, until: replace(state, step=until), *given, **options)

    monkeypatch.setattr(trajectories, "train", skip_steps)
    path = repeat_run(placed_dataset, with_steps(RUNS["gd"], steps))
    assert path.steps[-1] == steps
    apart = np.diff(path.steps)
    assert len(apart) <= SNAPSHOTS == 60
    assert len(apart) > SNAPSHOTS // 2 - 1
    assert len(set(apart[:-1].tolist())) == 1


def test_divergent_run_has_no_repeated_snapshot(
    placed_dataset: PlacedDataset, dataset: Dataset
) -> None:
    wanted = replace(RUNS["gd"], step_size=1e-2, placement=StepPlacement.ALL_WORKERS)
    path = repeat_run(placed_dataset, wanted)
    assert path.steps[-1] < 6
    assert len(set(path.steps.tolist())) == len(path.steps)


def test_lost_optimiser_state_is_detected(
    placed_dataset: PlacedDataset, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_without_memory(
        take_steps: TakeSteps, start: DescentState, *given: Any, **options: Any
    ) -> Any:
        def without_memory(state: DescentState, until: int) -> DescentState:
            return take_steps(replace(state, memory=start.memory), until)

        return train(without_memory, start, *given, **options)

    monkeypatch.setattr(trajectories, "SNAPSHOTS", 3)
    monkeypatch.setattr(trajectories, "train", train_without_memory)
    wanted = RUNS["gd with momentum"]
    with pytest.raises(AssertionError):
        assert_path_of_shorter_runs(repeat_run(placed_dataset, wanted), wanted, dataset)


# L-BFGS.


def assert_best_weights_so_far(
    path: Trajectory, wanted: PassParameters, dataset: Dataset, directory: Path
) -> None:
    """Compare the snapshots with runs that end at the same pass or iteration."""
    whole = run(dataset, wanted, directory / "whole")
    losses = whole.state.losses
    better = [n for n in range(len(losses)) if losses[n] < min(losses[:n], default=np.inf)]
    assert path.steps.tolist() == [0, *(n + 1 for n in better if n)]  # pass 1 evaluates the start
    assert bits(path.weights[-1]) == bits(whole.state.W)
    for steps in (1, 2, 7):
        shorter = run(dataset, replace(wanted, steps=steps), directory / f"{steps}")
        passes = len(shorter.state.losses)
        last = np.flatnonzero(path.steps <= passes)[-1]
        assert bits(path.weights[last]) == bits(shorter.state.W)


@pytest.mark.slow
@pytest.mark.parametrize(
    "wanted", [PLAIN, replace(PLAIN, init="normal:1e-3"), replace(SMOOTHED, steps=9)]
)
def test_lbfgs_snapshots_are_the_best_weights_so_far(
    placed_dataset: PlacedDataset, dataset: Dataset, wanted: PassParameters, tmp_path: Path
) -> None:
    path = repeat_run(placed_dataset, wanted)
    assert_best_weights_so_far(path, wanted, dataset, tmp_path)
    assert len(path.steps) > 4


def test_wrong_preconditioner_is_detected(
    placed_dataset: PlacedDataset, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another(dataset: Dataset, wanted: PassParameters) -> Any:
        return preconditioner(dataset, replace(wanted, reg=2 * wanted.reg))

    monkeypatch.setattr(trajectories, "preconditioner", another)
    with pytest.raises(AssertionError):
        assert_best_weights_so_far(repeat_run(placed_dataset, PLAIN), PLAIN, dataset, tmp_path)


# The plane of a path.

FindPlane = Callable[[Floats], PathPlane]


def random_path(seed: int, points: int) -> tuple[Floats, Floats, Floats]:
    """Return a random path in a plane far from 0, the plane's directions, and its coordinates."""
    rng = np.random.default_rng(seed)
    pair = np.linalg.qr(rng.normal(size=(3 * 5, 2)))[0].T
    coordinates = rng.normal(size=(points, 2)) * [3.0, 1.0]
    coordinates -= coordinates[-1]
    path = rng.normal(size=15) + coordinates @ pair
    return path.reshape(points, 3, 5), pair, coordinates


def assert_plane(path: Floats, find_plane: FindPlane = path_plane) -> PathPlane:
    """Check the plane of a path that lies in a plane against the definition, and return it."""
    plane = find_plane(path)
    flat = plane.directions.reshape(2, -1)
    assert plane.directions.shape == (2, *path.shape[1:])
    assert plane.coordinates.shape == (len(path), 2)
    np.testing.assert_allclose(flat @ flat.T, np.eye(2), atol=1e-14)
    assert np.abs(plane.coordinates[-1]).max() <= 1e-14
    back = path[-1] + np.tensordot(plane.coordinates, plane.directions, 1)
    np.testing.assert_allclose(back, path, rtol=0, atol=1e-13)
    assert plane.explained.sum() == pytest.approx(1.0, rel=1e-13)
    squares = (plane.coordinates**2).sum(axis=0)
    np.testing.assert_allclose(plane.explained, squares / squares.sum(), rtol=1e-12)
    assert plane.explained[0] >= plane.explained[1]  # the first direction explains at least as much
    products = plane.coordinates.T @ plane.coordinates
    assert abs(products[0, 1]) <= 1e-12 * products[0, 0]  # uncorrelated
    assert (plane.coordinates[0] <= 0).all()  # the path rises to its end
    return plane


@pytest.mark.parametrize("points", [3, 4, 61])
@pytest.mark.parametrize("seed", range(3))
def test_plane_of_a_planar_path_is_recovered(points: int, seed: int) -> None:
    path, pair, coordinates = random_path(seed, points)
    plane = assert_plane(path)
    # the same plane, and the same path in it up to a rotation or reflection
    turn = plane.directions.reshape(2, -1) @ pair.T
    np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=1e-13)
    np.testing.assert_allclose(plane.coordinates, coordinates @ turn.T, atol=1e-12)


def test_plane_of_a_small_path_matches_hand_calculation() -> None:
    # Relative to the end, the path is (-8, 0), (-4, -3), (4, -3), (0, 0). The squares sum to 96
    # and 18, and the products to 12 - 12 = 0, so the plane's directions are the axes.
    path = np.array([[[-7.0, 2.0, 5.0]], [[-3.0, -1, 5]], [[5.0, -1, 5]], [[1.0, 2, 5]]])
    plane = assert_plane(path)
    np.testing.assert_allclose(plane.explained, [96 / 114, 18 / 114], rtol=1e-14)
    np.testing.assert_allclose(plane.directions[0], [[1, 0, 0]], atol=1e-15)
    np.testing.assert_allclose(plane.coordinates[:, 0], [-8, -4, 4, 0], atol=1e-14)
    np.testing.assert_allclose(np.abs(plane.coordinates[:, 1]), [0, 3, 3, 0], atol=1e-14)
    np.testing.assert_allclose(np.abs(plane.directions[1]), [[0, 1, 0]], atol=1e-15)


def test_plane_explains_at_least_as_much_as_random_planes() -> None:
    """Singular vectors give the plane through the path's end that is nearest to the path."""
    rng = np.random.default_rng(1)
    path = rng.normal(size=(9, 3, 5)) * np.linspace(2, 0.1, 15).reshape(3, 5)
    away = (path - path[-1]).reshape(9, -1)
    explained = path_plane(path).explained.sum()
    assert explained < 0.99
    for _ in range(200):
        pair = np.linalg.qr(rng.normal(size=(15, 2)))[0]
        assert np.sum((away @ pair) ** 2) / np.sum(away**2) <= explained


@pytest.mark.parametrize(
    "fault", ["relative to 0", "relative to its mean", "mirrored", "not orthogonal"]
)
def test_plane_check_detects_a_planted_fault(fault: str) -> None:
    def faulty(path: Floats) -> PathPlane:
        if fault == "relative to 0":
            return path_plane(np.concatenate([path, np.zeros_like(path[:1])]))
        if fault == "relative to its mean":
            return path_plane(np.concatenate([path[:-1], path.mean(axis=0)[None]]))
        plane = path_plane(path)
        if fault == "mirrored":
            return plane._replace(directions=-plane.directions, coordinates=-plane.coordinates)
        first, second = plane.directions
        return plane._replace(directions=np.stack([first, (first + second) / np.sqrt(2)]))

    path, *_ = random_path(0, 7)
    assert_plane(path)
    with pytest.raises(AssertionError):
        assert_plane(path, faulty)


STRAIGHT = np.linspace(0, 1, 7)[:, None, None] * np.random.default_rng(0).normal(size=(3, 5))


@pytest.mark.parametrize(
    "path",
    [
        STRAIGHT[:1],
        STRAIGHT[:2],
        STRAIGHT,
        STRAIGHT + 100.0,
        STRAIGHT[[0, 3, 1, 6, 2]],  # back and forth
        np.ones((4, 3, 5)),
    ],
    ids=["point", "two points", "line", "line away from 0", "unordered line", "constant path"],
)
def test_path_without_a_plane_raises_pipeline_error(path: Floats) -> None:
    with pytest.raises(PipelineError) as caught:
        path_plane(path)
    assert str(caught.value) == (
        "the run's path has no plane: it has too few steps, or is a straight line"
    )


def test_slightly_bent_line_has_a_plane() -> None:
    bent = STRAIGHT.copy()
    bent[3, 0, 0] += 1e-6
    assert_plane(bent)


def test_path_of_a_run_is_projected_onto_its_plane(placed_dataset: PlacedDataset) -> None:
    path = repeat_run(placed_dataset, RUNS["samples"])
    plane = path_plane(path.weights)
    away = (path.weights - path.weights[-1]).reshape(len(path.steps), -1)
    flat = plane.directions.reshape(2, -1)
    np.testing.assert_allclose(plane.coordinates, away @ flat.T, atol=1e-12 * np.abs(away).max())
    assert (plane.coordinates[0] < 0).all()
    assert 0.5 < plane.explained.sum() < 1
    assert all(a > b for a, b in pairwise(np.linalg.norm(plane.coordinates, axis=1)[::6]))
