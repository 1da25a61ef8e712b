"""The flow `train`: one training run, from the store to weights, loss curve and record."""

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal

from flows.figures import draw_loss_curve
from flows.record import Run, circumstances, now, weights_sha256
from flows.session import Session, flow_session
from kernels.partial import Evaluation
from pipeline import checkpoints
from pipeline.descent import DescentState, Status
from pipeline.errors import PipelineError
from pipeline.evaluation import in_tasks
from pipeline.objective import Objective
from pipeline.placement import place, plan_homes, workers_of
from pipeline.training import (
    Method,
    Placement,
    TrainingParameters,
    prepare,
    resolve,
    train,
)
from storage.dataset import Dataset, open_dataset
from storage.schema import SPLITS, Split

CHECKPOINT_EVERY = {Method.GD: 100, Method.MINIBATCH: 1000}
"""Steps between checkpoints where the user has not said: some seconds of work."""


@dataclass(frozen=True)
class TrainingPlan:
    """A run that can be taken: checked, and nothing started or written yet."""

    dataset: Dataset
    parameters: TrainingParameters
    run: Run | None
    """The run to go on with; None for a new one."""

    @classmethod
    def new(cls, store: str, parameters: TrainingParameters) -> Self:
        """Plan a run on the store at `store`.

        Raises DataError if there is no store, PipelineError if the parameters do not fit it.
        """
        dataset = open_dataset(store)
        parameters.recipe(dataset.rows("train"))
        return cls(dataset, parameters, None)

    @classmethod
    def resumed(cls, store: str, runs: Path, name: str) -> Self:
        """Plan to go on with the run `name` of `runs`, which holds its own parameters.

        Raises PipelineError if there is no such training run, or it is one on other data.
        """
        dataset, run = open_dataset(store), Run.find(runs, name)
        record = run.record
        if record.get("command") != "train":
            raise PipelineError(f"run {run.id} is no training run; there is nothing to go on with")
        try:
            fingerprint: str = record["data"]["fingerprint"]
            parameters = _read_parameters(record["parameters"])
            record["status"], record["started"]
        except (KeyError, TypeError, ValueError) as error:
            raise run.unreadable(f"no run can be gone on with from it ({error!r})") from error
        if fingerprint != dataset.fingerprint:
            raise PipelineError(
                f"run {run.id} was trained on other data than {store} holds (fingerprint "
                f"{fingerprint[:12]}, not {dataset.fingerprint[:12]}); "
                "name the store it was started on"
            )
        plan = cls(dataset, parameters, run)
        if not plan.finished:
            plan.state()  # a damaged checkpoint is refused before anything is started
        return plan

    @property
    def finished(self) -> dict[str, Any] | None:
        """The record of a run that has nothing left to do."""
        record = self.run.record if self.run else {"status": Status.RUNNING}
        ends = (Status.DONE, Status.CONVERGED, Status.DIVERGED)
        return record if record["status"] in ends else None

    def state(self) -> DescentState:
        """Return where the run stands: at its last checkpoint, if it has one."""
        start = self.parameters.start(len(self.dataset.classes))
        if not (self.run and self.run.checkpoint.exists()):
            return start
        state = checkpoints.load(self.run.checkpoint, self.parameters.optimiser())
        if state.W.shape != start.W.shape:
            raise PipelineError(
                f"{self.run.checkpoint} is no checkpoint of this run (weights of shape "
                f"{state.W.shape}, not {start.W.shape}); start the run anew"
            )
        return state


