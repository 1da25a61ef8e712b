"""Training runs: what is asked for, and the two ways over a cluster that lead to the same bits.

`ALL_WORKERS` takes every step over the actors of all workers, with the weights in the
driving process. `ONE_WORKER` hands whole stretches of steps to one worker that holds all
rows, as one task each: for mini-batches, which are too small to share.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count

import numpy as np
from distributed import Client, Future, get_worker
from numpy.typing import NDArray

from kernels.updates import Optimiser, gradient_descent
from pipeline.actors import Actors
from pipeline.batches import Batches, ShuffledEpochs, UniformSamples, full_batch
from pipeline.cluster import task_group
from pipeline.descent import DescentState, Recipe, Report, Status, StopRule, descend
from pipeline.errors import PipelineError
from pipeline.objective import Objective, here
from pipeline.placement import Home, Placements, fits_one_worker, place, workers_of
from pipeline.shards import Shard
from pipeline.weights import Init

_REPORT_SECONDS = 0.2


class Method(StrEnum):
    """What a step descends along."""

    GD = "gd"
    """The gradient over all rows."""
    MINIBATCH = "minibatch"
    """The gradient over a batch of them."""


class Placement(StrEnum):
    """Who takes the steps."""

    AUTO = "auto"
    """One worker for mini-batches of a set that fits one, else all."""
    ALL_WORKERS = "all-workers"
    ONE_WORKER = "one-worker"


@dataclass(frozen=True)
class TrainingParameters:
    """Everything that decides a run's weights, and `placement`, which does not."""

    method: Method = Method.GD
    steps: int | None = None
    """Steps to take; mini-batches are then uniform samples. Either this or `epochs`."""
    epochs: int | None = None
    """Times over the whole set; mini-batches then go through a shuffled order."""
    batch_size: int = 256
    step_size: float = 1e-7
    reg: float = 0.0
    init: str = "zeros"
    seed: int = 0
    dtype: str = "float32"
    tolerance: float = 0.0
    placement: Placement = Placement.AUTO

    def __post_init__(self) -> None:
        Init.parse(self.init)
        if (self.steps is None) == (self.epochs is None):
            raise PipelineError("give either a number of steps or a number of epochs")
        wanted = {
            "steps": (self.steps is None or self.steps >= 1, "at least 1"),
            "epochs": (self.epochs is None or self.epochs >= 1, "at least 1"),
            "batch size": (self.batch_size >= 1, "at least 1"),
            "step size": (0 < self.step_size < np.inf, "a positive number"),
            "regulariser": (0 <= self.reg < np.inf, "a number that is not negative"),
            "seed": (0 <= self.seed < 2**64, "from 0 to 2^64 - 1"),
            "tolerance": (0 <= self.tolerance < 1, "from 0 to below 1"),
            "dtype": (self.dtype in {"float32", "float64"}, "float32 or float64"),
        }
        for name, (good, values) in wanted.items():
            if not good:
                value = getattr(self, {"regulariser": "reg"}.get(name, name.replace(" ", "_")))
                raise PipelineError(f"the {name} must be {values}, not {value}")

    def recipe(self, rows: int) -> Recipe:
        """Return how the run steps over `rows` rows.

        Raises PipelineError if a batch is larger than that.
        """
        if self.method is Method.GD:
            batches: Batches = full_batch
        elif self.epochs is None:
            batches = UniformSamples(rows, self.batch_size, self.seed)
        else:
            batches = ShuffledEpochs(rows, self.batch_size, self.seed)
        window = 10 if self.method is Method.GD else 500
        return Recipe(batches, self.optimiser(), StopRule(window, self.tolerance))

    def total_steps(self, rows: int) -> int:
        """Return how many steps the run has over `rows` rows."""
        if self.epochs is None:
            return self.steps or 0
        a_time = 1 if self.method is Method.GD else -(-rows // self.batch_size)
        return self.epochs * a_time

    def optimiser(self) -> Optimiser:
        """Return the update rule."""
        return gradient_descent(self.step_size)

    def start(self, classes: int) -> DescentState:
        """Return the state before the first step."""
        W = Init.parse(self.init).weights(classes, self.seed)
        return DescentState(0, W, self.optimiser().init(W), np.empty(0))


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
        objective = Objective(actors, dataset.mean, parameters.reg, parameters.dtype)
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
    objective = Objective(here([shard]), mean, parameters.reg, parameters.dtype)
    worker, last = get_worker(), time.monotonic()

    def report(step: int, loss: float) -> None:
        nonlocal last
        if step == until or time.monotonic() - last > _REPORT_SECONDS:
            worker.log_event(topic, (step, loss))
            last = time.monotonic()

    return descend(objective, parameters.recipe(shard.stop), state, until, report)
