"""Training steps on two workers, against the kernel alone in two threads."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from distributed import Client

from kernels.hinge import fold, sum_rows
from pipeline.cluster.actors import Actors
from pipeline.cluster.placement import PlacedDataset
from pipeline.objective import Objective
from pipeline.training.descent import DescentState
from pipeline.training.parameters import MiniBatches, StepPlacement
from pipeline.training.steps import prepare_steps, train
from storage.dataset import Dataset
from tests.benchmarks.conftest import WORKERS, Report
from tests.benchmarks.paired import paired


def test_full_batch_step_takes_at_most_1_25_times_the_kernel(
    client: Client, dataset: Dataset, benchmark: Any, report: Report
) -> None:
    images, labels = dataset.read("train", 0, dataset.rows("train"))
    W = np.zeros((10, 3073))
    halves = [slice(0, len(labels) // 2), slice(len(labels) // 2, None)]
    threads = ThreadPoolExecutor(WORKERS)

    def kernel() -> None:
        scorer = fold(W, dataset.mean)
        list(threads.map(lambda half: sum_rows(scorer, images[half], labels[half]), halves))

    with Actors(PlacedDataset(client, dataset)) as partials:
        objective = Objective(partials, dataset.mean)
        times = paired(lambda: objective(W), kernel, rounds=40)
        benchmark.pedantic(objective, args=(W,), rounds=10)
    benchmark.extra_info.update(ratio=times.ratio, step=times.first, kernel=times.second)
    report(
        f"synchronous full-batch step on {WORKERS} workers: {times.first * 1e3:.1f} ms, kernel "
        f"alone: {times.second * 1e3:.1f} ms, ratio {times.ratio:.3f} (goal 1.25)"
    )
    assert times.ratio <= 1.25


@pytest.mark.parametrize(
    ("placement", "steps", "goal"),
    [(StepPlacement.ALL_WORKERS, 1000, 250), (StepPlacement.ONE_WORKER, 6000, 2000)],
)
def test_mini_batch_steps_reach_their_rate_goal(
    client: Client,
    dataset: Dataset,
    benchmark: Any,
    report: Report,
    placement: StepPlacement,
    steps: int,
    goal: int,
) -> None:
    parameters = MiniBatches(steps=steps, batch_size=256, placement=placement)
    with prepare_steps(
        PlacedDataset(client, dataset), parameters, lambda _step, _loss: None
    ) as take_steps:
        state = train(take_steps, parameters.start(10), 100)  # warm-up

        def run() -> DescentState:
            return train(take_steps, state_at_start(state), steps)

        rates = []
        for _ in range(5):
            start = time.perf_counter()
            run()
            rates.append(steps / (time.perf_counter() - start))
        benchmark.pedantic(run, rounds=1)
    rate = float(np.median(rates))
    benchmark.extra_info.update(steps_per_second=rate)
    report(f"mini-batches of 256, {placement}: {rate:,.0f} steps per second (goal {goal:,})")
    assert rate >= goal


def state_at_start(state: DescentState) -> DescentState:
    return DescentState(0, state.W, state.memory, np.empty(0))
