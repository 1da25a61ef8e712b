"""The black-box check: its quotients match NumPy and the structured differences."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray

from kernels.finite_difference import Scheme, numerical_gradient
from pipeline.check import black_box
from pipeline.check.black_box import BLOCK, BlackBoxInputs, move_weights, plan_blocks
from pipeline.check.parameters import GradientCheck
from pipeline.check.structured import DifferenceRequest, compare, difference_sums, make_probe
from pipeline.cluster.map_shards import run_in_process
from pipeline.cluster.placement import PlacedDataset, PlacedShard
from pipeline.inputs.errors import PipelineError
from pipeline.journals.value_journal import value_journal
from pipeline.objective import Objective
from storage.dataset import Dataset
from tests.pipeline.conftest import Store
from tests.pipeline.test_line import place_streamed, single_shard
from tests.pipeline.workers import kill, process_ids, removals, until

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
SOURCE = "synthetic:600"
STEP = 1e-4
ROWS = np.random.default_rng(8).choice(600, 200, replace=False)
SCHEMES = pytest.mark.parametrize("scheme", list(Scheme))
REGULARISERS = pytest.mark.parametrize(
    ("reg", "reg_bias"), [(0.0, False), (2e3, False), (2e3, True)]
)


def inputs_of(dataset: Dataset, scheme: Scheme = Scheme.CENTRED, **more: Any) -> BlackBoxInputs:
    W = np.random.default_rng(4).normal(0, 1e-3, (10, 3073))
    W[:, -1] *= 100
    return BlackBoxInputs(W, dataset.mean, STEP, scheme, **({"rows": ROWS} | more))


def sample_coordinates(number: int) -> Integers:
    """Return `number` coordinates, including the ten biases."""
    drawn = np.random.default_rng(number).choice(30730, number - 10, replace=False)
    return np.union1d(drawn, np.arange(1, 11) * 3073 - 1)


@pytest.fixture(scope="module")
def dataset(store: Store) -> Dataset:
    return store(151, SOURCE)


@pytest.fixture(scope="module")
def placed(cluster: Client, dataset: Dataset) -> Sequence[PlacedShard]:
    return PlacedDataset(cluster, dataset).shards("train")


def quotients(
    client: Client, placed: Sequence[PlacedShard], inputs: BlackBoxInputs, coordinates: Integers
) -> Floats:
    found = black_box.difference_quotients(client, placed, inputs, plan_blocks(coordinates))
    return np.concatenate(list(found))


def loss_in_numpy(dataset: Dataset, inputs: BlackBoxInputs) -> Callable[[Floats], float]:
    images, y = dataset.read("train", 0, dataset.rows("train"))
    X, y = np.column_stack([images - dataset.mean, np.ones(len(y))])[inputs.rows], y[inputs.rows]
    own = np.arange(len(y))
    columns = 3073 if inputs.reg_bias else 3072

    def loss(W: Floats) -> float:
        scores = X @ W.T
        margins = np.maximum(0, scores - scores[own, y][:, None] + 1)
        margins[own, y] = 0
        hinges = margins.sum(axis=1).mean()
        return float(hinges + inputs.reg * (W[:, :columns] ** 2).sum())

    return loss


@pytest.mark.slow
@SCHEMES
@REGULARISERS
def test_quotients_match_differences_of_a_numpy_loss(
    cluster: Client,
    dataset: Dataset,
    placed: Sequence[PlacedShard],
    scheme: Scheme,
    reg: float,
    reg_bias: bool,
) -> None:
    """The tolerance is the rounding error of NumPy's loss, about 100 ulp, divided by the step."""
    inputs = inputs_of(dataset, scheme, reg=reg, reg_bias=reg_bias)
    coordinates, loss = sample_coordinates(60), loss_in_numpy(dataset, inputs)
    expected = numerical_gradient(loss, inputs.W, scheme=scheme, step=STEP, coordinates=coordinates)
    if scheme is Scheme.FORWARD:  # the pipeline subtracts the curvature of the regulariser
        bends = np.full(60, reg * STEP)
        bends[coordinates % 3073 == 3072] *= reg_bias
        expected -= bends
    found = quotients(cluster, placed, inputs, coordinates)
    bound = 100 * np.spacing(loss(inputs.W)) / STEP
    assert bound < 2e-7
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)
    assert np.ptp(found) > 1  # the quotients are not all equal


def structured(dataset: Dataset, inputs: BlackBoxInputs) -> Floats:
    """Return the structured differences (C (D + 1),) of the same loss."""
    check = GradientCheck(step=STEP, scheme=inputs.scheme, reg=inputs.reg, reg_bias=inputs.reg_bias)
    probe = make_probe(inputs.W, dataset.mean, check)
    sums = difference_sums(
        run_in_process(single_shard(dataset)), DifferenceRequest(probe, inputs.rows)
    )
    return compare(inputs.W, np.zeros_like(inputs.W), probe, sums, check).numerical.ravel()


