"""A grid of training runs: every step size with every batch size and regulariser, in parallel.

A run of mini-batches is too small to share, and a grid has many: so every worker holds all
rows, a trial is one task there, and the next goes to the first worker that is free. A trial
takes its steps by `pipeline.training.descend_task`, as `hinge train` does, to the same bits.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
from distributed import Future, KilledWorker, as_completed, get_worker
from numpy.typing import NDArray

from pipeline.cluster import task_group
from pipeline.descent import DescentState, Status
from pipeline.errors import PipelineError
from pipeline.objective import here
from pipeline.parameters import Method, TrainingParameters
from pipeline.placement import Home, Placements, Worker, fits_one_worker, place, workers_of
from pipeline.shards import Shard
from pipeline.training import descend_task, train
from storage.schema import SPLITS

MAX_TRIALS = 1_000
"""Of a grid; the driver keeps every trial's weights, 246 kB."""

STRETCH = 25
"""Steps between two looks at whether a trial is still wanted: a few seconds' at the most."""


@dataclass(frozen=True)
class TrainingGrid:
    """Everything that decides what comes of a grid's trials."""

    step_sizes: tuple[float, ...] = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
    batch_sizes: tuple[int | Literal["all"], ...] = (256,)
    """Images in a mini-batch; `all` is gradient descent over all of them."""
    regs: tuple[float, ...] = (0.0,)
    steps: int = 500
    init: str = "normal:1e-3"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (
            ("step sizes", self.step_sizes),
            ("batch sizes", self.batch_sizes),
            ("regularisers", self.regs),
        ):
            if not values or len(set(values)) < len(values):
                raise PipelineError(f"the {name} must be some that differ, not {list(values)}")
        if self.size > MAX_TRIALS:
            raise PipelineError(f"a grid of {self.size:,} trials is too large; take {MAX_TRIALS:,}")
        self.trials()  # each checks its own values

    @property
    def size(self) -> int:
        """How many trials there are."""
        return len(self.step_sizes) * len(self.batch_sizes) * len(self.regs)

    def trials(self) -> list[TrainingParameters]:
        """Return each trial as the run that it is, group after group."""
        return [
            self._trial(batch_size, reg, step_size)
            for batch_size, reg in self.groups()
            for step_size in self.step_sizes
        ]

    def groups(self) -> list[tuple[int | Literal["all"], float]]:
        """Return the batch size and the regulariser of each group of trials."""
        return list(product(self.batch_sizes, self.regs))

    def members(self, group: int) -> range:
        """Return the numbers of a group's trials, one a step size.

        >>> TrainingGrid(regs=(0.0, 1e3)).members(1)
        range(5, 10)
        """
        count = len(self.step_sizes)
        return range(group * count, (group + 1) * count)

    def _trial(
        self, batch_size: int | Literal["all"], reg: float, step_size: float
    ) -> TrainingParameters:
        common: dict[str, Any] = {"step_size": step_size, "reg": reg, "steps": self.steps}
        common |= {"init": self.init, "seed": self.seed}
        if batch_size == "all":
            return TrainingParameters(method=Method.GD, **common)
        return TrainingParameters(method=Method.MINIBATCH, batch_size=batch_size, **common)


class Outcome(NamedTuple):
    """What came of a trial."""

    number: int
    """The trial's, as in `TrainingGrid.trials`."""
    status: Status
    steps: int
    """How many it took."""
    losses: NDArray[np.float64]
    """The loss of each step's batch at the weights before it (steps,)."""
    W: NDArray[np.float64]
    loss: float
    """Of the weights it ended with, over all training images."""
    test_loss: float
    train_accuracy: float
    test_accuracy: float

    @property
    def diverged(self) -> bool:
        """Whether it ended for that."""
        return self.status is Status.DIVERGED


Report = Callable[[int, int, float], None]
"""Called with a trial's number, how many steps it has taken and its newest loss."""


class _Desk(NamedTuple):
    """A thread of a worker, and the rows that are there: all there are."""

    worker: str
    train: Any
    """The future of a shard, or a handle to read it by, as `place` returns it."""
    test: Any


