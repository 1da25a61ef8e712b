"""The loss along a line over shards: each point is its own evaluation, however it is asked for."""

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


def whole(dataset: Dataset) -> list[Shard]:
    return [load_shard(dataset, "train", 0, dataset.rows("train"))]


def resident(dataset: Dataset) -> list[Shard]:
    return [load_shard(dataset, "train", run.start, run.stop) for run in dataset.shards("train")]


def streamed(dataset: Dataset) -> list[Shard]:
    return [StreamedShard(dataset, "train", run.start, run.stop) for run in dataset.shards("train")]


def descending(objective: Objective, seed: int = 4) -> LossAlongLine:
    """The line of steepest descent from some weights, with a bias that counts."""
    W = np.random.default_rng(seed).normal(0, 1e-3, (10, 3073))
    W[:, -1] *= 100
    return LossAlongLine(objective, W, -replace(objective, dtype="float64")(W).gradient)


def line_over(map_shards: MapShards, dataset: Dataset, **regulariser: Any) -> LossAlongLine:
    return descending(Objective(map_shards, dataset.mean, **regulariser))


@pytest.fixture(scope="module")
def ways(cluster: Client, store: Store) -> Iterator[dict[str, MapShards]]:
    """All there are to go over the same 2,000 rows."""
    dataset = store()
    placed_dataset = PlacedDataset(cluster, dataset)
    with Actors(placed_dataset) as actors:
        yield {
            "one shard here": run_in_process(whole(dataset)),
            "shards here": run_in_process(resident(dataset)),
            "streamed here": run_in_process(streamed(dataset)),
            "tasks": map_in_tasks(cluster, placed_dataset.shards("train")),
            "tasks of streamed shards": map_in_tasks(cluster, in_the_store(cluster, dataset)),
            "actors": actors,
        }


def in_the_store(client: Client, dataset: Dataset) -> Any:
    homes = assign_shards(dataset.rows("train"), workers_of(client))
    return place_shards(client, dataset, "train", [replace(home, resident=False) for home in homes])


WAYS = pytest.mark.parametrize(
    "way",
    [
        *("one shard here", "shards here", "streamed here"),
        *("tasks", "tasks of streamed shards", "actors"),
    ],
)


@WAYS
@REGULARISERS
def test_a_point_of_the_line_is_an_evaluation_of_its_own(
    ways: dict[str, MapShards], store: Store, way: str, reg: float, reg_bias: bool
) -> None:
    dataset = store()
    line = line_over(ways[way], dataset, reg=reg, reg_bias=reg_bias)
    alone = Objective(run_in_process(whole(dataset)), dataset.mean, reg, "float64", reg_bias)
    expected = [alone(line.W + a * line.V).loss for a in STEPS.tolist()]
    assert line(STEPS) == pytest.approx(expected, rel=1e-12, abs=0)
    assert line(STEPS)[0] == expected[0]
    assert expected[0] > expected[2] < expected[-2]  # it has a valley


@pytest.mark.slow
@REGULARISERS
def test_the_ways_differ_in_no_bit(
    ways: dict[str, MapShards],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    reg: float,
    reg_bias: bool,
) -> None:
    def found(map_shards: MapShards, dataset: Dataset) -> tuple[list[float], LineMinimum]:
        line = line_over(map_shards, dataset, reg=reg, reg_bias=reg_bias)
        return line(STEPS), line.minimum()

    values = {name: found(map_shards, store()) for name, map_shards in ways.items()}
    for rows in (100, 1999):
        values[f"shards of {rows}"] = found(run_in_process(resident(store(rows))), store(rows))
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 37)
    values["small blocks"] = found(run_in_process(streamed(store())), store())
    assert {str(value) for value in values.values()} == {str(values["one shard here"])}


def slope_at(margins: Floats, gains: Floats, penalty: tuple[float, float], a: float) -> float:
    """The derivative by the definition, away from a breakpoint."""
    linear, quadratic = penalty
    return float(gains[margins + a * gains > 0].sum()) / 2000 + linear + 2 * quadratic * a


@REGULARISERS
def test_the_minimum_is_where_numpys_slope_changes_its_sign(
    ways: dict[str, MapShards], store: Store, reg: float, reg_bias: bool
) -> None:
    dataset = store()
    line = line_over(ways["actors"], dataset, reg=reg, reg_bias=reg_bias)
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


