"""A run's path: it goes through the run's own weights; and the plane that is seen of it."""

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
from tests.pipeline.runs import StepRun, as_written_down, parameters
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


def taken(placed_dataset: PlacedDataset, wanted: StepRun | PassParameters) -> Trajectory:
    """Repeat a run, and compare its reports with its snapshots."""
    reported = list[int]()
    path = trajectory(placed_dataset, wanted, reported.append)
    assert path.steps.tolist() == [0, *reported]
    assert path.weights.shape == (len(path.steps), 10, 3073)
    assert bits(path.weights[0]) == bits(wanted.first_weights(10))
    return path


def fewer(wanted: StepRun, steps: int) -> StepRun:
    """The same run, but for its end."""
    return replace(wanted, epochs=None, steps=steps)


# A run of steps.


def shorter_runs(dataset: Dataset, wanted: StepRun, path: Trajectory) -> list[str]:
    """The weights of runs that end at the snapshots, computed as the notes do."""
    if wanted.epochs is None:
        ends = [fewer(wanted, step) for step in path.steps[1:].tolist()]
    else:  # an epoch's batches are no uniform samples: only whole epochs are runs
        ends = [replace(wanted, epochs=epochs + 1) for epochs in range(wanted.epochs)]
    return [bits(as_written_down(dataset, end).W) for end in ends]


def assert_through(path: Trajectory, wanted: StepRun, dataset: Dataset) -> None:
    found = [bits(W) for W in path.weights[1:]]
    assert found == shorter_runs(dataset, wanted, path)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("placement", [StepPlacement.ALL_WORKERS, StepPlacement.ONE_WORKER])
