"""Structured gradient checks over shards: identical for all placements, without false alarms."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray

from kernels.finite_difference import Scheme
from kernels.gradient_verdict import Comparison, Verdict
from kernels.structured_difference import Differences, quotient
from pipeline.check.parameters import CheckMethod, Gradient, GradientCheck
from pipeline.check.structured import (
    DifferenceRequest,
    PixelDifferenceRequest,
    PixelDifferences,
    compare,
    compare_pixels,
    difference_sums,
    make_probe,
    select_coordinates,
    sum_differences,
)
from pipeline.cluster.actors import Actors
from pipeline.cluster.map_shards import MapShards, run_in_process, sum_over_shards
from pipeline.cluster.placement import PlacedDataset
from pipeline.cluster.tasks import map_in_tasks
from pipeline.inputs.batches import UniformSamples
from pipeline.inputs.errors import PipelineError
from pipeline.objective import Objective
from storage.dataset import Dataset
from tests.pipeline.conftest import Store
from tests.pipeline.test_line import place_streamed, resident_shards, single_shard, streamed_shards
from tests.pipeline.workers import kill, process_ids, removals

Floats = NDArray[np.float64]
SOURCE = "synthetic:600"
STEP = 1e-4
SAMPLED = np.random.default_rng(8).integers(0, 600, 250)
"""Unordered rows with duplicates."""
SCHEMES = pytest.mark.parametrize("scheme", list(Scheme))
REGULARISERS = pytest.mark.parametrize(
    ("reg", "reg_bias"), [(0.0, False), (2e3, False), (2e3, True)]
)


def weights() -> Floats:
    """Return weights with a large bias, near which differences cross kinks."""
    W = np.random.default_rng(4).normal(0, 1e-3, (10, 3073))
    W[:, -1] *= 100
    return W


@pytest.fixture(scope="module")
def dataset(store: Store) -> Dataset:
    return store(151, SOURCE)


@pytest.fixture(scope="module")
def placements(cluster: Client, dataset: Dataset) -> Iterator[dict[str, MapShards]]:
    """Yield all placements of the same 600 rows."""
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


def all_integers(sums: Differences) -> list[Any]:
    """Return all integers of a sum."""
    arrays = sums.differences, sums.departures, sums.crossings, sums.undecided
    return [*(each.tolist() for each in arrays), list(sums.active), sums.rows]


@pytest.mark.parametrize("rows", [None, SAMPLED], ids=["all", "sampled"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_difference_sums_are_the_same_integers_for_all_placements(
    placements: dict[str, MapShards],
    dataset: Dataset,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    rows: NDArray[np.int64] | None,
    dtype: Any,
) -> None:
    check = GradientCheck(step=STEP, dtype=dtype)
    request = DifferenceRequest(make_probe(weights(), dataset.mean, check), rows)
    expected = difference_sums(placements["one shard in process"], request)
    assert expected.crossings.sum() > 1000  # the comparison is not vacuous
    assert (expected.undecided.sum() > 0) == (dtype == "float32")
    at_once = quotient(expected, request.probe)
    others = {name: difference_sums(map_shards, request) for name, map_shards in placements.items()}
    for size in (37, 599):
        others[f"shards of {size}"] = difference_sums(
            run_in_process(resident_shards(store(size, SOURCE))), request
        )
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 23)
    others["small blocks"] = difference_sums(run_in_process(streamed_shards(dataset)), request)
    for name, sums in others.items():
        assert all_integers(sums) == all_integers(expected), name
        np.testing.assert_array_equal(quotient(sums, request.probe), at_once)


def margins_in_numpy(W: Floats, X: Floats, y: NDArray[np.uint8]) -> Floats:
    scores = X @ W.T
    margins = scores - scores[np.arange(len(y)), y][:, None] + 1
    margins[np.arange(len(y)), y] = -np.inf  # no margin for the row's own class
    return np.asarray(margins)


def read(dataset: Dataset, rows: NDArray[np.int64]) -> tuple[Floats, NDArray[np.uint8]]:
    images, labels = dataset.read("train", 0, dataset.rows("train"))
    X = np.column_stack([images - dataset.mean, np.ones(len(labels))])
    return X[rows], labels[rows]


@SCHEMES
def test_quotients_and_crossings_match_numpy(
    placements: dict[str, MapShards], dataset: Dataset, scheme: Scheme
) -> None:
    """In a few coordinates, evaluate the loss at the moved weights and count changed signs."""
    W, (X, y) = weights(), read(dataset, SAMPLED)
    check = GradientCheck(step=STEP, scheme=scheme)
    probe = make_probe(W, dataset.mean, check)
    sums = difference_sums(placements["tasks"], DifferenceRequest(probe, SAMPLED))
    found = compare(W, np.zeros_like(W), probe, sums, check)
    crossed = 0
    for place in [(0, 0), (3, 1500), (9, 3071), (5, 3072), (7, 40)]:
        up, down = W.copy(), W.copy()
        up[place] += STEP
        if scheme is Scheme.CENTRED:
            down[place] -= STEP
        ahead, behind = (margins_in_numpy(each, X, y) for each in (up, down))
        difference = (np.maximum(ahead, 0) - np.maximum(behind, 0)).sum() / len(y)
        expected = difference / (up[place] - down[place])
        assert found.numerical[place] == pytest.approx(expected, rel=0, abs=1e-8)
        assert found.crossings[place] == np.count_nonzero((ahead > 0) != (behind > 0))
        crossed += int(found.crossings[place])
    assert crossed > 0


def compare_pipeline(
    map_shards: MapShards, dataset: Dataset, check: GradientCheck, rows: NDArray[np.int64] | None
) -> Comparison:
    """Compare the gradient that training uses with its finite differences."""
    W = weights()
    objective = Objective(map_shards, dataset.mean, check.reg, check.dtype, check.reg_bias)
    request = DifferenceRequest(make_probe(W, dataset.mean, check), rows)
    return compare(
        W, objective(W, rows).gradient, request.probe, difference_sums(map_shards, request), check
    )


@SCHEMES
@REGULARISERS
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_correct_gradient_has_no_wrong_verdict(
    placements: dict[str, MapShards],
    dataset: Dataset,
    scheme: Scheme,
    reg: float,
    reg_bias: bool,
    dtype: Any,
) -> None:
    for step in (1e-2, STEP, 1e-7):
        check = GradientCheck(scheme=scheme, step=step, reg=reg, reg_bias=reg_bias, dtype=dtype)
        found = compare_pipeline(placements["one shard in process"], dataset, check, SAMPLED)
        assert np.count_nonzero(found.verdicts == Verdict.WRONG) == 0


@REGULARISERS
def test_faulty_gradient_is_wrong_only_at_the_faulty_coordinates(
    placements: dict[str, MapShards], dataset: Dataset, reg: float, reg_bias: bool
) -> None:
    """The gradient is wrong by 0.1 %, or in the regulariser of the bias."""
    W, check = weights(), GradientCheck(step=STEP, reg=reg, reg_bias=reg_bias)
    map_shards = placements["shards in process"]
    request = DifferenceRequest(make_probe(W, dataset.mean, check))
    sums = difference_sums(map_shards, request)
    gradient = Objective(map_shards, dataset.mean, reg, "float64", reg_bias)(W).gradient
    assert (compare(W, gradient, request.probe, sums, check).verdicts != Verdict.WRONG).all()
    for place in [(2, 17), (6, 3072)]:
        off = gradient.copy()
        off[place] *= 1.001
        verdicts = compare(W, off, request.probe, sums, check).verdicts
        assert np.argwhere(verdicts == Verdict.WRONG).tolist() == [list(place)]
    if reg:
        other = Objective(map_shards, dataset.mean, reg, "float64", not reg_bias)(W).gradient
        verdicts = compare(W, other, request.probe, sums, check).verdicts
        assert (verdicts == Verdict.WRONG)[:, -1].all()
        assert not (verdicts == Verdict.WRONG)[:, :-1].any()


def test_selected_coordinates_match_the_full_comparison(
    placements: dict[str, MapShards], dataset: Dataset
) -> None:
    found = compare_pipeline(
        placements["one shard in process"], dataset, GradientCheck(step=STEP), SAMPLED
    )
    places = np.array([0, 3072, 3073, 30729])
    some = select_coordinates(found, places)
    at = [(0, 0), (0, 3072), (1, 0), (9, 3072)]
    for name in ("analytic", "numerical", "kinks", "crossings", "verdicts"):
        whole_array = getattr(found, name)
        assert getattr(some, name).tolist() == [whole_array[place] for place in at]
    assert some.bound.shape == (4,)


def test_difference_sums_are_the_same_after_a_worker_is_killed(
    client: Client, store: Store
) -> None:
    dataset = store(37, SOURCE)
    check = GradientCheck(step=STEP)
    request = DifferenceRequest(make_probe(weights(), dataset.mean, check))
    expected = all_integers(sum_differences(single_shard(dataset)[0], request))
    tasks = map_in_tasks(client, PlacedDataset(client, dataset).shards("train"))
    assert all_integers(difference_sums(tasks, request)) == expected
    (address, pid), *_ = process_ids(client).items()
    kill(pid)  # half of the shards are lost with the worker
    assert all_integers(difference_sums(tasks, request)) == expected
    assert removals(client, address)


def all_fields(found: PixelDifferences) -> list[Any]:
    findings = found.findings
    return [
        findings.verdicts.tolist(),
        findings.crossings,
        findings.largest,
        findings.histograms.tolist(),
        findings.worst,
        found.errors.tolist(),
        found.crossings.tolist(),
        found.rows,
    ]


FEW = np.unique(SAMPLED)[::4]


@pytest.fixture(scope="module", params=[pytest.param("all", marks=pytest.mark.slow), *Scheme])
def pixels(
    request: pytest.FixtureRequest, placements: dict[str, MapShards], dataset: Dataset, store: Store
) -> dict[str, PixelDifferences]:
    """Return the pixel differences of all rows, or of a few rows, for all placements."""
    everything = request.param == "all"
    scheme = Scheme.CENTRED if everything else request.param
    pixel_request = PixelDifferenceRequest(
        weights(), dataset.mean, 16.0, scheme, None if everything else FEW
    )
    ways_to_map = {
        "one shard in process": placements["one shard in process"],
        "tasks": placements["tasks"],
    }
    if not everything:
        ways_to_map |= {
            **placements,
            "shards of 37": run_in_process(resident_shards(store(37, SOURCE))),
        }
    found = {
        name: sum_over_shards(map_shards, compare_pixels, pixel_request)
        for name, map_shards in ways_to_map.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.cluster.shards.STREAM_ROWS", 41)
        patch.setattr("pipeline.check.structured.DATA_ROWS", 7)
        found["small blocks"] = sum_over_shards(
            run_in_process(streamed_shards(dataset)), compare_pixels, pixel_request
        )
    assert {each.rows for each in found.values()} == {600 if everything else len(FEW)}
    return found


@pytest.mark.slow
def test_pixel_counts_are_the_same_for_all_placements(
    pixels: dict[str, PixelDifferences],
) -> None:
    expected = pixels["one shard in process"]
    assert expected.findings.verdicts.sum() == expected.rows * 3072
    assert expected.findings.wrong == 0
    assert expected.findings.crossings == expected.crossings.sum() > 0
    for name, found in pixels.items():
        assert found.findings.verdicts.tolist() == expected.findings.verdicts.tolist(), name
        assert found.crossings.tolist() == expected.crossings.tolist(), name


def test_pixel_findings_are_the_same_for_all_placements(
    pixels: dict[str, PixelDifferences],
) -> None:
    for name, found in pixels.items():
        assert all_fields(found) == all_fields(pixels["one shard in process"]), name


@pytest.mark.parametrize("placement", ["streamed in process", "tasks", "one shard in process"])
def test_findings_name_rows_by_their_numbers_in_the_split(
    placements: dict[str, MapShards],
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    placement: str,
) -> None:
    """The analytic gradient reported for a row and pixel must match NumPy's for that row."""
    monkeypatch.setattr("pipeline.cluster.shards.STREAM_ROWS", 41)
    monkeypatch.setattr("pipeline.check.structured.DATA_ROWS", 2)  # a shard has several batches
    rows, W = np.array([3, 150, 151, 152, 310, 467, 599]), weights()
    pixel_request = PixelDifferenceRequest(W, dataset.mean, 1e-2, Scheme.CENTRED, rows)
    worst = sum_over_shards(placements[placement], compare_pixels, pixel_request).findings.worst
    assert len(worst) == 10
    X, y = read(dataset, np.arange(600))
    for row, pixel in (each.place for each in worst):
        assert row in rows
        active = margins_in_numpy(W, X[[row]], y[[row]])[0] > 0
        expected = (W[active, pixel] - W[y[row], pixel]).sum()
        [analytic] = [each.analytic for each in worst if each.place == (row, pixel)]
        assert analytic == pytest.approx(expected, rel=1e-12)