@SCHEMES
def test_quotients_match_the_structured_differences(
    cluster: Client, dataset: Dataset, placed: Sequence[PlacedShard], scheme: Scheme
) -> None:
    inputs, coordinates = inputs_of(dataset, scheme, reg=20.0), sample_coordinates(300)
    found = quotients(cluster, placed, inputs, coordinates)
    expected = structured(dataset, inputs)[coordinates]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


def test_roundoff_bound_holds_and_is_not_vacuous(
    cluster: Client, dataset: Dataset, placed: Sequence[PlacedShard]
) -> None:
    """Use a step so small that most of the error comes from rounding."""
    inputs = inputs_of(dataset, rows=None)._replace(step=1e-9)
    value = Objective(run_in_process(single_shard(dataset)), dataset.mean, 0.0, "float64")(inputs.W)
    check = GradientCheck(step=1e-9)
    probe = make_probe(inputs.W, dataset.mean, check)
    sums = difference_sums(run_in_process(single_shard(dataset)), DifferenceRequest(probe))
    compared = compare(inputs.W, value.gradient, probe, sums, check)
    active = np.array([[each.rows / 600] for each in sums.active])
    coordinates = sample_coordinates(40)
    found = quotients(cluster, placed, inputs, coordinates)
    bound = black_box.roundoff(inputs, compared.numerical, value.loss, active).ravel()
    slope = (compared.analytic + compared.kinks).ravel()[coordinates]  # exact up to rounding
    error = np.abs(found - slope)
    assert (error <= (bound + compared.bound.ravel())[coordinates]).all()
    assert error.max() > 1e-9 * bound[coordinates].max() > 0