@pytest.mark.parametrize(
    ("kind", "snapshots", "steps"),
    [
        ("gd", 60, [0, 1, 2, 3, 4, 5, 6]),
        ("gd with momentum", 3, [0, 3, 6, 7]),  # the last snapshot comes sooner
        ("samples", 5, [0, 3, 6, 9, 12]),
        ("epochs", 2, [0, 3, 6]),  # 600 rows in batches of 200, twice
        ("samples", 1, [0, 12]),
    ],
)
def test_a_run_of_steps_goes_through_the_weights_of_shorter_ones(
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
    path = taken(placed_dataset, wanted)
    assert path.steps.tolist() == steps
    assert_through(path, wanted, dataset)
    assert bits(path.weights[-1]) == bits(as_written_down(dataset, wanted).W)


@pytest.mark.parametrize("steps", [59, 60, 61, 119, 121])
def test_a_run_has_sixty_snapshots_at_most(
    placed_dataset: PlacedDataset, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    def taking_none(take_steps: TakeSteps, *given: Any, **options: Any) -> DescentState:
        return train(lambda state, until: replace(state, step=until), *given, **options)

    monkeypatch.setattr(trajectories, "train", taking_none)
    path = taken(placed_dataset, fewer(RUNS["gd"], steps))
    assert path.steps[-1] == steps
    apart = np.diff(path.steps)
    assert len(apart) <= SNAPSHOTS == 60
    assert len(apart) > SNAPSHOTS // 2 - 1
    assert len(set(apart[:-1].tolist())) == 1


def test_a_run_that_diverges_goes_through_each_weights_once(
    placed_dataset: PlacedDataset, dataset: Dataset
) -> None:
    wanted = replace(RUNS["gd"], step_size=1e-2, placement=StepPlacement.ALL_WORKERS)
    path = taken(placed_dataset, wanted)
    assert path.steps[-1] < 6
    assert len(set(path.steps.tolist())) == len(path.steps)


def test_memory_lost_at_a_snapshot_fails(
    placed_dataset: PlacedDataset, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(take_steps: TakeSteps, start: DescentState, *given: Any, **options: Any) -> Any:
        def without_memory(state: DescentState, until: int) -> DescentState:
            return take_steps(replace(state, memory=start.memory), until)

        return train(without_memory, start, *given, **options)

    monkeypatch.setattr(trajectories, "SNAPSHOTS", 3)
    monkeypatch.setattr(trajectories, "train", forgetful)
    wanted = RUNS["gd with momentum"]
    with pytest.raises(AssertionError):
        assert_through(taken(placed_dataset, wanted), wanted, dataset)


# L-BFGS.


def assert_the_best_so_far(
    path: Trajectory, wanted: PassParameters, dataset: Dataset, directory: Path
) -> None:
    """Hold each of its weights to the run that ends with that pass, or with its iteration."""
    whole = run(dataset, wanted, directory / "whole")
    losses = whole.state.losses
    better = [n for n in range(len(losses)) if losses[n] < min(losses[:n], default=np.inf)]
    assert path.steps.tolist() == [0, *(n + 1 for n in better if n)]  # the first is the start's
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
def test_a_run_of_lbfgs_goes_through_its_best_weights(
    placed_dataset: PlacedDataset, dataset: Dataset, wanted: PassParameters, tmp_path: Path
) -> None:
    path = taken(placed_dataset, wanted)
    assert_the_best_so_far(path, wanted, dataset, tmp_path)
    assert len(path.steps) > 4


def test_weights_of_another_preconditioner_fail(
    placed_dataset: PlacedDataset, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another(dataset: Dataset, wanted: PassParameters) -> Any:
        return preconditioner(dataset, replace(wanted, reg=2 * wanted.reg))

    monkeypatch.setattr(trajectories, "preconditioner", another)
    with pytest.raises(AssertionError):
        assert_the_best_so_far(taken(placed_dataset, PLAIN), PLAIN, dataset, tmp_path)


# The plane of a path.

Viewer = Callable[[Floats], PathPlane]


def drawn_path(seed: int, points: int) -> tuple[Floats, Floats, Floats]:
    """A path within a known plane, far from 0: it, two orthonormal directions, its coordinates."""
    rng = np.random.default_rng(seed)
    pair = np.linalg.qr(rng.normal(size=(3 * 5, 2)))[0].T
    coordinates = rng.normal(size=(points, 2)) * [3.0, 1.0]
    coordinates -= coordinates[-1]
    path = rng.normal(size=15) + coordinates @ pair
    return path.reshape(points, 3, 5), pair, coordinates


def assert_plane(path: Floats, viewer: Viewer = path_plane) -> PathPlane:
    """Hold a path that lies in a plane to what its plane is by definition."""
    plane = viewer(path)
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
    assert plane.explained[0] >= plane.explained[1]  # the first shows most
    products = plane.coordinates.T @ plane.coordinates
    assert abs(products[0, 1]) <= 1e-12 * products[0, 0]  # and each by itself
    assert (plane.coordinates[0] <= 0).all()  # the path rises to its end
    return plane


@pytest.mark.parametrize("points", [3, 4, 61])
@pytest.mark.parametrize("seed", range(3))
def test_a_path_in_a_known_plane_is_recovered(points: int, seed: int) -> None:
    path, pair, coordinates = drawn_path(seed, points)
    plane = assert_plane(path)
    # the same plane, and in it the same path, turned and perhaps mirrored
    turn = plane.directions.reshape(2, -1) @ pair.T
    np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=1e-13)
    np.testing.assert_allclose(plane.coordinates, coordinates @ turn.T, atol=1e-12)


def test_by_hand() -> None:
    # Seen from the end: (-8, 0), (-4, -3), (4, -3), (0, 0); their squares sum to 96 and 18,
    # and their products to 12 - 12 = 0, so that the axes are the plane's.
    path = np.array([[[-7.0, 2.0, 5.0]], [[-3.0, -1, 5]], [[5.0, -1, 5]], [[1.0, 2, 5]]])
    plane = assert_plane(path)
    np.testing.assert_allclose(plane.explained, [96 / 114, 18 / 114], rtol=1e-14)
    np.testing.assert_allclose(plane.directions[0], [[1, 0, 0]], atol=1e-15)
    np.testing.assert_allclose(plane.coordinates[:, 0], [-8, -4, 4, 0], atol=1e-14)
    np.testing.assert_allclose(np.abs(plane.coordinates[:, 1]), [0, 3, 3, 0], atol=1e-14)
    np.testing.assert_allclose(np.abs(plane.directions[1]), [[0, 1, 0]], atol=1e-15)


def test_of_a_path_out_of_its_plane_the_most_is_shown() -> None:
    """No other plane through its end is nearer: a law of the singular values."""
    rng = np.random.default_rng(1)
    path = rng.normal(size=(9, 3, 5)) * np.linspace(2, 0.1, 15).reshape(3, 5)
    away = (path - path[-1]).reshape(9, -1)
    explained = path_plane(path).explained.sum()
    assert explained < 0.99
    for _ in range(200):
        pair = np.linalg.qr(rng.normal(size=(15, 2)))[0]
        assert np.sum((away @ pair) ** 2) / np.sum(away**2) <= explained


@pytest.mark.parametrize("fault", ["from 0", "from its middle", "mirrored", "not at right angles"])
def test_a_fault_fails(fault: str) -> None:
    def faulty(path: Floats) -> PathPlane:
        if fault == "from 0":
            return path_plane(np.concatenate([path, np.zeros_like(path[:1])]))
        if fault == "from its middle":
            return path_plane(np.concatenate([path[:-1], path.mean(axis=0)[None]]))
        plane = path_plane(path)
        if fault == "mirrored":
            return plane._replace(directions=-plane.directions, coordinates=-plane.coordinates)
        first, second = plane.directions
        return plane._replace(directions=np.stack([first, (first + second) / np.sqrt(2)]))

    path, *_ = drawn_path(0, 7)
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
        STRAIGHT[[0, 3, 1, 6, 2]],  # to and fro
        np.ones((4, 3, 5)),
    ],
    ids=["a point", "two points", "a line", "a line off 0", "a line in no order", "it stays"],
)
def test_a_path_without_a_plane_is_refused(path: Floats) -> None:
    with pytest.raises(PipelineError) as caught:
        path_plane(path)
    assert str(caught.value) == (
        "the run's path has no plane: it took too few steps, or a straight line"
    )


def test_a_line_with_a_bend_in_it_has_one() -> None:
    bent = STRAIGHT.copy()
    bent[3, 0, 0] += 1e-6
    assert_plane(bent)


def test_a_real_path_is_seen_in_its_plane(placed_dataset: PlacedDataset) -> None:
    path = taken(placed_dataset, RUNS["samples"])
    plane = path_plane(path.weights)
    away = (path.weights - path.weights[-1]).reshape(len(path.steps), -1)
    flat = plane.directions.reshape(2, -1)
    np.testing.assert_allclose(plane.coordinates, away @ flat.T, atol=1e-12 * np.abs(away).max())
    assert (plane.coordinates[0] < 0).all()
    assert 0.5 < plane.explained.sum() < 1
    assert all(a > b for a, b in pairwise(np.linalg.norm(plane.coordinates, axis=1)[::6]))
