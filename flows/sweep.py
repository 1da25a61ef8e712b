"""The flow `sweep`: the loss at many step sizes along one gradient, and where it is lowest.

Scores are linear in the weights, so the gradient's scores are taken once, and no step size
costs another pass over the images (`pipeline.line`).
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows import artifacts
from flows.figures import draw_step_sizes
from flows.guarded_flow import flow
from flows.lifecycle import Kind, Plan, flow_run_name
from flows.record import Run, weights_sha256
from flows.session import Session, flow_session
from pipeline.actors import Actors
from pipeline.errors import PipelineError
from pipeline.line import LossAlongLine
from pipeline.objective import Objective
from pipeline.streams import check_seed
from pipeline.weights import Init
from storage.schema import PIXELS

START = "W0"
"""What `--at` says for the weights of `--init`."""

MAX_EXPONENT = 100
"""Of a step size: beyond, its square is out of range."""

MAX_POINTS = 20_000
"""Step sizes of a sweep: some seconds of work."""

_AT_A_TIME = 500
_ROWS_SHOWN = 100


@dataclass(frozen=True)
class Sweep:
    """Everything that decides the result of a sweep."""

    exponents: str = "-10:-1"
    """The step sizes' first and last power of 10."""
    points_per_decade: int = 1
    at: str = START
    """`W0`, or the run whose weights to sweep at."""
    init: str = "uniform:1e-3"
    """The weights that `W0` stands for."""
    reg: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        Init.parse(self.init)
        if not 0 <= self.reg < math.inf:
            raise PipelineError(f"the regulariser must be a number not below 0, not {self.reg}")
        check_seed(self.seed)
        if self.points_per_decade < 1:
            raise PipelineError(f"a decade needs at least 1 point, not {self.points_per_decade}")
        first, last = self._bounds()
        points = (last - first) * self.points_per_decade + 1
        if points > MAX_POINTS:
            raise PipelineError(
                f"{points:,} step sizes are too many; take at most {MAX_POINTS:,}: fewer decades, "
                "or fewer points in each"
            )

    def _bounds(self) -> tuple[int, int]:
        """Return the first and the last exponent."""
        first, _, last = self.exponents.partition(":")
        try:
            bounds = int(first), int(last)
        except ValueError:
            bounds = 0, -1
        if not -MAX_EXPONENT <= bounds[0] <= bounds[1] <= MAX_EXPONENT:
            raise PipelineError(
                f"exponents are FIRST:LAST, two whole numbers that rise, from -{MAX_EXPONENT} to "
                f"{MAX_EXPONENT}, such as -10:-1, not {self.exponents!r}"
            )
        return bounds

    @property
    def step_sizes(self) -> list[float]:
        """The step sizes, rising; a power of 10 is the number that is written so.

        >>> Sweep("-8:-6").step_sizes
        [1e-08, 1e-07, 1e-06]
        >>> Sweep("0:1", points_per_decade=2).step_sizes
        [1.0, 3.1622776601683795, 10.0]
        """
        first, last = self._bounds()
        many = self.points_per_decade
        return [
            float(f"1e{first + i // many}") if i % many == 0 else 10.0 ** (first + i / many)
            for i in range((last - first) * many + 1)
        ]


SWEEP = Kind("sweep", Sweep)


def plan_sweep(store: str, runs: Path, parameters: Sweep, resume: str | None = None) -> Plan[Sweep]:
    """Plan a sweep over the store at `store`, or to take the interrupted one `resume` again.

    Raises DataError or PipelineError for what cannot be swept (see `Kind.plan`), weights of a
    run that cannot be used too.
    """
    plan = SWEEP.plan(store, runs, parameters, resume)
    if not plan.finished:
        weights_of(plan)
    return plan


def weights_of(plan: Plan[Sweep]) -> NDArray[np.float64]:
    """Return the weights (C, D + 1) to sweep at.

    Raises PipelineError if the run that is to have them is not there, or has others.
    """
    classes, parameters = len(plan.dataset.classes), plan.parameters
    if parameters.at == START:
        return Init.parse(parameters.init).weights(classes, parameters.seed)
    return Run.find(plan.place, parameters.at).read_weights((classes, PIXELS + 1))


def _flow_run_name() -> str:
    return flow_run_name("sweep")


