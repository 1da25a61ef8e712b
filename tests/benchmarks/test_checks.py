"""Structured differences in all coordinates, against one evaluation per moved weight."""

import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from distributed import Client

from kernels.finite_difference import Scheme, numerical_gradient
from kernels.hinge import fold
from kernels.structured_difference import Differences, Probe, differences, quotient
from pipeline.check import black_box
from pipeline.cluster.placement import PlacedDataset
from storage.dataset import Dataset
from tests.benchmarks.conftest import WORKERS, Report
from tests.benchmarks.paired import seconds
from tests.benchmarks.plain import loss_in_memory

ROUNDS = 5
STEP = 1e-5
COORDINATES = 10 * 3_073
SAMPLE = 4


def test_structured_differences_reach_their_time_and_ratio_goals(
    client: Client, dataset: Dataset, benchmark: Any, report: Report
) -> None:
    """Compare with loops over the loss, timed on a sample of coordinates and scaled to all."""
    images, labels = dataset.read("train", 0, dataset.rows("train"))
    W = np.random.default_rng(0).normal(0, 1e-3, (10, 3_073))
    probe = Probe(fold(W, dataset.mean, np.float64), dataset.mean, STEP)
    halves = [slice(0, len(labels) // 2), slice(len(labels) // 2, None)]
    threads = ThreadPoolExecutor(WORKERS)

    def structured() -> Differences:
        first, second = threads.map(lambda h: differences(probe, images[h], labels[h]), halves)
        return first.combine(second)

    found = quotient(structured(), probe)
    sample = np.random.default_rng(1).choice(COORDINATES, SAMPLE, replace=False)
    loss = loss_in_memory(dataset, np.float64)

    def notes() -> Any:
        return numerical_gradient(loss, W, step=STEP, coordinates=sample)

    assert notes() == pytest.approx(found.ravel()[sample], abs=1e-6)
    wide = _wide(client, dataset, W)
    assert wide(sample) == pytest.approx(found.ravel()[sample], abs=1e-8)
    block = np.random.default_rng(2).choice(COORDINATES, black_box.BLOCK, replace=False)
    times, ratios, wide_ratios = [], [], []
    for _ in range(ROUNDS):
        times.append(seconds(structured))
        ratios.append(seconds(notes) / SAMPLE * COORDINATES / times[-1])
        wide_ratios.append(seconds(lambda: wide(block)) / len(block) * COORDINATES / times[-1])
    benchmark.pedantic(structured, rounds=3)
    benchmark.extra_info.update(ratio=median(ratios), wide_ratio=median(wide_ratios))
    report(
        f"all coordinates over all images: {median(times):.3f} s on {WORKERS} threads (goal 0.6); "
        f"{median(ratios):,.0f} times as fast as the notes' loop over NumPy's float64 loss (goal "
        f"30,000), {median(wide_ratios):,.0f} times as fast as this pipeline's black-box check; "
        "the times of both are scaled from a sample of coordinates"
    )
    assert median(times) <= 0.6
    assert median(ratios) >= 30_000


def _wide(client: Client, dataset: Dataset, W: Any) -> Any:
    """Return the pipeline's black-box differences, which use wide products on the workers."""
    placed = PlacedDataset(client, dataset).shards("train")
    inputs = black_box.BlackBoxInputs(W, dataset.mean, STEP, Scheme.CENTRED)

    def quotients(coordinates: Any) -> Any:
        blocks = black_box.plan_blocks(coordinates)
        return np.concatenate([*black_box.difference_quotients(client, placed, inputs, blocks)])

    return quotients


def test_check_command_takes_at_most_10_seconds(
    dataset: Dataset, benchmark: Any, report: Report, tmp_path: Path
) -> None:
    """Time the whole command over all images; the first run compiles kernels and is not timed."""
    hinge = Path(sysconfig.get_path("scripts")) / "hinge"
    command = [str(hinge), "check", "--store", dataset.url, "--runs", str(tmp_path / "runs")]

    def check() -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)

    check()
    taken = [seconds(check) for _ in range(3)]
    benchmark.pedantic(check, rounds=1)
    benchmark.extra_info.update(seconds=median(taken))
    report(f"`hinge check`, the whole command: {median(taken):.1f} s (goal 10)")
    assert median(taken) <= 10
