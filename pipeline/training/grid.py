"""A grid of training runs: every step size with every batch size and regulariser, in parallel.

A run of mini-batches is too small to share among workers, and a grid has many runs. So every worker
holds all rows and each run, a trial, is one task. The next trial goes to the first worker that is
free. A trial takes its steps with the function that `hinge train` uses for one worker
(`pipeline.training.steps.take_steps_on_worker`), and comes to the same bits.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from distributed import Future, KilledWorker, as_completed, get_worker
from numpy.typing import NDArray
from pydantic import Field

from pipeline.cluster.connect import task_group
from pipeline.cluster.map_shards import run_in_process
from pipeline.cluster.placement import (
    PlacedDataset,
    ShardAssignment,
    Worker,
    fits_one_worker,
    place_shards,
    workers_of,
)
from pipeline.cluster.shards import Shard
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.rules import Parameters, PositiveNumber, Regulariser, Seed, Wanted
from pipeline.training.descent import DescentState, Status
from pipeline.training.parameters import GradientDescent, MiniBatches
from pipeline.training.steps import take_steps_on_worker, train
from storage.schema import SPLITS

MAX_TRIALS = 1_000
"""The most trials of a grid. The driving process keeps the weights of each, 246 kB."""

STEPS_BETWEEN_CHECKS = 25
"""Steps after which a trial checks whether it was cancelled: a few seconds of work at most."""

Trial = GradientDescent | MiniBatches
"""A trial is decided by the parameters of a training run."""

BatchSize = Annotated[int, Field(ge=1)] | Literal["all"]


@dataclass(frozen=True)
class TrainingGrid(Parameters):
    """Everything that decides the results of a grid's trials."""

    step_sizes: tuple[PositiveNumber, ...] = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
    """What a step multiplies the gradient by."""
    batch_sizes: tuple[BatchSize, ...] = (256,)
    """Images in a mini-batch. `all` is gradient descent over all images."""
    regs: tuple[Regulariser, ...] = (0.0,)
    """R in the loss's R ||W||^2 (without the bias)."""
    steps: Annotated[int, Field(ge=1), Wanted("steps", "at least 1")] = 500
    """Steps of every trial."""
    init: str = "normal:1e-3"
    """First weights: `zeros`, `normal:SCALE` or `uniform:SCALE`."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, values in (
            ("step sizes", self.step_sizes),
            ("batch sizes", self.batch_sizes),
            ("regularisers", self.regs),
        ):
            if not values or len(set(values)) < len(values):
                raise PipelineError(
                    f"the {name} must be one or more that differ, not {list(values)}"
                )
        if self.size > MAX_TRIALS:
            raise PipelineError(f"a grid of {self.size:,} trials is too large; take {MAX_TRIALS:,}")
        self.trials()  # making a trial checks its values

    @property
    def size(self) -> int:
        """How many trials there are."""
        return len(self.step_sizes) * len(self.batch_sizes) * len(self.regs)

    def trials(self) -> list[Trial]:
        """Return all trials, group after group. A trial's number is its place in this list."""
        return [
            self._trial(batch_size, reg, step_size)
            for batch_size, reg in self.groups()
            for step_size in self.step_sizes
        ]

    def groups(self) -> list[tuple[BatchSize, float]]:
        """Return the batch size and the regulariser of each group. A group has all step sizes."""
        return list(product(self.batch_sizes, self.regs))

    def members(self, group: int) -> range:
        """Return the numbers of a group's trials, one per step size.

        >>> TrainingGrid(regs=(0.0, 1e3)).members(1)
        range(5, 10)
        """
        count = len(self.step_sizes)
        return range(group * count, (group + 1) * count)

    def _trial(self, batch_size: BatchSize, reg: float, step_size: float) -> Trial:
        common: dict[str, Any] = {"step_size": step_size, "reg": reg, "steps": self.steps}
        common |= {"init": self.init, "seed": self.seed}
        if batch_size == "all":
            return GradientDescent(**common)
        return MiniBatches(batch_size=batch_size, **common)


class TrialOutcome(NamedTuple):
    """The result of a trial."""

    number: int
    """The trial's number, its place in `TrainingGrid.trials`."""
    status: Status
    steps: int
    """How many steps it took."""
    losses: NDArray[np.float64]
    """The loss of each step's batch at the weights before it (steps,)."""
    W: NDArray[np.float64]
    """The final weights (C, D + 1)."""
    loss: float
    """The loss of the final weights over all training images."""
    test_loss: float
    train_accuracy: float
    test_accuracy: float

    @property
    def diverged(self) -> bool:
        """Whether the trial diverged."""
        return self.status is Status.DIVERGED


ReportTrialProgress = Callable[[int, int, float], None]
"""Called with a trial's number, how many steps it has taken and its newest loss."""


class _TrialSlot(NamedTuple):
    """A worker's thread, and both splits as shards that hold all rows there."""

    worker: str
    train: Any
    """The future of a shard, or a shard that is read from the store; see `place_shards`."""
    test: Any


