"""The loss along a line: every loss matches a separate evaluation, for all placements of shards."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray

from kernels.line import margins_along_line
from kernels.line_minimum import LineMinimum
from kernels.piecewise import PiecewiseLinear
from pipeline.cluster.actors import Actors
from pipeline.cluster.map_shards import MapShards, run_in_process
from pipeline.cluster.placement import PlacedDataset, assign_shards, place_shards, workers_of
from pipeline.cluster.shards import Shard, StreamedShard, load_shard
from pipeline.cluster.tasks import map_in_tasks
from pipeline.inputs.examples import Rows
from pipeline.inputs.weights import InitialWeights
from pipeline.objective import Objective
from pipeline.slices.line import Breakpoints, LossAlongLine, line_losses, line_search
from storage.dataset import Dataset
from tests.bits import bits
from tests.pipeline.conftest import Store
from tests.pipeline.workers import kill, process_ids, removals

Floats = NDArray[np.float64]
STEPS = np.array([0.0, 1e-9, 1e-7, 3e-7, 1e-6, 1e-5, 1e-2, -1e-6])
REGULARISERS = pytest.mark.parametrize(
    ("reg", "reg_bias"), [(0.0, False), (2e4, False), (2e4, True)]
)


def single_shard(dataset: Dataset) -> list[Shard]:
    return [load_shard(dataset, "train", 0, dataset.rows("train"))]


def resident_shards(dataset: Dataset) -> list[Shard]:
    return [load_shard(dataset, "train", run.start, run.stop) for run in dataset.shards("train")]


def streamed_shards(dataset: Dataset) -> list[Shard]:
    return [StreamedShard(dataset, "train", run.start, run.stop) for run in dataset.shards("train")]


def descending(objective: Objective, seed: int = 4) -> LossAlongLine:
    """Return the line of steepest descent from random weights with a large bias."""
    W = np.random.default_rng(seed).normal(0, 1e-3, (10, 3073))
    W[:, -1] *= 100
    return LossAlongLine(objective, W, -replace(objective, dtype="float64")(W).gradient)


def line_over(map_shards: MapShards, dataset: Dataset, **regulariser: Any) -> LossAlongLine:
    return descending(Objective(map_shards, dataset.mean, **regulariser))


@pytest.fixture(scope="module")
def placements(cluster: Client, store: Store) -> Iterator[dict[str, MapShards]]:
    """Yield all placements of the same 2,000 rows."""
    dataset = store()
    placed_dataset = PlacedDataset(cluster, dataset)
    with Actors(placed_dataset) as actors:
        yield {
            "one shard in process": run_in_process(single_shard(dataset)),
            "shards in process": run_in_process(resident_shards(dataset)),
            "streamed in process": run_in_process(streamed_shards(dataset)),
            "tasks": map_in_tasks(cluster, placed_dataset.shards("train")),
            "tasks of streamed shards": map_in_tasks(cluster, place_streamed(cluster, dataset)),
            "actors": actors,
        }


def place_streamed(client: Client, dataset: Dataset) -> Any:
    homes = assign_shards(dataset.rows("train"), workers_of(client))
    return place_shards(client, dataset, "train", [replace(home, resident=False) for home in homes])


PLACEMENTS = pytest.mark.parametrize(
    "placement",
    [
        *("one shard in process", "shards in process", "streamed in process"),
        *("tasks", "tasks of streamed shards", "actors"),
    ],
)


@PLACEMENTS
@REGULARISERS
def test_losses_along_the_line_match_separate_evaluations(
    placements: dict[str, MapShards], store: Store, placement: str, reg: float, reg_bias: bool
) -> None:
    dataset = store()
    line = line_over(placements[placement], dataset, reg=reg, reg_bias=reg_bias)
    alone = Objective(run_in_process(single_shard(dataset)), dataset.mean, reg, "float64", reg_bias)
    expected = [alone(line.W + a * line.V).loss for a in STEPS.tolist()]
    assert line(STEPS) == pytest.approx(expected, rel=1e-12, abs=0)
    assert line(STEPS)[0] == expected[0]
    assert expected[0] > expected[2] < expected[-2]  # the loss falls, then rises


@pytest.mark.slow
@REGULARISERS
def test_results_are_bit_identical_for_all_placements(
    placements: dict[str, MapShards],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    reg: float,
    reg_bias: bool,
) -> None:
    def found(map_shards: MapShards, dataset: Dataset) -> tuple[list[float], LineMinimum]:
        line = line_over(map_shards, dataset, reg=reg, reg_bias=reg_bias)
        return line(STEPS), line.minimum()

    values = {name: found(map_shards, store()) for name, map_shards in placements.items()}
    for rows in (100, 1999):
        values[f"shards of {rows}"] = found(
            run_in_process(resident_shards(store(rows))), store(rows)
        )
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 37)
    values["small blocks"] = found(run_in_process(streamed_shards(store())), store())
    assert {str(value) for value in values.values()} == {str(values["one shard in process"])}


def slope_at(margins: Floats, gains: Floats, penalty: tuple[float, float], a: float) -> float:
    """Return the derivative at a step size that is not a breakpoint."""
    linear, quadratic = penalty
    return float(gains[margins + a * gains > 0].sum()) / 2000 + linear + 2 * quadratic * a


@REGULARISERS
def test_slope_in_numpy_changes_sign_at_the_minimum(
    placements: dict[str, MapShards], store: Store, reg: float, reg_bias: bool
) -> None:
    dataset = store()
    line = line_over(placements["actors"], dataset, reg=reg, reg_bias=reg_bias)
    images, labels = dataset.read("train", 0, 2000)
    X = np.column_stack([images - dataset.mean, np.ones(2000)])
    wrong = np.arange(10) != labels[:, None]
    margins, gains = (
        (scores - scores[~wrong][:, None])[wrong] for scores in (X @ line.W.T, X @ line.V.T)
    )
    margins += 1
    W, V = (weights[:, : 3073 if reg_bias else 3072] for weights in (line.W, line.V))
    penalty = 2 * reg * float((W * V).sum()), reg * float((V * V).sum())
    at, breakpoints = line.minimum()
    assert slope_at(margins, gains, penalty, at * (1 - 1e-9)) < 0
    assert slope_at(margins, gains, penalty, at * (1 + 1e-9)) > 0
    assert breakpoints == np.count_nonzero(-margins / gains > 0)
    lowest, *others = line(np.concatenate([[at], np.linspace(0, 5 * at, 200)]))
    assert lowest <= min(others)


def test_regulariser_and_reg_bias_change_the_minimum(
    placements: dict[str, MapShards], store: Store
) -> None:
    """The tests of the minimum would not detect a wrong regulariser if the minima were equal."""
    found = {
        line_over(placements["actors"], store(), reg=reg, reg_bias=bias).minimum().step_size
        for reg, bias in [(0.0, False), (2e4, False), (2e4, True)]
    }
    assert len(found) == 3


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the passes over images for lines in this process; return the count as `[n]`."""
    passes = [0]

    def counting(*given: Any) -> Any:
        passes[0] += 1
        return margins_along_line(*given)

    monkeypatch.setattr("pipeline.slices.line.margins_along_line", counting)
    return passes