def run_trials(
    placements: Placements, grid: TrainingGrid, wanted: Sequence[int], report: Report
) -> Generator[Outcome]:
    """Yield what comes of the trials of these numbers, each as soon as it has ended.

    When a worker dies, Dask takes its trials anew on another. Closed before its end, it stops
    those that are under way.

    Raises PipelineError if a trial loses its workers again and again.
    """
    client, trials, waiting = placements.client, grid.trials(), deque(wanted)
    desks = _desks(placements, len(waiting))
    run, under_way = task_group("hinge-trial"), as_completed(loop=client.loop)
    busy: dict[Future[Outcome], tuple[_Desk, str]] = {}

    def start(desk: _Desk) -> None:
        number = waiting.popleft()
        topic = f"{run}-{number}"
        client.subscribe_topic(topic, lambda event: report(number, *event[1]))
        future = _submit(placements, desk, (run, number), trials[number], topic)
        busy[future] = desk, topic
        under_way.add(future)

    try:
        for desk in desks:
            start(desk)
        while busy:
            ended = next(under_way)
            desk, topic = busy.pop(ended)
            client.unsubscribe_topic(topic)
            outcome = _result(ended)
            if waiting:
                start(desk)
            yield outcome
    finally:
        for _, topic in busy.values():
            client.unsubscribe_topic(topic)
        shards = {shard for desk in desks for shard in desk[1:] if isinstance(shard, Future)}
        client.cancel([*busy, *shards])


def _submit(
    placements: Placements,
    desk: _Desk,
    key: tuple[str, int],
    trial: TrainingParameters,
    topic: str,
) -> Future[Outcome]:
    """Have a desk take the trial whose number the key ends with, and report on `topic`."""
    dataset = placements.dataset
    return placements.client.submit(
        trial_task,
        key[-1],
        trial,
        desk.train,
        desk.test,
        dataset.mean,
        len(dataset.classes),
        topic,
        key=key,
        workers=[desk.worker],
        allow_other_workers=True,
    )


def _result(ended: Future[Outcome]) -> Outcome:
    try:
        outcome: Outcome = ended.result()
    except KilledWorker as error:
        raise PipelineError(
            "workers were lost again and again in one trial; look at their logs, and give them "
            "more memory or the run fewer of them"
        ) from error
    return outcome


def trial_task(
    number: int,
    trial: TrainingParameters,
    train_shard: Shard,
    test_shard: Shard,
    mean: NDArray[np.float64],
    classes: int,
    topic: str,
) -> Outcome:
    """Take all steps of a trial and evaluate where they led, on all rows: a task."""

    def stretch(state: DescentState, until: int) -> DescentState:
        _stop_if_cancelled()
        return descend_task(train_shard, mean, trial, state, until, topic)

    steps = trial.total_steps(train_shard.stop)
    state = train(stretch, trial.start(classes), steps, checkpoint_every=STRETCH)
    on_train, on_test = (
        trial.objective(here([shard]), mean)(state.W) for shard in (train_shard, test_shard)
    )
    return Outcome(
        number,
        state.status,
        state.step,
        state.losses,
        state.W,
        on_train.loss,
        on_test.loss,
        on_train.accuracy,
        on_test.accuracy,
    )


def _stop_if_cancelled() -> None:
    """End the task that runs here if nobody waits for it; Dask lets it go on."""
    worker = get_worker()
    key = worker.get_current_task()
    if worker.state.tasks[key].state == "cancelled":
        raise InterruptedError(f"{key} was cancelled")


def plan_desks(rows: int, workers: Sequence[Worker], trials: int) -> tuple[list[str], bool]:
    """Return which workers take so many trials at a time, and whether they hold all `rows`.

    A worker is named once a thread. Those that can hold all rows take all trials; if none can,
    all workers do, and stream.

    >>> small, large = Worker("a", 1, 2 * 3 * 3073), Worker("b", 2, 2 * 10 * 3073)
    >>> plan_desks(10, [small, large], trials=9)
    (['b', 'b'], True)
    >>> plan_desks(11, [small, large], trials=9)
    (['a', 'b', 'b'], False)
    >>> plan_desks(2, [large, small], trials=2)
    (['a', 'b'], True)
    """
    holding = [worker for worker in workers if fits_one_worker(rows, [worker])]
    threads = [
        (thread, worker.address)
        for worker in holding or workers
        for thread in range(worker.threads)
    ]
    return [address for _, address in sorted(threads)[:trials]], bool(holding)


def _desks(placements: Placements, trials: int) -> list[_Desk]:
    """Load all rows of both splits on every worker that is to take trials."""
    client, dataset = placements.client, placements.dataset
    rows = [dataset.rows(split) for split in SPLITS]
    places, resident = plan_desks(sum(rows), workers_of(client), trials)
    workers = sorted(set(places))
    shards = [
        [shard for _, shard in place(client, dataset, split, homes)]
        for split, homes in zip(
            SPLITS,
            [[Home(worker, 0, stop, resident) for worker in workers] for stop in rows],
            strict=True,
        )
    ]
    there = dict(zip(workers, zip(*shards, strict=True), strict=True))
    return [_Desk(worker, *there[worker]) for worker in places]
