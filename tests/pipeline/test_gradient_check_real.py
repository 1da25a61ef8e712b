"""The full gradient check on the real CIFAR-10: its verdicts and its reproducibility."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray

from kernels.gradient_verdict import Comparison, Findings, Verdict
from kernels.structured_difference import Differences, quotient
from pipeline.check import black_box
from pipeline.check.parameters import GradientCheck
from pipeline.check.structured import DifferenceRequest, compare, difference_sums, make_probe
from pipeline.cluster.connect import connect
from pipeline.cluster.placement import PlacedDataset
from pipeline.cluster.tasks import map_in_tasks
from pipeline.inputs.examples import Rows
from pipeline.inputs.weights import InitialWeights
from pipeline.objective import Objective
from storage.dataset import Dataset
from tests.bits import bits
from tests.pipeline.conftest import Store
from tests.pipeline.workers import busy_with, kill, process_ids, until

pytestmark = [pytest.mark.real, pytest.mark.slow]

CHECK = GradientCheck()
W = InitialWeights.parse(CHECK.at).weights(10, CHECK.seed)


def sums(client: Client, dataset: Dataset, rows: Rows | None = None) -> Differences:
    map_shards = map_in_tasks(client, PlacedDataset(client, dataset).shards("train"))
    return difference_sums(map_shards, DifferenceRequest(make_probe(W, dataset.mean, CHECK), rows))


def compare_pipeline(client: Client, dataset: Dataset) -> Comparison:
    map_shards = map_in_tasks(client, PlacedDataset(client, dataset).shards("train"))
    gradient = Objective(map_shards, dataset.mean, 0.0, CHECK.dtype)(W).gradient
    probe = make_probe(W, dataset.mean, CHECK)
    return compare(W, gradient, probe, sums(client, dataset), CHECK)


def digest(differences: Differences) -> str:
    """Return a digest of all numbers that determine the verdicts."""
    return bits(
        differences.differences,
        differences.departures,
        differences.crossings,
        np.array([[each.loss % 2**61, each.rows] for each in differences.active]),
    )


def test_gradient_passes_once_kinks_are_accounted_for(
    client: Client, store: Store, real_cifar10: Path
) -> None:
    findings = Findings.of(compare_pipeline(client, store(7001, real_cifar10)))
    assert findings.verdicts.sum() == 30_730
    assert findings.wrong == 0
    assert findings.verdicts[Verdict.ROUNDOFF] == 0
    assert findings.largest.error_after_kinks <= 1e-9
    assert 1e-3 < findings.largest.error < 1e-1  # kinks have an effect
    assert 5e4 < findings.crossings < 5e5


def quotients(
    client: Client, dataset: Dataset, coordinates: NDArray[np.int64], rows: Rows | None = None
) -> NDArray[np.float64]:
    """Return the quotients of the black-box check."""
    inputs = black_box.BlackBoxInputs(W, dataset.mean, CHECK.step, CHECK.scheme, rows)
    blocks = black_box.plan_blocks(coordinates)
    placed = PlacedDataset(client, dataset).shards("train")
    return np.concatenate([*black_box.difference_quotients(client, placed, inputs, blocks)])


def test_black_box_matches_structured_on_some_coordinates_of_all_images(
    client: Client, store: Store, real_cifar10: Path
) -> None:
    dataset = store(7001, real_cifar10)
    sample = GradientCheck(coordinates=304).coordinate_indices(10)
    structured = quotient(sums(client, dataset), make_probe(W, dataset.mean, CHECK)).ravel()[sample]
    assert np.abs(quotients(client, dataset, sample) - structured).max() <= 1e-8


def test_black_box_matches_structured_on_all_coordinates_of_some_images(
    client: Client, store: Store, real_cifar10: Path
) -> None:
    dataset, rows = store(7001, real_cifar10), np.arange(200)
    structured = quotient(sums(client, dataset, rows), make_probe(W, dataset.mean, CHECK)).ravel()
    everything = quotients(client, dataset, np.arange(W.size), rows)
    assert np.abs(everything - structured).max() <= 1e-8


def test_sums_do_not_depend_on_workers_or_on_a_killed_worker(
    client: Client, store: Store, real_cifar10: Path
) -> None:
    dataset = store(7001, real_cifar10)
    expected = digest(sums(client, dataset))
    for workers in (1, 4):
        with connect(workers=workers) as other:
            assert digest(sums(other, dataset)) == expected
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(sums, client, dataset)
        [address, *_] = until(lambda: busy_with(client, "hinge-differences"))
        kill(process_ids(client)[address])
        assert digest(under_way.result()) == expected
