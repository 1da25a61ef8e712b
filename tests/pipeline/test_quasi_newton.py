"""L-BFGS on the hinge and the smoothed hinge: bit-identical results and a true certificate."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray
from scipy.optimize import minimize as scipy_minimize

from kernels import reference
from kernels.frequency import Preconditioner
from pipeline.cluster import shards
from pipeline.cluster.actors import Actors
from pipeline.cluster.map_shards import MapShards, run_in_process
from pipeline.cluster.placement import PlacedDataset
from pipeline.cluster.shards import ResidentShard, Shard, StreamedShard
from pipeline.cluster.tasks import map_in_tasks
from pipeline.journals.journal import Journal
from pipeline.training import quasi_newton
from pipeline.training.descent import Status
from pipeline.training.parameters import LBFGS, PassParameters, SmoothedHinge
from pipeline.training.quasi_newton import GapRule, Minimised, identity, minimise, preconditioner
from pipeline.training.replay import Entry, Evaluations, Value, entries
from storage.dataset import Dataset
from tests.bits import bits
from tests.pipeline.conftest import Store
from tests.pipeline.workers import kill, process_ids, removals

PLAIN = LBFGS(steps=12, reg=100.0)
SMOOTHED = SmoothedHinge(steps=60, reg=1e4, gap=5e-3)
BOTH = pytest.mark.parametrize("wanted", [PLAIN, SMOOTHED], ids=["lbfgs", "smoothed"])


@dataclass(frozen=True)
class Result:
    """The result of a run. Two results are equal if they are bit-identical."""

    W: str
    losses: str
    lower_bounds: str
    step: int
    status: str
    gap_reached: bool

    @classmethod
    def of(cls, run: Minimised) -> "Result":
        state = run.state
        return cls(
            bits(state.W),
            bits(state.losses),
            bits(run.lower_bounds),
            state.step,
            state.status.value,
            run.gap_reached,
        )


def resident(dataset: Dataset, *cuts: int) -> list[Shard]:
    """Return the training rows in memory, in shards that end at `cuts` and at the last row."""
    ends = [0, *cuts, dataset.rows("train")]
    return [
        ResidentShard(start, stop, *dataset.read("train", start, stop))
        for start, stop in pairwise(ends)
    ]


def run(
    dataset: Dataset,
    wanted: PassParameters,
    journal: Path,
    map_shards: MapShards | None = None,
    report: Callable[[Evaluations], None] = lambda _evaluations: None,
) -> Minimised:
    with Journal(journal) as opened:
        return minimise(
            map_shards or run_in_process(resident(dataset)), dataset, wanted, opened, report
        )


@pytest.fixture
def dataset(store: Store) -> Dataset:
    return store(150, "synthetic:600")


@pytest.fixture
def expected(dataset: Dataset, tmp_path: Path) -> Callable[[PassParameters], Result]:
    """Return a function that gives the result of an undisturbed run over one local shard."""
    return lambda wanted: Result.of(run(dataset, wanted, tmp_path / "undisturbed"))


@pytest.mark.slow
@BOTH
def test_shards_tasks_and_actors_give_bit_identical_results(
    client: Client,
    dataset: Dataset,
    expected: Callable[[PassParameters], Result],
    wanted: PassParameters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "STREAM_ROWS", 70)
    placed_dataset = PlacedDataset(client, dataset)
    with Actors(placed_dataset) as actors:
        ways = {
            "two shards": run_in_process(resident(dataset, 101)),
            "many": run_in_process(resident(dataset, *range(37, 600, 37))),
            "streamed": run_in_process([StreamedShard(dataset, "train", 0, 600)]),
            "tasks": map_in_tasks(client, placed_dataset.shards("train")),
            "actors": actors,
        }
        found = {way: Result.of(run(dataset, wanted, tmp_path / way, map_shards))
                 for way, map_shards in ways.items()}  # fmt: skip
    assert found == dict.fromkeys(ways, expected(wanted))
    assert bits(np.zeros((10, 3073))) != found["actors"].W  # the run took a step


@pytest.mark.slow
@BOTH
def test_worker_killed_during_a_run_does_not_change_the_result(
    client: Client,
    dataset: Dataset,
    expected: Callable[[PassParameters], Result],
    wanted: PassParameters,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (address, pid), *_ = process_ids(client).items()

    def report(evaluations: Evaluations) -> None:
        if evaluations.passes == 3:
            kill(pid)

    with (
        caplog.at_level(logging.WARNING, "pipeline.cluster.actors"),
        Actors(PlacedDataset(client, dataset)) as actors,
    ):
        found = run(dataset, wanted, tmp_path / "killed", actors, report)
    assert Result.of(found) == expected(wanted)
    assert "a worker was lost" in caplog.text
    assert removals(client, address)


class Counted:
    """A `MapShards` in this process that counts its passes."""

    def __init__(self, shards: list[Shard]) -> None:
        self.passes = 0
        self._over = run_in_process(shards)

    def __call__(self, function: Any, inputs: Any, /) -> Any:
        self.passes += 1
        return self._over(function, inputs)


class _KilledError(Exception):
    pass


def stop_after(passes: int) -> Callable[[Evaluations], None]:
    def report(evaluations: Evaluations) -> None:
        if evaluations.passes == passes:
            raise _KilledError

    return report


@pytest.mark.slow
@BOTH
def test_run_resumes_from_its_journal_without_repeating_a_pass(
    dataset: Dataset, wanted: PassParameters, tmp_path: Path
) -> None:
    rows = resident(dataset)
    whole = Counted(rows)
    expected = run(dataset, wanted, tmp_path / "whole", whole)
    assert whole.passes == len(expected.state.losses) > 6
    for killed in ([1], [4], [2, 5], [whole.passes]):
        journal, taken = tmp_path / f"killed {killed}", 0
        for passes in killed:
            part = Counted(rows)
            with pytest.raises(_KilledError):
                run(dataset, wanted, journal, part, stop_after(passes))
            taken += part.passes
        rest = Counted(rows)
        resumed = run(dataset, wanted, journal, rest)
        assert taken == resumed.replayed == killed[-1]
        assert taken + rest.passes == whole.passes
        assert Result.of(resumed) == Result.of(expected)


def recorded(journal: Path, dataset: Dataset, wanted: PassParameters) -> list[Entry]:
    with Journal(journal) as opened:
        return list(entries(opened, identity(dataset, wanted)))


def round_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make SciPy ask for points whose coordinates, except zeros, differ in the last bit."""

    def minimize(function: Callable[[Any], Any], start: Any, **options: Any) -> Any:
        def elsewhere(x: Any) -> Any:
            return function(np.nextafter(x, 2 * x))

        return scipy_minimize(elsewhere, start, **options)

    monkeypatch.setattr(quasi_newton, "minimize", minimize)