def test_without_the_bias_or_with_it_the_minimum_is_another(
    ways: dict[str, MapShards], store: Store
) -> None:
    """Or the test above would not tell the two apart."""
    found = {
        line_over(ways["actors"], store(), reg=reg, reg_bias=bias).minimum().step_size
        for reg, bias in [(0.0, False), (2e4, False), (2e4, True)]
    }
    assert len(found) == 3


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many passes over images the lines of this process take."""
    passes = [0]

    def counting(*given: Any) -> Any:
        passes[0] += 1
        return margins_along_line(*given)

    monkeypatch.setattr("pipeline.slices.line.margins_along_line", counting)
    return passes


def test_a_line_is_taken_once_however_often_it_is_asked(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = counted(monkeypatch)
    line = line_over(run_in_process(whole(store())), store())
    line(STEPS)
    line(STEPS * 2)
    line.minimum()
    line_over(line.objective.map_shards, store())(STEPS)  # the same weights again
    assert passes == [1]


def test_what_a_shard_remembers_is_not_taken_for_another_lines(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, passes = store(), counted(monkeypatch)
    objective = Objective(run_in_process(resident(dataset)), dataset.mean)
    first, second = descending(objective, 1), descending(objective, 2)
    lines = {
        "first": first,
        "second": second,
        "other way": replace(first, V=second.V),
        "back": replace(first, V=-first.V),
        "other start": replace(first, W=second.W),
        "other mean": replace(first, objective=replace(objective, mean=dataset.mean + 1)),
    }
    fresh = {name: _afresh(line, resident(dataset))(STEPS) for name, line in lines.items()}
    assert len({str(losses) for losses in fresh.values()}) == len(lines)
    passes[0] = 0
    for _ in range(2):
        for name, line in lines.items():
            assert line(STEPS) == fresh[name], name
    shards = len(resident(dataset))
    assert passes == [2 * len(lines) * shards]  # each a line of its own, and none kept


def _afresh(line: LossAlongLine, shards: Sequence[Shard]) -> LossAlongLine:
    return replace(line, objective=replace(line.objective, map_shards=run_in_process(shards)))


def test_weights_changed_in_place_are_other_weights(store: Store) -> None:
    dataset = store()
    line = line_over(run_in_process(whole(dataset)), dataset)
    before = line(STEPS)
    moved = replace(line, W=line.W)  # the same array
    line.W[3, 5] += 0.01
    after = moved(STEPS)
    assert after != before
    assert after == _afresh(moved, whole(dataset))(STEPS)


@pytest.mark.slow
def test_killed_workers_change_nothing(client: Client, store: Store) -> None:
    dataset = store(100)
    expected = line_over(run_in_process(whole(dataset)), dataset, reg=2e4)
    placed_dataset = PlacedDataset(client, dataset)
    with Actors(placed_dataset) as actors:
        line = line_over(actors, dataset, reg=2e4)
        assert line(STEPS) == expected(STEPS)
        (address, pid), *_ = process_ids(client).items()
        kill(pid)  # and with it the margins that it remembered
        assert line.minimum() == expected.minimum()
        assert removals(client, address)
        assert line(STEPS) == expected(STEPS)
    tasks = map_in_tasks(client, placed_dataset.shards("train"))
    (address, pid), *_ = process_ids(client).items()
    kill(pid)
    assert line_over(tasks, dataset, reg=2e4).minimum() == expected.minimum()
    assert removals(client, address)


def test_the_line_search_of_an_update_rule_goes_down_along_its_step(
    ways: dict[str, MapShards], store: Store
) -> None:
    objective = Objective(ways["actors"], store().mean, 2e4)
    line = descending(objective)
    assert line_search(objective)(line.W, -line.V) == line.minimum().step_size > 0
    assert line_search(objective)(line.W, line.V) == 0.0  # up: nothing is lower than to stay


def test_weights_that_are_no_numbers_are_refused(store: Store) -> None:
    line = line_over(run_in_process(whole(store())), store())
    line.V[0, 0] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        line.minimum()


@pytest.mark.parametrize(("scale", "words"), [(1e153, "out of range"), (1e300, "must be finite")])
def test_a_regulariser_out_of_all_range_is_refused(store: Store, scale: float, words: str) -> None:
    line = line_over(run_in_process(whole(store())), store(), reg=1.0)
    line.V[:] = scale
    with pytest.raises(ValueError, match=words):
        line.minimum()
    assert line(np.array([1e100])) == [np.inf]


# Over some of the rows, and whole.

ROWS = {
    "some": np.random.default_rng(8).integers(0, 2000, 250),  # in no order, and some of them twice
    "of one shard": np.arange(800, 900),
    "one": np.array([1402]),
}
EACH = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
LOW, HIGH = -1e-6, 1e-5


@pytest.mark.slow
@WAYS
@EACH
def test_over_some_rows_a_point_is_an_evaluation_over_them(
    ways: dict[str, MapShards], store: Store, way: str, rows: Rows
) -> None:
    dataset = store()
    line = replace(line_over(ways[way], dataset, reg=2e4), rows=rows)
    alone = Objective(run_in_process(whole(dataset)), dataset.mean, 2e4, "float64")
    expected = [alone(line.W + a * line.V, rows).loss for a in STEPS.tolist()]
    assert line(STEPS) == pytest.approx(expected, rel=1e-12, abs=0)
    assert line(STEPS)[0] == expected[0]
    at, _ = line.minimum()
    lowest, *others = line(np.concatenate([[at], np.linspace(0, 5 * at, 200)]))
    assert lowest <= min(others)


def in_numpy(line: LossAlongLine, dataset: Dataset) -> tuple[Floats, Floats]:
    """The margins of the wrong classes, and what they gain."""
    rows = np.arange(2000) if line.rows is None else line.rows
    images, labels = (array[rows] for array in dataset.read("train", 0, 2000))
    X = np.column_stack([images - dataset.mean, np.ones(len(rows))])
    wrong = np.arange(10) != labels[:, None]
    margins, gains = (
        (scores - scores[~wrong][:, None])[wrong] for scores in (X @ line.W.T, X @ line.V.T)
    )
    return margins + 1, gains


def assert_whole(function: PiecewiseLinear, line: LossAlongLine, dataset: Dataset) -> None:
    """Hold it to the losses, and its breakpoints and slopes to NumPy's."""
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
def test_the_function_is_the_loss_at_every_breakpoint(store: Store, rows: Rows | None) -> None:
    dataset = store()
    line = replace(line_over(run_in_process(resident(dataset)), dataset), rows=rows)
    function = line.function(LOW, HIGH)
    assert_whole(function, line, dataset)
    regularised = replace(line, objective=replace(line.objective, reg=2e4))
    without = regularised.function(LOW, HIGH)
    assert function_bits(without) == function_bits(function)  # it has no regulariser