def test_weights_out_of_range_raise_pipeline_error(dataset: Dataset) -> None:
    W, check = np.full((10, 3073), 1e300), GradientCheck()
    W[0] *= -1
    with pytest.raises(PipelineError, match="is not finite; use smaller weights"):
        difference_sums(
            run_in_process(single_shard(dataset)),
            DifferenceRequest(make_probe(W, dataset.mean, check)),
        )


def test_step_too_small_for_the_regulariser_raises_pipeline_error(dataset: Dataset) -> None:
    W, check = weights(), GradientCheck(step=1e-30, reg=1.0)
    request = DifferenceRequest(make_probe(W, dataset.mean, check))
    sums = difference_sums(run_in_process(single_shard(dataset)), request)
    with pytest.raises(PipelineError, match=r"a step of 1e-30 is lost .* take a larger step"):
        compare(W, np.zeros_like(W), request.probe, sums, check)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"step": 0.0}, r"step must be a positive number \(1e-100 to 1e\+100\), not 0.0"),
        ({"step": -1e-5}, r"step must be a positive number \(1e-100 to 1e\+100\), not -1e-05"),
        ({"step": np.nan}, r"step must be a positive number \(1e-100 to 1e\+100\), not nan"),
        ({"step": np.inf}, r"step must be a positive number \(1e-100 to 1e\+100\), not inf"),
        ({"coordinates": 0}, "coordinates must be `all`, or at least 1, not 0"),
        ({"reg": -1.0}, "regulariser must be a non-negative number, not -1.0"),
        ({"reg": np.nan}, "regulariser must be a non-negative number, not nan"),
        ({"seed": -1}, r"seed must be from 0 to 2\^64 - 1, not -1"),
        ({"seed": 2**64}, r"seed must be from 0 to 2\^64 - 1, not 1844"),
        ({"dtype": "float16"}, "dtype must be float32 or float64, not float16"),
        ({"examples": "0"}, "at least 1, not '0'"),
        ({"examples": "first:0"}, "at least 1, not 'first:0'"),
        ({"examples": "last:5"}, "`all`, a number of images to sample, or `first:N`.*'last:5'"),
        ({"examples": "sample:5"}, "not 'sample:5'"),
        ({"examples": "first:"}, "not 'first:'"),
        ({"examples": "-5"}, "not '-5'"),
        ({"examples": "1.5"}, "not '1.5'"),
        ({"examples": ""}, "not ''"),
        ({"gradient": Gradient.MINIBATCH, "examples": "5"}, "give --batch-size instead"),
        ({"gradient": Gradient.DATA, "method": CheckMethod.BLACK_BOX}, "structured method only"),
        ({"gradient": Gradient.DATA, "reg_bias": True}, "no gradient with respect to the data"),
        (
            {"gradient": Gradient.DATA, "reg": 1.0},
            "no gradient with respect to the data; leave out --reg and --reg-bias",
        ),
        ({"gradient": Gradient.DATA, "dtype": "float32"}, "in float64 only"),
        ({"gradient": Gradient.DATA, "coordinates": 5}, "all pixels are checked"),
    ],
)
def test_invalid_parameters_raise_pipeline_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        GradientCheck(**given)


