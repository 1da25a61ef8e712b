"""A grid of training runs: every step size with every batch size and regulariser, in parallel.

A mini-batch run is too small to share among workers, and a grid has many runs. So every worker
loads all rows, and each run (a trial) is one task. The next trial goes to the first worker that is
free. A trial takes its steps with the function that `hinge train` uses for one worker
(`pipeline.training.steps.take_steps_on_worker`), so its result is bit-identical.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from distributed import Future, KilledWorker, as_completed
from numpy.typing import NDArray
from pydantic import Field

from pipeline.cluster.connect import task_group
from pipeline.cluster.map_shards import run_in_process
from pipeline.cluster.placement import (
    PlacedDataset,
    ShardAssignment,
    Worker,
    fits_one_worker,
    workers_of,
)
from pipeline.cluster.shards import Shard
from pipeline.cluster.waiting import next_completed, wait_for
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.rules import Init, Parameters, PositiveNumber, Regulariser, Seed, Wanted
from pipeline.inputs.words import with_seed
from pipeline.training.descent import DescentState, Status
from pipeline.training.parameters import GradientDescent, MiniBatches
from pipeline.training.steps import take_steps_on_worker, train
from storage.schema import SPLITS

MAX_TRIALS = 1_000
"""The maximum number of trials. The driving process keeps the weights of each trial, 246 kB."""

Trial = GradientDescent | MiniBatches
"""The parameters of a trial, which are those of a training run."""

BatchSize = Annotated[int, Field(ge=1)] | Literal["all"]


@dataclass(frozen=True)
class TrainingGrid(Parameters):
    """The parameters of a grid, which decide the results of its trials."""

    step_sizes: tuple[PositiveNumber, ...] = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
    """Factors by which a step multiplies the gradient."""
    batch_sizes: tuple[BatchSize, ...] = (256,)
    """Images per mini-batch. `all` is gradient descent over all images."""
    regs: tuple[Regulariser, ...] = (0.0,)
    """Regularisation strengths R: the loss includes R ||W||^2 (without the bias)."""
    steps: Annotated[int, Field(ge=1), Wanted("number of steps", "at least 1")] = 500
    """Number of steps of every trial."""
    init: Init = "normal:1e-3"
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
                    f"the {name} must be one or more different values, not {list(values)}"
                )
        if self.size > MAX_TRIALS:
            raise PipelineError(
                f"a grid of {self.size:,} trials is too large; take at most {MAX_TRIALS:,}"
            )
        self.trials()  # making a trial checks its values

    @property
    def size(self) -> int:
        """The number of trials."""
        return len(self.step_sizes) * len(self.batch_sizes) * len(self.regs)

    def in_words(self) -> str:
        """Return what is done, such as `grid 5 x 1 x 1 trials, 500 steps seed 0`."""
        sizes = (len(self.step_sizes), len(self.batch_sizes), len(self.regs))
        trials = " x ".join(map(str, sizes))
        return with_seed(f"grid {trials} trials, {self.steps} steps", self.seed)

    def trials(self) -> list[Trial]:
        """Return all trials, group by group. A trial's number is its index in this list."""
        return [
            self._trial(batch_size, reg, step_size)
            for batch_size, reg in self.groups()
            for step_size in self.step_sizes
        ]

    def groups(self) -> list[tuple[BatchSize, float]]:
        """Return the batch size and regulariser of each group. Every group has all step sizes."""
        return list(product(self.batch_sizes, self.regs))

    def members(self, group: int) -> range:
        """Return the numbers of a group's trials, one per step size.

        Examples:
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
    """The trial's number: its index in `TrainingGrid.trials`."""
    status: Status
    steps: int
    """How many steps the trial took."""
    losses: NDArray[np.float64]
    """(steps,): the loss of each step's batch at the weights before the step."""
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
    """A thread of a worker, and one shard of all rows for each split."""

    worker: str
    train: Any
    """The future of a resident shard, or a streamed shard; see `place_shards`."""
    test: Any


def run_trials(
    placed_dataset: PlacedDataset,
    trials: Sequence[Trial],
    numbers: Sequence[int],
    report: ReportTrialProgress,
) -> Generator[TrialOutcome]:
    """Run the trials with these numbers, and yield the outcome of each as soon as it ends.

    If a worker dies, Dask runs its trials again on another worker. Closing the generator stops the
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
            ended = next_completed(placed_dataset.client, completed)
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
    """Submit a trial to a slot. The last part of the key is the trial's number.

    The trial reports its progress on `topic`.
    """
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
        return wait_for(ended)
    except KilledWorker as error:
        raise PipelineError(
            "one trial lost its worker several times; check the workers' logs, and give the "
            "workers more memory or use fewer workers"
        ) from error


def run_trial(
    number: int,
    trial: Trial,
    train_shard: Shard,
    test_shard: Shard,
    mean: NDArray[np.float64],
    classes: int,
    topic: str,
) -> TrialOutcome:
    """Take all steps of a trial, in a task, and evaluate the final weights on all rows."""

    def take_steps(state: DescentState, until: int) -> DescentState:
        return take_steps_on_worker(train_shard, mean, trial, state, until, topic)

    steps = trial.total_steps(train_shard.stop)
    start = trial.start(classes)
    state = train(take_steps, start, steps)
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


def choose_slots(rows: int, workers: Sequence[Worker], trials: int) -> tuple[list[str], bool]:
    """Return which workers run `trials` trials, and whether all `rows` fit in their memory.

    A worker is listed once per thread that runs trials. If all rows fit in the memory of some
    workers, these workers run all trials. If not, all workers run trials and read the rows from
    the store.

    Examples:
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
    """Load all rows of both splits on every worker that will run trials."""
    client, dataset = placed_dataset.client, placed_dataset.dataset
    rows = [dataset.rows(split) for split in SPLITS]
    addresses, resident = choose_slots(sum(rows), workers_of(client), trials)
    workers = sorted(set(addresses))
    shards = [
        [shard for _, shard in placed_dataset.place(split, assignments)]
        for split, assignments in zip(
            SPLITS,
            [[ShardAssignment(worker, 0, stop, resident) for worker in workers] for stop in rows],
            strict=True,
        )
    ]
    shards_of = dict(zip(workers, zip(*shards, strict=True), strict=True))
    return [_TrialSlot(address, *shards_of[address]) for address in addresses]
