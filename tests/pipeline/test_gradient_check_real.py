"""The gradient check of everything on CIFAR-10 itself: what it finds, and that it is the same."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray

from kernels.gradient_verdict import Comparison, Findings, Verdict
from kernels.structured_difference import Differences, quotient
from pipeline import black_box
from pipeline.check_parameters import GradientCheck
from pipeline.cluster import connect
from pipeline.evaluation import in_tasks
from pipeline.gradient_check import Asked, compare, probe, sums_of
from pipeline.objective import Objective
from pipeline.placement import Placements
from pipeline.shards import Rows
from pipeline.weights import Init
from storage.dataset import Dataset
from tests.bits import bits
from tests.pipeline.conftest import Store
from tests.pipeline.workers import busy_with, kill, process_ids, until

pytestmark = [pytest.mark.real, pytest.mark.slow]

CHECK = GradientCheck()
W = Init.parse(CHECK.at).weights(10, CHECK.seed)


def sums(client: Client, dataset: Dataset, rows: Rows | None = None) -> Differences:
    over = in_tasks(client, Placements(client, dataset).shards("train"))
    return sums_of(over, Asked(probe(W, dataset.mean, CHECK), rows))


def found(client: Client, dataset: Dataset) -> Comparison:
    over = in_tasks(client, Placements(client, dataset).shards("train"))
    gradient = Objective(over, dataset.mean, 0.0, CHECK.dtype)(W).gradient
    asked = probe(W, dataset.mean, CHECK)
    return compare(W, gradient, asked, sums(client, dataset), CHECK)


def integers(differences: Differences) -> str:
    """Say all that verdicts are made of in one line."""
    return bits(
        differences.differences,
        differences.departures,
        differences.crossings,
        np.array([[each.loss % 2**61, each.rows] for each in differences.active]),
    )


def test_everything_is_right_once_kinks_are_accounted_for(
    client: Client, store: Store, real_cifar10: Path
) -> None:
    compared = found(client, store(7001, real_cifar10))
    findings = Findings.of(compared)
    assert findings.verdicts.sum() == 30_730
    assert findings.wrong == 0
    assert findings.verdicts[Verdict.ROUNDOFF] == 0
    assert findings.largest.error_after_kinks <= 1e-9
    assert 1e-3 < findings.largest.error < 1e-1  # there is something to account for
    assert 5e4 < findings.crossings < 5e5


def quotients(
    client: Client, dataset: Dataset, coordinates: NDArray[np.int64], rows: Rows | None = None
) -> NDArray[np.float64]:
    """The black box's."""
    common = black_box.Common(W, dataset.mean, CHECK.step, CHECK.scheme, rows)
    blocks = black_box.plan_blocks(coordinates)
    placed = Placements(client, dataset).shards("train")
    return np.concatenate([*black_box.differences(client, placed, common, blocks)])


def test_the_black_box_agrees_on_a_sample_over_all_images(
    client: Client, store: Store, real_cifar10: Path
) -> None:
    dataset = store(7001, real_cifar10)
    chosen = GradientCheck(coordinates=304).chosen(10)
    structured = quotient(sums(client, dataset), probe(W, dataset.mean, CHECK)).ravel()[chosen]
    assert np.abs(quotients(client, dataset, chosen) - structured).max() <= 1e-8


def test_the_black_box_agrees_on_everything_over_few_images(
    client: Client, store: Store, real_cifar10: Path
) -> None:
    dataset, rows = store(7001, real_cifar10), np.arange(200)
    structured = quotient(sums(client, dataset, rows), probe(W, dataset.mean, CHECK)).ravel()
    everything = quotients(client, dataset, np.arange(W.size), rows)
    assert np.abs(everything - structured).max() <= 1e-8


def test_the_same_bits_with_any_workers_though_one_is_killed(
    client: Client, store: Store, real_cifar10: Path
) -> None:
    dataset = store(7001, real_cifar10)
    expected = integers(sums(client, dataset))
    for workers in (1, 4):
        with connect(workers=workers) as other:
            assert integers(sums(other, dataset)) == expected
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(sums, client, dataset)
        [address, *_] = until(lambda: busy_with(client, "hinge-finite-difference"))
        kill(process_ids(client)[address])
        assert integers(under_way.result()) == expected