def function_bits(function: PiecewiseLinear) -> str:
    return bits(function.positions, function.values, function.slopes)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [None, ROWS["some"], ROWS["one"]], ids=["all", "some", "one"])
def test_the_function_is_the_same_bits_whichever_way(
    ways: dict[str, MapShards], store: Store, monkeypatch: pytest.MonkeyPatch, rows: Rows | None
) -> None:
    def found(map_shards: MapShards) -> str:
        return function_bits(replace(line_over(map_shards, store()), rows=rows).function(LOW, HIGH))

    functions = {name: found(map_shards) for name, map_shards in ways.items()}
    functions["shards of 1999"] = found(run_in_process(resident(store(1999))))
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 137)
    functions["small blocks"] = found(run_in_process(streamed(store())))
    assert functions == dict.fromkeys(functions, functions["one shard here"])


def test_the_function_is_the_same_bits_where_breakpoints_meet(
    ways: dict[str, MapShards], store: Store
) -> None:
    """All margins of a class are 0 at once, but gain otherwise."""
    functions = {}
    for way in ("one shard here", "shards here"):
        line = line_over(ways[way], store())
        line.W[:] = 0.0
        line.W[0, -1] = 1.0
        functions[way] = function_bits(line.function(LOW, HIGH))
    assert functions["shards here"] == functions["one shard here"]


FAULTS: dict[str, tuple[str, Any]] = {
    "rows forgotten": (
        "pipeline.cluster.shards.Block.chosen",
        property(lambda block: (block.images, block.labels)),
    ),
    "breakpoints of the first shard alone": (
        "pipeline.slices.line.Breakpoints.combine",
        lambda first, _second: first,
    ),
    "jumps apart from their positions": (
        "pipeline.slices.line.Breakpoints.combine",
        lambda first, second: Breakpoints(
            np.concatenate([first.positions, second.positions]),
            np.concatenate([second.jumps, first.jumps]),
        ),
    ),
    "the loss at another place": (
        "pipeline.slices.line.line_losses",
        lambda shard, asked: line_losses(shard, asked._replace(steps=asked.steps * 1.5 + 1e-7)),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_function_fails(
    store: Store, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    dataset = store()
    line = replace(line_over(run_in_process(resident(dataset)), dataset), rows=ROWS["some"])
    with monkeypatch.context() as patch:
        patch.setattr(*FAULTS[fault])
        function = line.function(LOW, HIGH)
    fresh = _afresh(line, resident(dataset))
    assert_whole(fresh.function(LOW, HIGH), fresh, dataset)
    with pytest.raises(AssertionError):
        assert_whole(function, fresh, dataset)


def test_a_line_over_other_rows_is_another(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, passes = store(), counted(monkeypatch)
    line = line_over(run_in_process(whole(dataset)), dataset)
    lines = [line, *(replace(line, rows=rows) for rows in (*ROWS.values(), np.arange(801, 901)))]
    fresh = [_afresh(each, whole(dataset))(STEPS) for each in lines]
    assert len({str(losses) for losses in fresh}) == len(lines)
    passes[0] = 0
    assert [each(STEPS) for each in lines] == fresh
    assert replace(lines[-1], rows=np.arange(801, 901))(STEPS) == fresh[-1]  # equal rows
    assert passes == [len(lines)]


def test_rows_changed_in_place_are_other_rows(store: Store) -> None:
    dataset, rows = store(), np.arange(7)
    line = replace(line_over(run_in_process(whole(dataset)), dataset), rows=rows)
    line(STEPS)
    rows += 20
    assert line(STEPS) == _afresh(line, whole(dataset))(STEPS)


def test_a_function_goes_from_a_lower_to_a_higher_end(store: Store) -> None:
    with pytest.raises(ValueError, match=r"from a lower step size to a higher one, not from 1\.0"):
        line_over(run_in_process(whole(store())), store()).function(1.0, 0.0)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("seed", [0, 1])
def test_the_notes_sweep_on_the_real_images(
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