def philox(seed: int, purpose: int) -> np.random.Generator:
    """Return the random stream as documented by NumPy."""
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, 0))
    return np.random.Generator(np.random.Philox(sequence))


def test_examples_are_sampled_by_seed() -> None:
    assert GradientCheck().rows(600) is None
    np.testing.assert_array_equal(GradientCheck(examples="first:7").rows(600), np.arange(7))
    drawn = [GradientCheck(examples="50", seed=seed).rows(600) for seed in (0, 1, 0)]
    for rows, seed in zip(drawn, (0, 1, 0), strict=True):
        expected = philox(seed, 6).choice(600, 50, replace=False, shuffle=False)
        np.testing.assert_array_equal(rows, np.sort(expected))
    assert not np.array_equal(np.asarray(drawn[0]), np.asarray(drawn[1]))
    np.testing.assert_array_equal(GradientCheck(examples="600").rows(600), np.arange(600))


@pytest.mark.parametrize("seed", [0, 3])
def test_mini_batch_is_the_first_batch_of_training(seed: int) -> None:
    check = GradientCheck(gradient=Gradient.MINIBATCH, batch_size=64, seed=seed)
    rows = check.rows(600)
    np.testing.assert_array_equal(rows, UniformSamples(600, 64, seed)(0))
    np.testing.assert_array_equal(rows, philox(seed, 2).choice(600, 64, False, shuffle=False))


def test_coordinates_are_sampled_by_seed() -> None:
    np.testing.assert_array_equal(GradientCheck().coordinate_indices(10), np.arange(30730))
    for seed in (0, 1):
        expected = philox(seed, 7).choice(30730, 40, replace=False, shuffle=False)
        found = GradientCheck(coordinates=40, seed=seed).coordinate_indices(10)
        np.testing.assert_array_equal(found, np.sort(expected))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"examples": "601"}, "cannot take 601 of 600 examples"),
        ({"examples": "first:9999999"}, "9,999,999 of 600"),
        (
            {"gradient": Gradient.MINIBATCH, "batch_size": 601},
            "batch size must be from 1 to 600, .*, not 601",
        ),
        (
            {"gradient": Gradient.MINIBATCH, "batch_size": 0},
            "batch size must be at least 1, not 0",
        ),
    ],
)
def test_too_many_examples_raise_pipeline_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        GradientCheck(**given).rows(600)


def test_too_many_coordinates_raise_pipeline_error() -> None:
    with pytest.raises(PipelineError, match="only 30,730 coordinates, so 30,731 cannot"):
        GradientCheck(coordinates=30731).coordinate_indices(10)