@flow(
    name="sweep",
    description="The loss at many step sizes along one gradient, and where it is lowest.",
    flow_run_name=_flow_run_name,
)
def sweep_flow(
    store: str,
    parameters: Sweep | None = None,
    resume: str | None = None,
    runs: str = "runs",
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Sweep over the store at `store`, or take the interrupted run `resume` of `runs` again.

    Returns the run's record. Raises DataError or PipelineError for what cannot be swept.
    """
    plan = plan_sweep(store, Path(runs), parameters or Sweep(), resume)
    if plan.finished:
        return plan.finished
    W, clock = weights_of(plan), time.perf_counter()
    timings: dict[str, float] = {}

    def lap(name: str) -> None:
        timings[name] = time.perf_counter() - clock - math.fsum(timings.values())

    with (
        flow_session(workers=workers, scheduler=scheduler) as session,
        plan.begun(session) as begun,
        Actors(session.placements(plan.dataset)) as actors,
    ):
        objective = Objective(actors, plan.dataset.mean, plan.parameters.reg, "float64")
        lap("loading")
        line = gradient_task(objective, W)
        lap("gradient")
        losses = losses_task(session, line, plan.parameters.step_sizes)
        lap("losses")
        exact = minimum_task(line)
        lap("minimum")
        results = _results(W, plan.parameters.step_sizes, losses) | {"exact_minimum": exact}
        keep_task(begun.run, plan, results)
        return begun.ended("done", results, timings)


@task(name="gradient", cache_policy=NO_CACHE)
def gradient_task(objective: Objective, W: NDArray[np.float64]) -> LossAlongLine:
    """Take the gradient at the weights, in float64; return the line along which it falls.

    Raises PipelineError if the loss there is no finite number.
    """
    value = objective(W)
    if not math.isfinite(value.loss):
        raise PipelineError("the loss at these weights is no finite number; take smaller ones")
    return LossAlongLine(objective, W, -value.gradient)


@task(name="losses", cache_policy=NO_CACHE)
def losses_task(session: Session, line: LossAlongLine, step_sizes: list[float]) -> list[float]:
    """Return the loss at 0 and at each of the step sizes."""
    steps, losses = np.array([0.0, *step_sizes]), list[float]()
    with session.console.progress("sweep", len(step_sizes)) as advance:
        while len(losses) < len(steps):
            losses += line(steps[len(losses) : len(losses) + _AT_A_TIME])
            advance(len(losses) - 1, f"best {min(losses):f}")
    return losses


@task(name="exact minimum", cache_policy=NO_CACHE)
def minimum_task(line: LossAlongLine) -> dict[str, Any]:
    """Return where the loss is lowest, how low it is there, and how many breakpoints it has.

    Raises PipelineError if it is not known.
    """
    try:
        step_size, breakpoints = line.minimum()
    except ValueError as error:
        raise PipelineError(
            f"the loss has no exact minimum along this gradient: {error}"
        ) from error
    [loss] = line(np.array([step_size]))
    return {"step_size": step_size, "loss": loss, "breakpoints": breakpoints}


def _results(
    W: NDArray[np.float64], step_sizes: list[float], losses: list[float]
) -> dict[str, Any]:
    initial, *others = losses
    best = int(np.argmin(others))
    return {
        "initial_loss": initial,
        "losses": [
            {"step_size": step_size, "loss": loss}
            for step_size, loss in zip(step_sizes, others, strict=True)
        ],
        "best_step_size": step_sizes[best],
        "best_loss": others[best],
        "weights_sha256": weights_sha256(W),
    }


@task(name="keep results", cache_policy=NO_CACHE)
def keep_task(run: Run, plan: Plan[Sweep], results: dict[str, Any]) -> None:
    """Write the losses and their picture, and show them."""
    rows, exact = results["losses"], results["exact_minimum"]
    run.write_table("steps.csv", rows)
    draw_step_sizes(
        run.path / "steps.png",
        np.array([row["step_size"] for row in rows]),
        np.array([row["loss"] for row in rows]),
        initial=results["initial_loss"],
        minimum=(exact["step_size"], exact["loss"]),
        title=f"{run.id}\none step along the negative gradient at {_at(plan.parameters)}",
    )
    described = f"Run {run.id} on {plan.dataset.name} ({plan.dataset.fingerprint[:12]})"
    every = math.ceil(len(rows) / _ROWS_SHOWN)
    thinned = f", every {every}th" if every > 1 else ""
    artifacts.table("sweep: step sizes", rows[::every], f"{described}: step sizes{thinned}")
    found = {name: results[name] for name in ("initial_loss", "best_step_size", "best_loss")}
    found |= {f"exact minimum: {name}": value for name, value in exact.items()}
    summary = {"result": list(found), "value": list(found.values())}
    artifacts.table("sweep", summary, f"{described}: the best step")
    artifacts.picture("sweep: loss", run.path / "steps.png", f"{described}: loss by step size")


def _at(parameters: Sweep) -> str:
    return parameters.init if parameters.at == START else Path(parameters.at).name
