"""L-BFGS on the hinge and on the smoothed hinge: the same bits anywhere, and a true certificate."""

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
    """What two runs are compared by."""

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
    """The training rows in memory, in shards that end at `cuts` and at the last row."""
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
    """The result of an undisturbed run in this process, over one shard."""
    return lambda wanted: Result.of(run(dataset, wanted, tmp_path / "undisturbed"))


@pytest.mark.slow
@BOTH
def test_shards_tasks_and_actors_change_no_bit(
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
    assert len({found["actors"].W, bytes(10 * 3073 * 8)}) == 2  # it did not stay at zeros


@pytest.mark.slow
@BOTH
def test_a_worker_killed_on_the_way_changes_no_bit(
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
    """Goes over shards, and counts how often."""

    def __init__(self, shards: list[Shard]) -> None:
        self.passes = 0
        self._over = run_in_process(shards)

    def __call__(self, function: Any, inputs: Any, /) -> Any:
        self.passes += 1
        return self._over(function, inputs)


class _KilledError(Exception):
    pass


def stopped_at(passes: int) -> Callable[[Evaluations], None]:
    def report(evaluations: Evaluations) -> None:
        if evaluations.passes == passes:
            raise _KilledError

    return report


@pytest.mark.slow
@BOTH
def test_a_run_resumes_from_its_journal_and_repeats_no_pass(
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
                run(dataset, wanted, journal, part, stopped_at(passes))
            taken += part.passes
        rest = Counted(rows)
        resumed = run(dataset, wanted, journal, rest)
        assert taken == resumed.replayed == killed[-1]
        assert taken + rest.passes == whole.passes
        assert Result.of(resumed) == Result.of(expected)


def recorded(journal: Path, dataset: Dataset, wanted: PassParameters) -> list[Entry]:
    with Journal(journal) as opened:
        return list(entries(opened, identity(dataset, wanted)))


def rounded_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have SciPy ask for points that differ in a last bit, but for zeros."""

    def minimize(function: Callable[[Any], Any], start: Any, **options: Any) -> Any:
        def elsewhere(x: Any) -> Any:
            return function(np.nextafter(x, 2 * x))

        return scipy_minimize(elsewhere, start, **options)

    monkeypatch.setattr(quasi_newton, "minimize", minimize)


@pytest.mark.slow
@BOTH
def test_where_numbers_round_differently_a_run_resumes_from_its_best_weights(
    dataset: Dataset,
    wanted: PassParameters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected, journal = run(dataset, wanted, tmp_path / "whole"), tmp_path / "moved"
    with pytest.raises(_KilledError):
        run(dataset, wanted, journal, report=stopped_at(6))
    copied = Path(shutil.copy(journal, tmp_path / "copied"))
    with monkeypatch.context() as elsewhere:
        rounded_differently(elsewhere)
        with (
            caplog.at_level(logging.WARNING, "pipeline.training.replay"),
            pytest.raises(_KilledError),
        ):
            run(dataset, wanted, journal, report=stopped_at(9))
        assert "rounds differently" in caplog.text
        live = Counted(resident(dataset))
        there = run(dataset, wanted, journal, live)
        assert there.replayed == 9  # the new path is gone over again as the old one would be
        assert live.passes == len(there.state.losses) - 9
        assert Result.of(there) == Result.of(run(dataset, wanted, copied))
    first, second = (
        [entry for entry in recorded(journal, dataset, wanted) if entry.path == path]
        for path in (0, 1)
    )
    assert len(first) == 6
    best = min(first, key=lambda entry: entry.value.hinge_loss)
    np.testing.assert_allclose(second[0].V, best.V, rtol=1e-15)
    back = run(dataset, wanted, tmp_path / "moved")  # which is not where the rest was evaluated
    for found in (there, back):
        np.testing.assert_array_equal(found.state.losses[:6], expected.state.losses[:6])
        assert found.state.losses.min() <= expected.state.losses[:6].min()
        assert found.state.losses.min() == pytest.approx(expected.state.losses.min(), rel=0.05)
        assert found.gap_reached == expected.gap_reached
        assert found.state.step <= wanted.steps


def test_the_best_of_all_evaluations_is_kept(tmp_path: Path) -> None:
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


# The oracle of the certificate: the dual, which knows nothing of widths or frequencies.


@cache
def _optimum(directory: str, reg: float) -> tuple[float, float]:
    """A lower and an upper bound on the least loss of a store of few rows, bias regularised.

    Alphas in [0, 1] maximise sum(alpha) / N - ||G||^2 / (4 reg), and with M_a the matrix that a
    margin a = (i, j) contributes, (e_j - e_y) (outer) x_i, <M_a, M_b> needs inner products only.
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
def test_the_certificate_is_true(store: Store, reg: float, gap: float, tmp_path: Path) -> None:
    few = store(40, FEW)
    below, above = _optimum(few.url, reg)
    assert 0.01 < below <= above < below * (1 + 1e-6)  # the reference knows the optimum
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


def test_the_smoothing_part_is_that_of_the_width(dataset: Dataset, tmp_path: Path) -> None:
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
    """The loss, bias regularised, by the notes' loops."""
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
def test_a_fault_fails(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, symptom: str
) -> None:
    monkeypatch.setattr(quasi_newton, "Value", _faulty(fault))
    if fault == "no adjoint":
        monkeypatch.setattr(Preconditioner, "gradient", Preconditioner.inverse)
    if fault == "one width":
        monkeypatch.setattr(GapRule, "first_width", 0.5)
        monkeypatch.setattr(GapRule, "next_width", lambda _rule, mu, *_: mu)
    with pytest.raises(AssertionError, match=symptom):
        test_the_certificate_is_true(store, 2e5, 1e-3, tmp_path)


def _faulty(fault: str) -> Callable[..., Value]:
    def value(loss: float, gradient: Any, hinge_loss: float, *bounds: float) -> Value:
        if fault == "a bound too high":
            bounds = (bounds[0] * 1.01 + 0.01, bounds[1])
        if fault == "a loss too low":
            hinge_loss *= 0.98
        return Value(loss, gradient, hinge_loss, *bounds)

    return value


def test_the_hinge_itself_is_minimised_to_its_optimum(store: Store, tmp_path: Path) -> None:
    """Of few rows it has few kinks, and L-BFGS comes only near; the best it saw is kept."""
    few, reg = store(40, FEW), 1e6
    below, _ = _optimum(few.url, reg)
    wanted = LBFGS(steps=500, reg=reg, reg_bias=True)
    found = run(few, wanted, tmp_path / "journal")
    assert found.state.status is Status.CONVERGED
    assert below - 1e-6 <= found.state.losses.min() <= 1.001 * below
    assert _loss(few, found.state.W, reg) == pytest.approx(found.state.losses.min(), rel=1e-6)
    assert np.all(found.lower_bounds == -np.inf)


def test_iterations_are_at_most_the_steps(dataset: Dataset, tmp_path: Path) -> None:
    found = run(dataset, PLAIN, tmp_path / "journal")
    assert (found.state.step, found.state.status) == (12, Status.DONE)
    assert len(found.state.losses) >= 13  # one at the start, and one or more an iteration
    assert found.state.losses[0] == 9.0
    assert found.state.losses.min() < 5


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_passes_are_at_most_the_steps(dataset: Dataset, tmp_path: Path, steps: int) -> None:
    wanted = SmoothedHinge(steps=steps, reg=1.0, gap=1e-6)
    found = run(dataset, wanted, tmp_path / "journal")
    assert (found.state.step, len(found.state.losses)) == (steps, steps)
    assert (found.state.status, found.gap_reached) == (Status.DONE, False)


def test_a_tolerance_ends_it_early(dataset: Dataset, tmp_path: Path) -> None:
    wanted = LBFGS(steps=100, reg=2e3, tolerance=0.01)
    found = run(dataset, wanted, tmp_path / "journal")
    assert found.state.status is Status.CONVERGED
    assert found.state.step < 20


@pytest.mark.parametrize("method", [LBFGS, SmoothedHinge])
def test_a_start_off_every_scale_diverges(
    dataset: Dataset, tmp_path: Path, method: type[PassParameters]
) -> None:
    wanted = method(steps=5, reg=1.0, reg_bias=True, init="normal:1e200")
    found = run(dataset, wanted, tmp_path / "journal")
    assert (found.state.status, found.gap_reached) == (Status.DIVERGED, False)
    assert found.state.losses.tolist() == [np.inf]


def test_it_starts_where_it_is_told(dataset: Dataset, tmp_path: Path) -> None:
    wanted = LBFGS(steps=1, init="normal:1e-3", seed=4)
    found = run(dataset, wanted, tmp_path / "journal")
    images, labels = dataset.read("train", 0, 600)
    X = np.column_stack([images - dataset.mean, np.ones(600)])
    W = wanted.first_weights(10)
    margins = np.maximum(0, X @ W.T - np.sum(X * W[labels], axis=1)[:, None] + 1)
    margins[np.arange(600), labels] = 0
    assert found.state.losses[0] == pytest.approx(margins.sum() / 600, rel=1e-6)