@pytest.mark.slow
def test_quotients_are_bit_identical_for_all_shards_and_blocks(
    cluster: Client, store: Store, placed: Sequence[PlacedShard], dataset: Dataset
) -> None:
    inputs, coordinates = inputs_of(dataset, reg=20.0), sample_coordinates(40)
    expected = quotients(cluster, placed, inputs, coordinates)
    for size in (37, 599):
        others = PlacedDataset(cluster, store(size, SOURCE)).shards("train")
        np.testing.assert_array_equal(quotients(cluster, others, inputs, coordinates), expected)
    read = place_streamed(cluster, dataset)
    np.testing.assert_array_equal(quotients(cluster, read, inputs, coordinates), expected)
    in_order = [coordinates[:1], coordinates[1:30], coordinates[30:]]
    found = np.concatenate(list(black_box.difference_quotients(cluster, placed, inputs, in_order)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@SCHEMES
def test_quotients_are_bit_identical_after_a_worker_is_killed(
    client: Client, store: Store, scheme: Scheme
) -> None:
    dataset = store(151, SOURCE)
    inputs, coordinates = inputs_of(dataset, scheme), sample_coordinates(100)
    placed = PlacedDataset(client, dataset).shards("train")
    expected = quotients(client, placed, inputs, coordinates)
    found: list[Floats] = []
    (address, pid), *_ = process_ids(client).items()
    for block in black_box.difference_quotients(client, placed, inputs, plan_blocks(coordinates)):
        if not found:
            kill(pid)
        found.append(block)
    assert until(lambda: removals(client, address))
    np.testing.assert_array_equal(np.concatenate(found), expected)


def finished_tasks(client: Client) -> dict[str, int]:
    """Return the number of finished tasks per name, as on the dashboard's progress page."""

    def count(dask_scheduler: Any) -> dict[str, int]:
        prefixes = dask_scheduler.task_prefixes.items()
        return {name: prefix.state_counts["memory"] for name, prefix in prefixes}

    counted: dict[str, int] = client.run_on_scheduler(count)
    return counted


@SCHEMES
@pytest.mark.parametrize("number", [BLOCK, 40])
def test_estimate_matches_the_tasks_and_evaluations_that_run(
    cluster: Client,
    dataset: Dataset,
    placed: Sequence[PlacedShard],
    monkeypatch: pytest.MonkeyPatch,
    scheme: Scheme,
    number: int,
) -> None:
    """Count the tasks by the names that the dashboard shows."""
    monkeypatch.setattr(black_box, "_seconds_per_row", lambda _: 1e-5)
    inputs, coordinates = inputs_of(dataset, scheme), sample_coordinates(number)
    estimate = black_box.estimate_cost(inputs, number, len(ROWS), len(placed), 4)
    before = finished_tasks(cluster)
    quotients(cluster, placed, inputs, coordinates)
    names = ("hinge-move-weights", "hinge-black-box")
    ran = [finished_tasks(cluster).get(name, 0) - before.get(name, 0) for name in names]
    blocks = plan_blocks(coordinates)
    at_once = [move_weights(inputs, block).W for block in blocks]
    evaluations = sum(map(len, at_once))
    if scheme is Scheme.FORWARD:  # one more evaluation, at the weights themselves
        blocks.append(coordinates[:0])
        [itself] = move_weights(inputs, blocks[-1]).W
        np.testing.assert_array_equal(itself, inputs.W)
        evaluations += 1
    assert ran == [len(blocks), len(blocks) * len(placed)]
    assert estimate.tasks == sum(ran)
    assert estimate.evaluations == evaluations
    assert estimate.seconds == pytest.approx(evaluations * len(ROWS) * 1e-5 / 4)
    # the moved weights, a contiguous copy without the bias, and a copy in the kernel's type
    assert 3 * at_once[0].nbytes <= estimate.bytes_a_task < 3.2 * at_once[0].nbytes


def test_estimated_time_grows_with_the_coordinates(dataset: Dataset) -> None:
    one, two = (black_box.estimate_cost(inputs_of(dataset), n, 200, 4, 1) for n in (100, 10_000))
    assert 0 < one.seconds < two.seconds < 3600


@SCHEMES
def test_each_set_of_moved_weights_differs_in_one_weight(dataset: Dataset, scheme: Scheme) -> None:
    inputs = inputs_of(dataset, scheme)
    before = inputs.W.copy()
    moved = move_weights(inputs, np.array([3, 3072, 30729])).W
    np.testing.assert_array_equal(inputs.W, before)
    places = [(0, 3), (0, 3072), (9, 3072)]
    signs = [1, -1] if scheme is Scheme.CENTRED else [1]
    assert len(moved) == 3 * len(signs)
    for W, (place, sign) in zip(moved, [(p, s) for p in places for s in signs], strict=True):
        assert np.argwhere(before != W).tolist() == [list(place)]
        assert W[place] == before[place] + sign * STEP


def test_no_coordinates_yield_no_quotients(cluster: Client, dataset: Dataset, placed: Any) -> None:
    for scheme in Scheme:
        inputs = inputs_of(dataset, scheme)
        assert list(black_box.difference_quotients(cluster, placed, inputs, [])) == []


@SCHEMES
def test_weights_out_of_range_raise_pipeline_error(
    cluster: Client, dataset: Dataset, placed: Sequence[PlacedShard], scheme: Scheme
) -> None:
    inputs = inputs_of(dataset, scheme)._replace(W=np.full((10, 3073), 1e300))
    inputs.W[0] *= -1
    with pytest.raises(PipelineError, match="is not finite; use smaller weights"):
        quotients(cluster, placed, inputs, sample_coordinates(20))


def test_differences_resume_after_the_last_value_in_the_journal(
    cluster: Client, dataset: Dataset, placed: Sequence[PlacedShard], tmp_path: Path
) -> None:
    inputs, coordinates, path = (
        inputs_of(dataset),
        sample_coordinates(40),
        tmp_path / "journal.sqlite",
    )
    expected = quotients(cluster, placed, inputs, coordinates)
    with value_journal(path, "this", 40) as journal:
        assert (journal.before, journal.done) == (0, 0)
        found = black_box.difference_quotients(cluster, placed, inputs, plan_blocks(coordinates))
        journal.add(next(found))
        assert (journal.before, journal.done) == (0, BLOCK)
    with value_journal(path, "this", 40) as journal:
        assert (journal.before, journal.done) == (BLOCK, BLOCK)
        np.testing.assert_array_equal(journal.values, expected[:BLOCK])
        more = plan_blocks(coordinates[journal.done :])
        for block in black_box.difference_quotients(cluster, placed, inputs, more):
            journal.add(block)
        np.testing.assert_array_equal(journal.values, expected)
    with value_journal(path, "this", 40) as journal:
        np.testing.assert_array_equal(journal.values, expected)


@pytest.mark.parametrize(
    ("work", "size", "message"),
    [
        ("other", 40, "it belongs to another run"),
        ("this", 19, "the entry after the first 10 values"),
    ],
)
def test_journal_of_another_run_raises_pipeline_error(
    tmp_path: Path, work: str, size: int, message: str
) -> None:
    path = tmp_path / "journal.sqlite"
    with value_journal(path, "this", 40) as journal:
        journal.add(np.arange(10.0))
        journal.add(np.arange(10.0))
    with (
        pytest.raises(PipelineError, match=f"is not a journal of this run .*{message}"),
        value_journal(path, work, size),
    ):
        pass