def test_repeated_requests_take_one_pass(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = count_passes(monkeypatch)
    line = line_over(run_in_process(single_shard(store())), store())
    line(STEPS)
    line(STEPS * 2)
    line.minimum()
    line_over(line.objective.map_shards, store())(STEPS)  # equal weights
    assert passes == [1]


def test_shard_memory_is_not_reused_for_another_line(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, passes = store(), count_passes(monkeypatch)
    objective = Objective(run_in_process(resident_shards(dataset)), dataset.mean)
    first, second = descending(objective, 1), descending(objective, 2)
    lines = {
        "first": first,
        "second": second,
        "other direction": replace(first, V=second.V),
        "opposite direction": replace(first, V=-first.V),
        "other start": replace(first, W=second.W),
        "other mean": replace(first, objective=replace(objective, mean=dataset.mean + 1)),
    }
    fresh = {
        name: with_new_shards(line, resident_shards(dataset))(STEPS) for name, line in lines.items()
    }
    assert len({str(losses) for losses in fresh.values()}) == len(lines)
    passes[0] = 0
    for _ in range(2):
        for name, line in lines.items():
            assert line(STEPS) == fresh[name], name
    shards = len(resident_shards(dataset))
    assert passes == [2 * len(lines) * shards]  # every request takes a new pass


def with_new_shards(line: LossAlongLine, shards: Sequence[Shard]) -> LossAlongLine:
    return replace(line, objective=replace(line.objective, map_shards=run_in_process(shards)))


def test_weights_changed_in_place_are_evaluated_again(store: Store) -> None:
    dataset = store()
    line = line_over(run_in_process(single_shard(dataset)), dataset)
    before = line(STEPS)
    moved = replace(line, W=line.W)  # the same array
    line.W[3, 5] += 0.01
    after = moved(STEPS)
    assert after != before
    assert after == with_new_shards(moved, single_shard(dataset))(STEPS)


@pytest.mark.slow
def test_results_are_the_same_after_workers_are_killed(client: Client, store: Store) -> None:
    dataset = store(100)
    expected = line_over(run_in_process(single_shard(dataset)), dataset, reg=2e4)
    placed_dataset = PlacedDataset(client, dataset)
    with Actors(placed_dataset) as actors:
        line = line_over(actors, dataset, reg=2e4)
        assert line(STEPS) == expected(STEPS)
        (address, pid), *_ = process_ids(client).items()
        kill(pid)  # the worker's margins are lost with it
        assert line.minimum() == expected.minimum()
        assert removals(client, address)
        assert line(STEPS) == expected(STEPS)
    tasks = map_in_tasks(client, placed_dataset.shards("train"))
    (address, pid), *_ = process_ids(client).items()
    kill(pid)
    assert line_over(tasks, dataset, reg=2e4).minimum() == expected.minimum()
    assert removals(client, address)


def test_line_search_finds_the_minimum_along_the_negative_step(
    placements: dict[str, MapShards], store: Store
) -> None:
    objective = Objective(placements["actors"], store().mean, 2e4)
    line = descending(objective)
    assert line_search(objective)(line.W, -line.V) == line.minimum().step_size > 0
    assert line_search(objective)(line.W, line.V) == 0.0  # uphill, a step size of 0 is the best


def test_non_finite_direction_raises_value_error(store: Store) -> None:
    line = line_over(run_in_process(single_shard(store())), store())
    line.V[0, 0] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        line.minimum()


@pytest.mark.parametrize(("scale", "words"), [(1e153, "out of range"), (1e300, "must be finite")])
def test_regulariser_out_of_range_raises_value_error(
    store: Store, scale: float, words: str
) -> None:
    line = line_over(run_in_process(single_shard(store())), store(), reg=1.0)
    line.V[:] = scale
    with pytest.raises(ValueError, match=words):
        line.minimum()
    assert line(np.array([1e100])) == [np.inf]


# Lines over some of the rows, and the loss as a function of the step size.

ROWS = {
    "some": np.random.default_rng(8).integers(0, 2000, 250),  # unordered, with duplicates
    "of one shard": np.arange(800, 900),
    "one": np.array([1402]),
}
EACH_ROWS = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
LOW, HIGH = -1e-6, 1e-5


@pytest.mark.slow
@PLACEMENTS
@EACH_ROWS
def test_losses_over_some_rows_match_separate_evaluations(
    placements: dict[str, MapShards], store: Store, placement: str, rows: Rows
) -> None:
    dataset = store()
    line = replace(line_over(placements[placement], dataset, reg=2e4), rows=rows)
    alone = Objective(run_in_process(single_shard(dataset)), dataset.mean, 2e4, "float64")
    expected = [alone(line.W + a * line.V, rows).loss for a in STEPS.tolist()]
    assert line(STEPS) == pytest.approx(expected, rel=1e-12, abs=0)
    assert line(STEPS)[0] == expected[0]
    at, _ = line.minimum()
    lowest, *others = line(np.concatenate([[at], np.linspace(0, 5 * at, 200)]))
    assert lowest <= min(others)


def in_numpy(line: LossAlongLine, dataset: Dataset) -> tuple[Floats, Floats]:
    """Return the margins of the wrong classes, and the gain of each margin per unit step."""
    rows = np.arange(2000) if line.rows is None else line.rows
    images, labels = (array[rows] for array in dataset.read("train", 0, 2000))
    X = np.column_stack([images - dataset.mean, np.ones(len(rows))])
    wrong = np.arange(10) != labels[:, None]
    margins, gains = (
        (scores - scores[~wrong][:, None])[wrong] for scores in (X @ line.W.T, X @ line.V.T)
    )
    return margins + 1, gains


def assert_function_matches(
    function: PiecewiseLinear, line: LossAlongLine, dataset: Dataset
) -> None:
    """Compare the values with the losses of `line`, and breakpoints and slopes with NumPy."""
    margins, gains = in_numpy(line, dataset)
    places = np.sort(-margins / gains)
    places = places[(places > LOW) & (places <= HIGH)]
    assert function.breakpoints == len(places) > 0
    np.testing.assert_allclose(function.positions[1:-1], places, rtol=1e-9, atol=1e-18)
    assert (function.positions[0], function.positions[-1]) == (LOW, HIGH)
    np.testing.assert_allclose(function.values, line(function.positions), rtol=1e-12)
    assert (np.diff(function.slopes) >= 0).all()
    rows = len(margins) // 9
    for slope, at in ((function.slopes[0], LOW), (function.slopes[-1], HIGH)):
        assert slope == pytest.approx(gains[margins + at * gains > 0].sum() / rows, rel=1e-9)


@pytest.mark.parametrize("rows", [None, *ROWS.values()], ids=["all", *ROWS])
def test_function_matches_the_loss_at_every_breakpoint(store: Store, rows: Rows | None) -> None:
    dataset = store()
    line = replace(line_over(run_in_process(resident_shards(dataset)), dataset), rows=rows)
    function = line.function(LOW, HIGH)
    assert_function_matches(function, line, dataset)
    regularised = replace(line, objective=replace(line.objective, reg=2e4))
    without = regularised.function(LOW, HIGH)
    # the function excludes the regulariser
    assert function_bits(without) == function_bits(function)


def function_bits(function: PiecewiseLinear) -> str:
    return bits(function.positions, function.values, function.slopes)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [None, ROWS["some"], ROWS["one"]], ids=["all", "some", "one"])
def test_function_is_bit_identical_for_all_placements(
    placements: dict[str, MapShards],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    rows: Rows | None,
) -> None:
    def found(map_shards: MapShards) -> str:
        return function_bits(replace(line_over(map_shards, store()), rows=rows).function(LOW, HIGH))

    functions = {name: found(map_shards) for name, map_shards in placements.items()}
    functions["shards of 1999"] = found(run_in_process(resident_shards(store(1999))))
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 137)
    functions["small blocks"] = found(run_in_process(streamed_shards(store())))
    assert functions == dict.fromkeys(functions, functions["one shard in process"])


