"""The loss over a plane in the space of weights, against one evaluation per point."""

from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from statistics import median
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.exact_sum import LossSum
from kernels.hinge import fold, sum_rows
from kernels.plane import PlaneSum, losses, margins_over_plane
from storage.dataset import Dataset
from tests.benchmarks.conftest import WORKERS, Report
from tests.benchmarks.paired import seconds
from tests.benchmarks.plain import loss_in_memory

POINTS = 101
SAMPLED = [(0, 0), (50, 50), (17, 83), (100, 31)]
"""Points, as indices on both axes, whose losses are also evaluated separately in each round."""
ROUNDS = 5


def test_plane_reaches_its_time_and_ratio_goals(
    dataset: Dataset, benchmark: Any, report: Report
) -> None:
    """Time the losses over the plane, without the passes that compute the scores.

    Separate evaluations are timed at a few points, and their time is scaled to all points.
    """
    images, labels = dataset.read("train", 0, dataset.rows("train"))
    rng = np.random.default_rng(0)
    W, U, V = rng.normal(scale=1e-3, size=(3, 10, 3_073))
    first, second, third = (fold(weights, dataset.mean, np.float64) for weights in (W, U, V))
    steps = np.linspace(-1, 1, POINTS)
    halves = [slice(0, len(labels) // 2), slice(len(labels) // 2, None)]
    threads = ThreadPoolExecutor(WORKERS)
    planes = list(
        threads.map(
            lambda h: margins_over_plane(first, second, third, images[h], labels[h]),
            halves,
        )
    )
    in_memory = loss_in_memory(dataset)
    weights = [W + steps[k] * U + steps[m] * V for m, k in SAMPLED]

    def over_plane(b: NDArray[np.float64] = steps) -> PlaneSum:
        return reduce(PlaneSum.combine, threads.map(lambda plane: losses(plane, steps, b), planes))

    def evaluated(W: NDArray[np.float64]) -> float:
        scorer = fold(W, dataset.mean, np.float64)
        parts = threads.map(lambda h: sum_rows(scorer, images[h], labels[h]).losses, halves)
        return reduce(LossSum.combine, parts).mean

    found = over_plane().means
    at = [found[point] for point in SAMPLED]
    assert at == pytest.approx([evaluated(W) for W in weights], rel=1e-12, abs=0)
    assert at == pytest.approx([in_memory(W) for W in weights], rel=1e-4)
    plane, line, own, plain = [], [], [], []
    for _ in range(ROUNDS):
        plane.append(seconds(over_plane))
        own.append(seconds(lambda: [evaluated(W) for W in weights]) / len(weights))
        line.append(seconds(lambda: over_plane(np.zeros(1))))
        plain.append(seconds(lambda: [in_memory(W) for W in weights]) / len(weights))
    benchmark.pedantic(over_plane, rounds=3)

    def times(other: list[float]) -> float:
        """Return how many times longer one evaluation per point takes than the plane."""
        return POINTS**2 * median(b / a for a, b in zip(plane, other, strict=True))

    benchmark.extra_info.update(
        seconds=median(plane), times_own=times(own), times_plain=times(plain)
    )
    report(
        f"a plane of {POINTS} x {POINTS} points on {WORKERS} threads, after the score passes: "
        f"{median(plane):.3f} s (goal 0.6); one evaluation per point, scaled from {len(SAMPLED)} "
        f"points, takes {times(plain):,.0f} times as long with NumPy's float32 loss (goal 1,000; "
        f"{median(plain) * 1e3:.0f} ms each) and {times(own):,.0f} times as long with this "
        f"pipeline's float64 evaluation ({median(own) * 1e3:.0f} ms each); {POINTS} points of a "
        f"line: {median(line) * 1e3:.1f} ms"
    )
    assert times(plain) >= 1_000
    assert median(plane) <= 0.6