@flow(name="train", description=__doc__)
def train_flow(
    store: str,
    parameters: TrainingParameters | None = None,
    resume: str | None = None,
    runs: str = "runs",
    checkpoint_every: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Train on the store at `store` with `parameters`, or go on with the run `resume` of `runs`.

    A checkpoint is written every `checkpoint_every` steps (0: never). Returns the run's
    record. Raises DataError or PipelineError for what cannot be trained on.
    """
    if resume is not None:
        plan = TrainingPlan.resumed(store, Path(runs), resume)
    else:
        plan = TrainingPlan.new(store, parameters or TrainingParameters(steps=200))
    if plan.finished:
        return plan.finished
    if checkpoint_every is None:
        checkpoint_every = CHECKPOINT_EVERY[plan.parameters.method]
    clock, start = time.perf_counter(), plan.state()
    with flow_session(workers=workers, scheduler=scheduler) as session:
        run = plan.run or Run.create(Path(runs), "train")
        record = _begin(plan, run, session)
        with _early_end_recorded(run, record, store):
            state, timings = descend_task(session, plan, run, start, checkpoint_every)
            train_part, test_part = (evaluate_task(session, plan, state, split) for split in SPLITS)
            timings["seconds"] = time.perf_counter() - clock
            rate = (state.step - start.step) / timings["training"] if timings["training"] else 0.0
            record |= _results(state, train_part, test_part)
            record |= {"steps_per_second": rate, "timings": timings, "finished": now()}
            keep_task(run, plan, state, record)
    return record


@task(name="train", cache_policy=NO_CACHE)
def descend_task(
    session: Session, plan: TrainingPlan, run: Run, state: DescentState, checkpoint_every: int
) -> tuple[DescentState, dict[str, float]]:
    """Take all steps; return where they led and how long loading and stepping took."""
    steps = plan.parameters.total_steps(plan.dataset.rows("train"))
    clock = time.perf_counter()
    with (
        session.console.progress("train", steps) as advance,
        prepare(
            session.client,
            plan.dataset,
            plan.parameters,
            lambda step, loss: advance(step, f"loss {loss:.4f}"),
        ) as stretch,
    ):
        loaded = time.perf_counter()
        state = train(
            stretch,
            state,
            steps,
            checkpoint_every=checkpoint_every,
            checkpoint=lambda reached: checkpoints.save(run.checkpoint, reached),
        )
    return state, {"loading": loaded - clock, "training": time.perf_counter() - loaded}


@task(name="evaluate", task_run_name="evaluate on {split}", cache_policy=NO_CACHE)
def evaluate_task(
    session: Session, plan: TrainingPlan, state: DescentState, split: Split
) -> Evaluation:
    """Evaluate the weights on all images of a split."""
    client, dataset = session.client, plan.dataset
    homes = plan_homes(dataset.rows(split), workers_of(client))
    partials = in_tasks(client, place(client, dataset, split, homes))
    parameters = plan.parameters
    return Objective(partials, dataset.mean, parameters.reg, parameters.dtype)(state.W)


@task(name="keep results", cache_policy=NO_CACHE)
def keep_task(run: Run, plan: TrainingPlan, state: DescentState, record: dict[str, Any]) -> None:
    """Write weights, loss curve and, last, the record."""
    run.write_weights(state.W)
    run.write_losses(state.losses)
    draw_loss_curve(
        run.path / "loss.png",
        state.losses,
        title=f"{run.id}: {plan.parameters.method}, step size {plan.parameters.step_size:g}",
        window=1 if plan.parameters.method is Method.GD else 50,
    )
    run.write_record(record)
    shown = ("status", "steps", "loss", "train_accuracy", "test_accuracy", "steps_per_second")
    create_table_artifact(
        table=[{"result": name, "value": str(record[name])} for name in shown],
        key="training",
        description=f"Run {run.id} on {plan.dataset.name} ({plan.dataset.fingerprint[:12]})",
    )


@contextmanager
def _early_end_recorded(run: Run, record: dict[str, Any], store: str) -> Iterator[None]:
    """Have the record say that the run was interrupted, or why it failed; it can be gone on with.

    Of a process that is killed it goes on saying "running".
    """
    try:
        yield
    except (KeyboardInterrupt, TerminationSignal):
        run.write_record(record | {"status": "interrupted", "finished": now()})
        command = shlex.join(["hinge", "train", "--store", store, "--resume", str(run.path)])
        raise KeyboardInterrupt(f"`{command}` goes on") from None
    except Exception as error:
        with suppress(OSError):  # of a full disk, say: then that is the error to tell of
            run.write_record(record | {"status": "failed", "error": str(error), "finished": now()})
        raise


def _read_parameters(held: dict[str, Any]) -> TrainingParameters:
    """Return the parameters that a record holds; its JSON has no enumerations."""
    enumerations = {"method": Method(held["method"]), "placement": Placement(held["placement"])}
    return TrainingParameters(**held | enumerations)


def _begin(plan: TrainingPlan, run: Run, session: Session) -> dict[str, Any]:
    """Write and return the record of a run that is under way."""
    workers, parameters = workers_of(session.client), plan.parameters
    placement = resolve(
        parameters.placement, parameters.method, plan.dataset.rows("train"), session.client
    )
    record = {
        "run": run.id,
        "command": "train",
        "status": "running",
        "parameters": asdict(parameters),
        "seed": parameters.seed,
        "data": plan.dataset.describe(),
        "cluster": {
            "workers": len(workers),
            "threads": sum(worker.threads for worker in workers),
            "placement": placement,
        },
        "started": run.record["started"] if plan.run else now(),
        **circumstances(),
    }
    run.write_record(record)
    return record


def _results(state: DescentState, train_part: Evaluation, test_part: Evaluation) -> dict[str, Any]:
    return {
        "status": str(state.status),
        "steps": state.step,
        "loss": train_part.loss,
        "test_loss": test_part.loss,
        "train_accuracy": train_part.accuracy,
        "test_accuracy": test_part.accuracy,
        "weights_sha256": weights_sha256(state.W),
    }