@pytest.mark.slow
@BOTH
def test_run_resumes_from_its_best_weights_if_rounding_differs(
    dataset: Dataset,
    wanted: PassParameters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected, journal = run(dataset, wanted, tmp_path / "whole"), tmp_path / "moved"
    with pytest.raises(_KilledError):
        run(dataset, wanted, journal, report=stop_after(6))
    copied = Path(shutil.copy(journal, tmp_path / "copied"))
    with monkeypatch.context() as elsewhere:
        round_differently(elsewhere)
        with (
            caplog.at_level(logging.WARNING, "pipeline.training.replay"),
            pytest.raises(_KilledError),
        ):
            run(dataset, wanted, journal, report=stop_after(9))
        assert "rounds differently" in caplog.text
        live = Counted(resident(dataset))
        there = run(dataset, wanted, journal, live)
        assert there.replayed == 9  # the new path is replayed like the old one
        assert live.passes == len(there.state.losses) - 9
        assert Result.of(there) == Result.of(run(dataset, wanted, copied))
    first, second = (
        [entry for entry in recorded(journal, dataset, wanted) if entry.path == path]
        for path in (0, 1)
    )
    assert len(first) == 6
    best = min(first, key=lambda entry: entry.value.hinge_loss)
    np.testing.assert_allclose(second[0].V, best.V, rtol=1e-15)
    # resume with the original rounding, which did not evaluate the points of the new path
    back = run(dataset, wanted, tmp_path / "moved")
    for found in (there, back):
        np.testing.assert_array_equal(found.state.losses[:6], expected.state.losses[:6])
        assert found.state.losses.min() <= expected.state.losses[:6].min()
        assert found.state.losses.min() == pytest.approx(expected.state.losses.min(), rel=0.05)
        assert found.gap_reached == expected.gap_reached
        assert found.state.step <= wanted.steps


def test_evaluations_keep_the_best_point_and_the_best_bound(tmp_path: Path) -> None:
    hinge_losses, bounds = iter([5.0, 3.0, 4.0, 3.0]), iter([-9.0, 1.0, 2.0, 0.5])

    def evaluate(V: NDArray[np.float64], _mu: float) -> Value:
        return Value(1.0, V, hinge_loss=next(hinge_losses), lower_bound=next(bounds))

    with Journal(tmp_path / "journal") as journal:
        evaluations = Evaluations(evaluate, journal, "a run")
        for number in range(4):
            evaluations(np.full((2, 3), float(number)))
    assert evaluations.best is not None
    assert evaluations.best.V[0, 0] == 1
    assert (evaluations.least_loss, evaluations.lower_bound) == (3.0, 2.0)
    assert evaluations.losses == [5.0, 3.0, 4.0, 3.0]
    assert evaluations.lower_bounds == [-9.0, 1.0, 2.0, 2.0]


# The oracle for the certificate is the dual problem, which uses neither widths nor frequencies.


@cache
def _optimum(directory: str, reg: float) -> tuple[float, float]:
    """Return a lower and an upper bound on the least loss of a small store.

    The regulariser includes the bias.

    The dual variables alpha in [0, 1] maximise sum(alpha) / N - ||G||^2 / (4 reg). A margin
    a = (i, j) contributes the matrix M_a = (e_j - e_y) (outer) x_i to G, and the products
    <M_a, M_b> need only inner products of rows.
    """
    from storage.dataset import open_dataset

    dataset = open_dataset(directory)
    rows = dataset.rows("train")
    images, labels = dataset.read("train", 0, rows)
    X = np.column_stack([images - dataset.mean, np.ones(rows)])
    number, other = np.nonzero(np.arange(10) != labels[:, None])
    changes = np.eye(10)[other] - np.eye(10)[labels[number]]
    gram = (X @ X.T)[np.ix_(number, number)] * (changes @ changes.T) / (4 * reg * rows**2)

    def negative(alphas: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope = gram @ alphas
        return float(alphas @ slope - alphas.sum() / rows), 2 * slope - 1 / rows

    alphas = scipy_minimize(
        negative,
        np.full(len(number), 0.5),
        jac=True,
        bounds=[(0.0, 1.0)] * len(number),
        method="L-BFGS-B",
        options={"maxcor": 50, "maxiter": 20_000, "maxfun": 100_000, "ftol": 0, "gtol": 1e-12},
    ).x
    G = (changes * alphas[:, None]).T @ X[number] / rows
    W = -G / (2 * reg)
    margins = X @ W.T - np.sum(X * W[labels], axis=1)[:, None] + 1
    margins[np.arange(rows), labels] = 0
    loss = np.maximum(0, margins).sum() / rows + reg * float(np.sum(W**2))
    return -negative(alphas)[0], float(loss)


FEW = "synthetic:40"


@pytest.mark.slow
@pytest.mark.parametrize(("reg", "gap"), [(1e4, 0.02), (2e5, 1e-3)])
def test_loss_and_lower_bound_enclose_the_optimum(
    store: Store, reg: float, gap: float, tmp_path: Path
) -> None:
    few = store(40, FEW)
    below, above = _optimum(few.url, reg)
    assert 0.01 < below <= above < below * (1 + 1e-6)  # the oracle is accurate
    wanted = SmoothedHinge(steps=200, reg=reg, gap=gap, dtype="float64")
    found = run(few, wanted, tmp_path / "journal")
    least, bound = found.state.losses.min(), found.lower_bounds[-1]
    assert np.all(found.lower_bounds <= above + 1e-12), "a bound above the optimum"
    assert np.all(found.state.losses >= below - 1e-12), "a loss below the optimum"
    assert np.all(np.diff(found.lower_bounds) >= 0)
    assert found.gap_reached, "the gap stays open"
    assert found.state.status is Status.DONE
    assert least - bound <= gap * least
    assert _loss(few, found.state.W, reg) == pytest.approx(least, rel=1e-9)


def test_smoothing_part_matches_its_formula(dataset: Dataset, tmp_path: Path) -> None:
    wanted = replace(SMOOTHED, dtype="float64")
    run(dataset, wanted, tmp_path / "journal")
    images, labels = dataset.read("train", 0, 600)
    X = np.column_stack([images - dataset.mean, np.ones(600)])
    T = preconditioner(dataset, wanted)
    found = recorded(tmp_path / "journal", dataset, wanted)
    assert len({entry.mu for entry in found}) > 1
    for entry in (found[3], found[-1]):
        W = T.weights(entry.V)
        margins = X @ W.T - np.sum(X * W[labels], axis=1)[:, None] + 1
        margins[np.arange(600), labels] = 0
        between = margins[(margins > 0) & (margins < entry.mu)]
        smoothing = np.sum(between * (1 - between / entry.mu)) / 600
        assert entry.value.smoothing_part == pytest.approx(smoothing, rel=1e-2)


def _loss(dataset: Dataset, W: NDArray[np.float64], reg: float) -> float:
    """Return the reference implementation's loss, with a regulariser that includes the bias."""
    images, labels = dataset.read("train", 0, dataset.rows("train"))
    X = np.column_stack([images - dataset.mean, np.ones(len(labels))])
    hinge = reference.loss(W.tolist(), X.tolist(), labels.tolist(), reg=0.0)
    return float(hinge + reg * np.sum(W**2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "symptom"),
    [
        ("a bound too high", "a bound above the optimum"),
        ("a loss too low", "a loss below the optimum"),
        ("no adjoint", "the gap stays open|reached"),
        ("one width", "the gap stays open"),
    ],
)
def test_certificate_test_detects_a_planted_fault(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, symptom: str
) -> None:
    monkeypatch.setattr(quasi_newton, "Value", _faulty(fault))
    if fault == "no adjoint":
        monkeypatch.setattr(Preconditioner, "gradient", Preconditioner.inverse)
    if fault == "one width":
        monkeypatch.setattr(GapRule, "first_width", 0.5)
        monkeypatch.setattr(GapRule, "next_width", lambda _rule, mu, *_: mu)
    with pytest.raises(AssertionError, match=symptom):
        test_loss_and_lower_bound_enclose_the_optimum(store, 2e5, 1e-3, tmp_path)


def _faulty(fault: str) -> Callable[..., Value]:
    def value(loss: float, gradient: Any, hinge_loss: float, *bounds: float) -> Value:
        if fault == "a bound too high":
            bounds = (bounds[0] * 1.01 + 0.01, bounds[1])
        if fault == "a loss too low":
            hinge_loss *= 0.98
        return Value(loss, gradient, hinge_loss, *bounds)

    return value


def test_lbfgs_comes_within_a_thousandth_of_the_optimum(store: Store, tmp_path: Path) -> None:
    """With few rows the kinks are few and large, so L-BFGS only comes close to the optimum.

    The run returns the best weights that it evaluated.
    """
    few, reg = store(40, FEW), 1e6
    below, _ = _optimum(few.url, reg)
    wanted = LBFGS(steps=500, reg=reg, reg_bias=True)
    found = run(few, wanted, tmp_path / "journal")
    assert found.state.status is Status.CONVERGED
    assert below - 1e-6 <= found.state.losses.min() <= 1.001 * below
    assert _loss(few, found.state.W, reg) == pytest.approx(found.state.losses.min(), rel=1e-6)
    assert np.all(found.lower_bounds == -np.inf)


def test_lbfgs_takes_at_most_the_given_iterations(dataset: Dataset, tmp_path: Path) -> None:
    found = run(dataset, PLAIN, tmp_path / "journal")
    assert (found.state.step, found.state.status) == (12, Status.DONE)
    assert len(found.state.losses) >= 13  # one at the start, and at least one per iteration
    assert found.state.losses[0] == 9.0
    assert found.state.losses.min() < 5


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_smoothed_takes_at_most_the_given_passes(
    dataset: Dataset, tmp_path: Path, steps: int
) -> None:
    wanted = SmoothedHinge(steps=steps, reg=1.0, gap=1e-6)
    found = run(dataset, wanted, tmp_path / "journal")
    assert (found.state.step, len(found.state.losses)) == (steps, steps)
    assert (found.state.status, found.gap_reached) == (Status.DONE, False)


def test_lbfgs_stops_early_with_a_tolerance(dataset: Dataset, tmp_path: Path) -> None:
    wanted = LBFGS(steps=100, reg=2e3, tolerance=0.01)
    found = run(dataset, wanted, tmp_path / "journal")
    assert found.state.status is Status.CONVERGED
    assert found.state.step < 20


@pytest.mark.parametrize("method", [LBFGS, SmoothedHinge])
def test_run_with_huge_initial_weights_diverges(
    dataset: Dataset, tmp_path: Path, method: type[PassParameters]
) -> None:
    wanted = method(steps=5, reg=1.0, reg_bias=True, init="normal:1e200")
    found = run(dataset, wanted, tmp_path / "journal")
    assert (found.state.status, found.gap_reached) == (Status.DIVERGED, False)
    assert found.state.losses.tolist() == [np.inf]


def test_first_loss_is_that_of_the_initial_weights(dataset: Dataset, tmp_path: Path) -> None:
    wanted = LBFGS(steps=1, init="normal:1e-3", seed=4)
    found = run(dataset, wanted, tmp_path / "journal")
    images, labels = dataset.read("train", 0, 600)
    X = np.column_stack([images - dataset.mean, np.ones(600)])
    W = wanted.first_weights(10)
    margins = np.maximum(0, X @ W.T - np.sum(X * W[labels], axis=1)[:, None] + 1)
    margins[np.arange(600), labels] = 0
    assert found.state.losses[0] == pytest.approx(margins.sum() / 600, rel=1e-6)
