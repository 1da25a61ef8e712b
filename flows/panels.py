"""The flow `landscape --panels`: the notes' picture of the loss, and one more of all images.

One example in one dimension, the same in two, a hundred of them, and all: around the same weights,
in the same directions. The more examples, the rounder the bowl, which is a mean of flat facets.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows import artifacts
from flows.guarded_flow import flow
from flows.landscape_figures import draw_panels
from flows.landscape_results import results
from flows.lifecycle import Kind, Plan, flow_run_name
from flows.record import Run, weights_sha256
from flows.session import Session, flow_session
from flows.slices import LineSlice, PlaneSlice, line_task, plane_task
from flows.weights import weights_named
from pipeline.evaluation import in_tasks
from pipeline.examples import Examples
from pipeline.landscape import AROUND, Landscape, random_axis
from pipeline.objective import Objective

Floats = NDArray[np.float64]
PanelsPlan = Plan["Panels"]

PICTURE, VALUES = "panels.png", "panels.npz"

PLANES = {
    "one example": "1",
    "100 examples": "100",
    "all examples": "all",
}
"""The examples of each plane."""


@dataclass(frozen=True)
class Panels:
    """Everything that decides the panels."""

    around: str = AROUND
    extent: float | None = None
    points: int = 101
    reg: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.panel("1", 1)

    def panel(self, examples: str, dims: int = 2) -> Landscape:
        """Return one panel as the slice that it is."""
        return Landscape(
            dims,
            examples,
            self.around,
            extent=self.extent,
            points=self.points,
            reg=self.reg,
            seed=self.seed,
        )


PANELS = Kind("landscape --panels", Panels)


def plan_panels(
    store: str, runs: Path, parameters: Panels, resume: str | None = None
) -> PanelsPlan:
    """Plan the panels as `flows.landscape.plan_landscape` does one slice."""
    plan = PANELS.plan(store, runs, parameters, resume)
    if not plan.finished:
        for examples in PLANES.values():
            Examples.parse(examples).rows(plan.dataset.rows("train"), plan.parameters.seed)
        weights_of(plan)
    return plan


def weights_of(plan: PanelsPlan) -> Floats:
    """Return the weights in the middle of all panels."""
    return weights_named(plan.parameters.around, plan.dataset, plan.place, plan.parameters.seed)


@flow(
    name="landscape --panels",
    description="The loss of one example, of a hundred and of all, in one and two dimensions.",
    flow_run_name=lambda: flow_run_name("panels"),
)
def panels_flow(
    store: str,
    parameters: Panels | None = None,
    resume: str | None = None,
    runs: str = "runs",
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Draw the panels for the store at `store`, or take the interrupted run `resume` again.

    Returns the run's record. Raises DataError or PipelineError for what cannot be looked at.
    """
    plan = plan_panels(store, Path(runs), parameters or Panels(), resume)
    if plan.finished:
        return plan.finished
    with (
        flow_session(workers=workers, scheduler=scheduler) as session,
        plan.begun(session) as begun,
    ):
        W = weights_of(plan)
        line, planes = _slices(session, plan, W)
        slices: list[LineSlice | PlaneSlice] = [line, *planes.values()]
        found: dict[str, Any] = {
            "line": results(line, W),
            "planes": {name: results(plane, W) for name, plane in planes.items()},
            "values": VALUES,
            "weights_sha256": weights_sha256(W),
            "seconds": sum(sum(each.seconds.values()) for each in slices),
        }
        keep_task(begun.run, plan, line, planes)
        return begun.ended("done", found, {})


def _slices(
    session: Session, plan: PanelsPlan, W: Floats
) -> tuple[LineSlice, dict[str, PlaneSlice]]:
    parameters, rows = plan.parameters, plan.dataset.rows("train")
    over = in_tasks(session.client, session.placements(plan.dataset).shards("train"))
    objective = Objective(over, plan.dataset.mean, parameters.reg, "float64")
    grid = parameters.extent, parameters.points
    a, b = (random_axis(W, parameters.seed, number, *grid) for number in range(2))
    chosen = {name: Examples.parse(text) for name, text in PLANES.items()}
    over_rows = {
        name: (each.rows(rows, parameters.seed), each.count(rows)) for name, each in chosen.items()
    }
    line = line_task(session, objective, W, a, *over_rows["one example"])
    planes = {
        name: plane_task(session, objective, W, (a, b), *each) for name, each in over_rows.items()
    }
    return line, planes


@task(name="keep results", cache_policy=NO_CACHE)
def keep_task(run: Run, plan: PanelsPlan, line: LineSlice, planes: dict[str, PlaneSlice]) -> None:
    """Write all values and the picture, and show it."""
    arrays = {"a": line.axis.steps, "line": line.losses}
    arrays |= {name.replace(" ", "_"): plane.losses for name, plane in planes.items()}
    run.write_arrays(VALUES, arrays)
    title = f"{run.id}, around {Path(plan.parameters.around).name}"
    draw_panels(run.path / PICTURE, line, planes, title=title)
    described = f"Run {run.id} on {plan.dataset.name} ({plan.dataset.fingerprint[:12]})"
    artifacts.picture("landscape: panels", run.path / PICTURE, f"{described}: the loss in panels")
