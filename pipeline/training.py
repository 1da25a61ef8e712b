"""Training runs: the two ways over a cluster, which lead to the same bits.

`ALL_WORKERS` takes every step over the actors of all workers, with the weights in the
driving process. `ONE_WORKER` hands whole stretches of steps to one worker that holds all
rows, as one task each: for mini-batches, which are too small to share.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import numpy as np
from distributed import Client, Future, get_worker
from numpy.typing import NDArray

from pipeline.actors import Actors
from pipeline.cluster import task_group
from pipeline.descent import DescentState, Report, Status, descend
from pipeline.objective import here
from pipeline.parameters import Method, Placement, TrainingParameters
from pipeline.placement import Home, Placements, fits_one_worker, place, workers_of
from pipeline.shards import Shard

_REPORT_SECONDS = 0.2


Stretch = Callable[[DescentState, int], DescentState]
"""Takes a run from a state to a number of steps, or to its early end."""


def train(
    stretch: Stretch,
    state: DescentState,
    steps: int,
    *,
    checkpoint_every: int = 0,
    checkpoint: Callable[[DescentState], None] = lambda _state: None,
) -> DescentState:
    """Take a run from `state` to its end, stopping by every so many steps for `checkpoint`."""
    while state.status is Status.RUNNING and state.step < steps:
        every = checkpoint_every or steps
        state = stretch(state, min(steps, (state.step // every + 1) * every))
        checkpoint(state)
    if state.status is Status.RUNNING:
        state = replace(state, status=Status.DONE)
    return state


def resolve(placement: Placement, method: Method, rows: int, client: Client) -> Placement:
    """Choose what `AUTO` stands for on this cluster."""
    if placement is not Placement.AUTO:
        return placement
    alone = method is Method.MINIBATCH and fits_one_worker(rows, workers_of(client))
    return Placement.ONE_WORKER if alone else Placement.ALL_WORKERS


@contextmanager
def prepare(
    placements: Placements, parameters: TrainingParameters, report: Report
) -> Iterator[Stretch]:
    """Place the training rows and yield what takes the steps over them."""
    rows = placements.dataset.rows("train")
    placement = resolve(parameters.placement, parameters.method, rows, placements.client)
    ways = {Placement.ALL_WORKERS: _all_workers, Placement.ONE_WORKER: _one_worker}
    with ways[placement](placements, parameters, report) as stretch:
        yield stretch


@contextmanager
def _all_workers(
    placements: Placements, parameters: TrainingParameters, report: Report
) -> Iterator[Stretch]:
    dataset = placements.dataset
    with Actors(placements) as actors:
        objective = parameters.objective(actors, dataset.mean)
        recipe = parameters.recipe(dataset.rows("train"))
        yield lambda state, until: descend(objective, recipe, state, until, report)


@contextmanager
def _one_worker(
    placements: Placements, parameters: TrainingParameters, report: Report
) -> Iterator[Stretch]:
    client, dataset = placements.client, placements.dataset
    rows = dataset.rows("train")
    resident = fits_one_worker(rows, workers_of(client))
    [(_, shard)] = place(client, dataset, "train", [Home(None, 0, rows, resident)])
    run = task_group("hinge-train")
    client.subscribe_topic(run, lambda event: report(*event[1]))
    stretches = count()

    def stretch(state: DescentState, until: int) -> DescentState:
        future = client.submit(
            descend_task,
            shard,
            dataset.mean,
            parameters,
            state,
            until,
            run,
            key=(run, next(stretches)),
        )
        result: DescentState = future.result()
        return result

    try:
        yield stretch
    finally:
        client.unsubscribe_topic(run)
        if isinstance(shard, Future):  # or an error's traceback would hold it
            shard.release()


def descend_task(
    shard: Shard,
    mean: NDArray[np.float64],
    parameters: TrainingParameters,
    state: DescentState,
    until: int,
    topic: str,
) -> DescentState:
    """Take a stretch of steps over one shard of all rows: a task."""
    objective = parameters.objective(here([shard]), mean)
    worker, last = get_worker(), time.monotonic()

    def report(step: int, loss: float) -> None:
        nonlocal last
        if step == until or time.monotonic() - last > _REPORT_SECONDS:
            worker.log_event(topic, (step, loss))
            last = time.monotonic()

    return descend(objective, parameters.recipe(shard.stop), state, until, report)