def test_function_is_bit_identical_where_breakpoints_coincide(
    placements: dict[str, MapShards], store: Store
) -> None:
    """At these weights all margins of the images of class 0 are 0, with different gains."""
    functions = {}
    for placement in ("one shard in process", "shards in process"):
        line = line_over(placements[placement], store())
        line.W[:] = 0.0
        line.W[0, -1] = 1.0
        functions[placement] = function_bits(line.function(LOW, HIGH))
    assert functions["shards in process"] == functions["one shard in process"]


FAULTS: dict[str, tuple[str, Any]] = {
    "row selection ignored": (
        "pipeline.cluster.shards.Block.chosen",
        property(lambda block: (block.images, block.labels)),
    ),
    "breakpoints of the first shard only": (
        "pipeline.slices.line.Breakpoints.combine",
        lambda first, _second: first,
    ),
    "jumps not in the order of their positions": (
        "pipeline.slices.line.Breakpoints.combine",
        lambda first, second: Breakpoints(
            np.concatenate([first.positions, second.positions]),
            np.concatenate([second.jumps, first.jumps]),
        ),
    ),
    "loss at another step size": (
        "pipeline.slices.line.line_losses",
        lambda shard, asked: line_losses(shard, asked._replace(steps=asked.steps * 1.5 + 1e-7)),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_in_the_function_is_detected(
    store: Store, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    dataset = store()
    line = replace(line_over(run_in_process(resident_shards(dataset)), dataset), rows=ROWS["some"])
    with monkeypatch.context() as patch:
        patch.setattr(*FAULTS[fault])
        function = line.function(LOW, HIGH)
    fresh = with_new_shards(line, resident_shards(dataset))
    assert_function_matches(fresh.function(LOW, HIGH), fresh, dataset)
    with pytest.raises(AssertionError):
        assert_function_matches(function, fresh, dataset)


def test_shard_memory_is_not_reused_for_other_rows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, passes = store(), count_passes(monkeypatch)
    line = line_over(run_in_process(single_shard(dataset)), dataset)
    lines = [line, *(replace(line, rows=rows) for rows in (*ROWS.values(), np.arange(801, 901)))]
    fresh = [with_new_shards(each, single_shard(dataset))(STEPS) for each in lines]
    assert len({str(losses) for losses in fresh}) == len(lines)
    passes[0] = 0
    assert [each(STEPS) for each in lines] == fresh
    assert replace(lines[-1], rows=np.arange(801, 901))(STEPS) == fresh[-1]  # equal rows
    assert passes == [len(lines)]


def test_rows_changed_in_place_are_evaluated_again(store: Store) -> None:
    dataset, rows = store(), np.arange(7)
    line = replace(line_over(run_in_process(single_shard(dataset)), dataset), rows=rows)
    line(STEPS)
    rows += 20
    assert line(STEPS) == with_new_shards(line, single_shard(dataset))(STEPS)


def test_function_with_reversed_ends_raises_value_error(store: Store) -> None:
    with pytest.raises(ValueError, match=r"must be at most the last, not 1\.0 and 0\.0"):
        line_over(run_in_process(single_shard(store())), store()).function(1.0, 0.0)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("seed", [0, 1])
def test_notes_sweep_on_real_images_is_lowest_at_1e_6(
    client: Client, store: Store, real_cifar10: Path, seed: int
) -> None:
    dataset = store(7001, real_cifar10)
    with Actors(PlacedDataset(client, dataset)) as actors:
        objective = Objective(actors, dataset.mean, 0.0, "float64")
        W = InitialWeights.parse("uniform:1e-3").weights(10, seed)
        value = objective(W)
        line = LossAlongLine(objective, W, -value.gradient)
        decades = line(np.array([float(f"1e{exponent}") for exponent in range(-10, 0)]))
        at, breakpoints = line.minimum()
        grids = np.geomspace(1e-10, 1e-1, 5_000), np.linspace(0, 3 * at, 5_000)
        lowest, *others = line(np.concatenate([[at], *grids]))
    assert (value.rows, int(np.argmin(decades))) == (50_000, 4)  # 1e-6
    growth = [later / earlier for earlier, later in pairwise(decades[5:])]
    assert growth == pytest.approx([10] * 4, rel=0.06)
    assert growth[1:] == pytest.approx([10] * 3, rel=0.006)
    assert lowest <= min(others)
    assert lowest < min(decades) < value.loss
    assert 0 < breakpoints <= 50_000 * 9
