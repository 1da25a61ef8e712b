"""Two ways to take the steps of a run on a cluster, with bit-identical results.

`ALL_WORKERS` evaluates every step on the actors of all workers. The weights stay in the driving
process. `ONE_WORKER` sends many steps at a time, as one task, to a worker that has all rows. It is
for mini-batches, which are too small to share among workers. In both, the dashboard shows bars of
about a second with the method's name.
"""

import math
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
from pipeline.cluster.dashboard.worker_metrics import step_meter
from pipeline.cluster.map_shards import run_in_process
from pipeline.cluster.placement import (
    PlacedDataset,
    ShardAssignment,
    fits_one_worker,
    workers_of,
)
from pipeline.cluster.shards import Shard
from pipeline.cluster.waiting import wait_for
from pipeline.cluster.wanted import check_wanted
from pipeline.training.descent import DescentState, ReportProgress, Status, descend
from pipeline.training.parameters import MiniBatches, StepParameters, StepPlacement

TASK_SECONDS = 2.0
"""The duration of a task of many steps. Sending the weights there and back takes about 20 ms."""

_REPORT_SECONDS = 0.2


TakeSteps = Callable[[DescentState, int], DescentState]
"""A function that takes steps from a state until the run has a given number, or ends early."""


def train(
    take_steps: TakeSteps,
    state: DescentState,
    steps: int,
    *,
    checkpoint_every: int = 0,
    checkpoint: Callable[[DescentState], None] = lambda _state: None,
) -> DescentState:
    """Train from `state` to the end of the run.

    Call `checkpoint` with the state after every `checkpoint_every` steps (0: never) and at the
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
    """Return the requested placement, or the placement chosen for `AUTO`."""
    if parameters.placement is not StepPlacement.AUTO:
        return parameters.placement
    small = isinstance(parameters, MiniBatches) and fits_one_worker(rows, workers_of(client))
    return StepPlacement.ONE_WORKER if small else StepPlacement.ALL_WORKERS


@contextmanager
def prepare_steps(
    placed_dataset: PlacedDataset, parameters: StepParameters, report: ReportProgress
) -> Iterator[TakeSteps]:
    """Place the training rows, and yield a function that takes steps over them."""
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
    with Actors(placed_dataset, shown_as=_shown_as(parameters)) as actors:
        objective = parameters.objective(actors, dataset.mean)
        recipe = parameters.recipe(dataset.rows("train"))

        def report_and_show(step: int, loss: float) -> None:
            actors.show_loss(loss)
            report(step, loss)

        yield lambda state, until: descend(objective, recipe, state, until, report_and_show)


@contextmanager
def _one_worker(
    placed_dataset: PlacedDataset, parameters: StepParameters, report: ReportProgress
) -> Iterator[TakeSteps]:
    client, dataset = placed_dataset.client, placed_dataset.dataset
    rows = dataset.rows("train")
    resident = fits_one_worker(rows, workers_of(client))
    [(_, shard)] = placed_dataset.place("train", [ShardAssignment(None, 0, rows, resident)])
    run = task_group(_shown_as(parameters))
    client.subscribe_topic(run, lambda event: report(*event[1]))
    task_numbers = count()

    def take_steps(state: DescentState, until: int) -> DescentState:
        while state.status is Status.RUNNING and state.step < until:
            future: Future[DescentState] = client.submit(
                take_steps_on_worker,
                shard,
                dataset.mean,
                parameters,
                state,
                until,
                run,
                TASK_SECONDS,
                key=(run, next(task_numbers)),
            )
            state = wait_for(future)
        return state

    try:
        yield take_steps
    finally:
        client.unsubscribe_topic(run)
        if isinstance(shard, Future):  # the traceback of an error may still refer to it
            shard.release()


def _shown_as(parameters: StepParameters) -> str:
    """Return the name of the run's tasks on the dashboard."""
    return f"hinge-{parameters.method}"


def take_steps_on_worker(
    shard: Shard,
    mean: NDArray[np.float64],
    parameters: StepParameters,
    state: DescentState,
    until: int,
    topic: str,
    seconds: float = math.inf,
) -> DescentState:
    """Take steps, in a task, over one shard of all rows, and report on `topic`.

    Return before the run has taken `until` steps if `seconds` have passed.

    Raises UnwantedTaskError after a step if the task was cancelled.
    """
    objective = parameters.objective(run_in_process([shard]), mean)
    worker, meter, last = get_worker(), step_meter(), time.monotonic()
    images = parameters.batch_size if isinstance(parameters, MiniBatches) else shard.stop

    def report(step: int, loss: float) -> None:
        nonlocal last
        check_wanted()
        meter.count(images, loss)
        if step == until or time.monotonic() - last > _REPORT_SECONDS:
            worker.log_event(topic, (step, loss))
            last = time.monotonic()

    return descend(objective, parameters.recipe(shard.stop), state, until, report, seconds)