def run_trials(
    placed_dataset: PlacedDataset,
    trials: Sequence[Trial],
    numbers: Sequence[int],
    report: ReportTrialProgress,
) -> Generator[TrialOutcome]:
    """Run the trials of these numbers, and yield the outcome of each as soon as it has ended.

    When a worker dies, Dask runs its trials again on another. Closing the generator stops the
    trials that are running.

    Raises PipelineError if one trial loses its worker several times.
    """
    client, waiting = placed_dataset.client, deque(numbers)
    slots = _load_slots(placed_dataset, len(waiting))
    group, completed = task_group("hinge-grid-run"), as_completed(loop=client.loop)
    running: dict[Future[TrialOutcome], tuple[_TrialSlot, str]] = {}

    def start_next(slot: _TrialSlot) -> None:
        number = waiting.popleft()
        topic = f"{group}-{number}"
        client.subscribe_topic(topic, lambda event: report(number, *event[1]))
        future = _submit(placed_dataset, slot, (group, number), trials[number], topic)
        running[future] = slot, topic
        completed.add(future)

    try:
        for slot in slots:
            start_next(slot)
        while running:
            ended = next(completed)
            slot, topic = running.pop(ended)
            client.unsubscribe_topic(topic)
            outcome = _result(ended)
            if waiting:
                start_next(slot)
            yield outcome
    finally:
        for _, topic in running.values():
            client.unsubscribe_topic(topic)
        shards = {shard for slot in slots for shard in slot[1:] if isinstance(shard, Future)}
        client.cancel([*running, *shards])


def _submit(
    placed_dataset: PlacedDataset,
    slot: _TrialSlot,
    key: tuple[str, int],
    trial: Trial,
    topic: str,
) -> Future[TrialOutcome]:
    """Submit a trial to a slot; its number is the last part of the key. It reports on `topic`."""
    dataset = placed_dataset.dataset
    return placed_dataset.client.submit(
        run_trial,
        key[-1],
        trial,
        slot.train,
        slot.test,
        dataset.mean,
        len(dataset.classes),
        topic,
        key=key,
        workers=[slot.worker],
        allow_other_workers=True,
    )


def _result(ended: Future[TrialOutcome]) -> TrialOutcome:
    try:
        outcome: TrialOutcome = ended.result()
    except KilledWorker as error:
        raise PipelineError(
            "workers were lost again and again in one trial; look at their logs, and give them "
            "more memory or use fewer workers"
        ) from error
    return outcome


def run_trial(
    number: int,
    trial: Trial,
    train_shard: Shard,
    test_shard: Shard,
    mean: NDArray[np.float64],
    classes: int,
    topic: str,
) -> TrialOutcome:
    """Take all steps of a trial and evaluate the final weights on all rows, within a task."""

    def take_steps(state: DescentState, until: int) -> DescentState:
        _stop_if_cancelled()
        return take_steps_on_worker(train_shard, mean, trial, state, until, topic)

    steps = trial.total_steps(train_shard.stop)
    start = trial.start(classes)
    state = train(take_steps, start, steps, checkpoint_every=STEPS_BETWEEN_CHECKS)
    on_train, on_test = (
        trial.objective(run_in_process([shard]), mean)(state.W)
        for shard in (train_shard, test_shard)
    )
    return TrialOutcome(
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
    """End the task of this thread if it was cancelled. Dask alone does not stop it."""
    worker = get_worker()
    key = worker.get_current_task()
    if worker.state.tasks[key].state == "cancelled":
        raise InterruptedError(f"{key} was cancelled")


def choose_slots(rows: int, workers: Sequence[Worker], trials: int) -> tuple[list[str], bool]:
    """Return which workers run `trials` trials, and whether these workers hold all `rows`.

    A worker is named once per thread that runs trials. The workers that can hold all rows run all
    trials. If no worker can, all workers run trials and read the rows from the store.

    >>> small, large = Worker("a", 1, 2 * 3 * 3073), Worker("b", 2, 2 * 10 * 3073)
    >>> choose_slots(10, [small, large], trials=9)
    (['b', 'b'], True)
    >>> choose_slots(11, [small, large], trials=9)
    (['a', 'b', 'b'], False)
    >>> choose_slots(2, [large, small], trials=2)
    (['a', 'b'], True)
    """
    holding = [worker for worker in workers if fits_one_worker(rows, [worker])]
    threads = [
        (thread, worker.address)
        for worker in holding or workers
        for thread in range(worker.threads)
    ]
    return [address for _, address in sorted(threads)[:trials]], bool(holding)


def _load_slots(placed_dataset: PlacedDataset, trials: int) -> list[_TrialSlot]:
    """Load all rows of both splits on every worker that is going to run trials."""
    client, dataset = placed_dataset.client, placed_dataset.dataset
    rows = [dataset.rows(split) for split in SPLITS]
    addresses, resident = choose_slots(sum(rows), workers_of(client), trials)
    workers = sorted(set(addresses))
    shards = [
        [shard for _, shard in place_shards(client, dataset, split, assignments)]
        for split, assignments in zip(
            SPLITS,
            [[ShardAssignment(worker, 0, stop, resident) for worker in workers] for stop in rows],
            strict=True,
        )
    ]
    shards_of = dict(zip(workers, zip(*shards, strict=True), strict=True))
    return [_TrialSlot(address, *shards_of[address]) for address in addresses]
