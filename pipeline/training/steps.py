"""Two ways to take the steps of a run on a cluster. They lead to the same bits.

`ALL_WORKERS` evaluates every step on the actors of all workers; the weights stay in the driving
process. `ONE_WORKER` sends many steps at a time, as one task, to a worker that holds all rows. It
is for mini-batches, which are too small to share.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import numpy as np
from distributed import Client, Future, get_worker
from numpy.typing import NDArray

from pipeline.cluster.actors import Actors
from pipeline.cluster.connect import task_group
from pipeline.cluster.map_shards import run_in_process
from pipeline.cluster.placement import (
    PlacedDataset,
    ShardAssignment,
    fits_one_worker,
    place_shards,
    workers_of,
)
from pipeline.cluster.shards import Shard
from pipeline.training.descent import DescentState, ReportProgress, Status, descend
from pipeline.training.parameters import MiniBatches, StepParameters, StepPlacement

_REPORT_SECONDS = 0.2


TakeSteps = Callable[[DescentState, int], DescentState]
"""Takes steps from a state until the run has a number of steps, or ends early."""


def train(
    take_steps: TakeSteps,
    state: DescentState,
    steps: int,
    *,
    checkpoint_every: int = 0,
    checkpoint: Callable[[DescentState], None] = lambda _state: None,
) -> DescentState:
    """Take a run from `state` to its end.

    Calls `checkpoint` with the state after every `checkpoint_every` steps (0: never) and at the
    end.
    """
    every = checkpoint_every or steps
    while state.status is Status.RUNNING and state.step < steps:
        state = take_steps(state, min(steps, (state.step // every + 1) * every))
        checkpoint(state)
    if state.status is Status.RUNNING:
        state = replace(state, status=Status.DONE)
    return state


def resolve_placement(parameters: StepParameters, rows: int, client: Client) -> StepPlacement:
    """Return who takes the steps on this cluster: the placement asked for, or what `AUTO` means."""
    if parameters.placement is not StepPlacement.AUTO:
        return parameters.placement
    small = isinstance(parameters, MiniBatches) and fits_one_worker(rows, workers_of(client))
    return StepPlacement.ONE_WORKER if small else StepPlacement.ALL_WORKERS


@contextmanager
def prepare_steps(
    placed_dataset: PlacedDataset, parameters: StepParameters, report: ReportProgress
) -> Iterator[TakeSteps]:
    """Place the training rows, and yield the function that takes steps over them."""
    rows = placed_dataset.dataset.rows("train")
    placement = resolve_placement(parameters, rows, placed_dataset.client)
    ways = {StepPlacement.ALL_WORKERS: _all_workers, StepPlacement.ONE_WORKER: _one_worker}
    with ways[placement](placed_dataset, parameters, report) as take_steps:
        yield take_steps


@contextmanager
def _all_workers(
    placed_dataset: PlacedDataset, parameters: StepParameters, report: ReportProgress
) -> Iterator[TakeSteps]:
    dataset = placed_dataset.dataset
    with Actors(placed_dataset) as actors:
        objective = parameters.objective(actors, dataset.mean)
        recipe = parameters.recipe(dataset.rows("train"))
        yield lambda state, until: descend(objective, recipe, state, until, report)


@contextmanager
def _one_worker(
    placed_dataset: PlacedDataset, parameters: StepParameters, report: ReportProgress
) -> Iterator[TakeSteps]:
    client, dataset = placed_dataset.client, placed_dataset.dataset
    rows = dataset.rows("train")
    resident = fits_one_worker(rows, workers_of(client))
    [(_, shard)] = place_shards(
        client, dataset, "train", [ShardAssignment(None, 0, rows, resident)]
    )
    run = task_group("hinge-minibatch")
    client.subscribe_topic(run, lambda event: report(*event[1]))
    task_numbers = count()

    def take_steps(state: DescentState, until: int) -> DescentState:
        future = client.submit(
            take_steps_on_worker,
            shard,
            dataset.mean,
            parameters,
            state,
            until,
            run,
            key=(run, next(task_numbers)),
        )
        result: DescentState = future.result()
        return result

    try:
        yield take_steps
    finally:
        client.unsubscribe_topic(run)
        if isinstance(shard, Future):  # else the traceback of an error would keep it
            shard.release()


def take_steps_on_worker(
    shard: Shard,
    mean: NDArray[np.float64],
    parameters: StepParameters,
    state: DescentState,
    until: int,
    topic: str,
) -> DescentState:
    """Take steps over one shard that holds all rows, within a task; report on `topic`."""
    objective = parameters.objective(run_in_process([shard]), mean)
    worker, last = get_worker(), time.monotonic()

    def report(step: int, loss: float) -> None:
        nonlocal last
        if step == until or time.monotonic() - last > _REPORT_SECONDS:
            worker.log_event(topic, (step, loss))
            last = time.monotonic()

    return descend(objective, parameters.recipe(shard.stop), state, until, report)
