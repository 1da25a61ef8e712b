"""The flow `panels`: the notes' picture of the loss, and one more of all images.

One example along a line, the same over a plane, a hundred examples, and all: around the same
weights, in the same directions. The loss is a mean of flat facets, one kind per example. The more
examples, the rounder the bowl.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.landscape.panels_results import (
    PanelsRecord,
    PanelsResult,
    save_results,
    summarise_panels,
)
from flows.landscape.slices import (
    ChosenExamples,
    choose_examples,
    evaluate_line,
    evaluate_plane,
    objective_in_tasks,
)
from flows.runs.active_run import ActiveRun
from flows.runs.flow_parameters import Count, Name
from flows.runs.flow_run_names import flow_run_name
from flows.runs.lifecycle import RunKind, RunRequest
from flows.runs.weights import weights_named
from flows.services.guarded_flow import flow
from flows.services.session import Session
from pipeline.landscape.axes import random_axis
from pipeline.landscape.parameters import Panels

Floats = NDArray[np.float64]

ONE = "one example"
PLANES = {ONE: "1", "100 examples": "100", "all examples": "all"}
"""The examples of each plane; the line has those of the first."""


@dataclass(frozen=True, eq=False)
class PanelsInputs:
    """What the panels need beside their parameters."""

    W: Floats
    """The weights in the middle of all panels (C, D + 1)."""
    examples: Mapping[str, ChosenExamples]
    """Of each plane."""


def prepare(request: RunRequest[Panels]) -> PanelsInputs:
    """Find the weights in the middle, and the examples of each panel.

    Raises PipelineError if there is no such run, if it has other weights than are needed, or if
    there are not so many examples.
    """
    dataset, parameters = request.dataset, request.parameters
    seed = parameters.seed
    examples = {name: choose_examples(text, dataset, seed) for name, text in PLANES.items()}
    return PanelsInputs(weights_named(parameters.around, dataset, request.siblings, seed), examples)


PANELS = RunKind("panels", Panels, PanelsResult, prepare)


@flow(
    name="panels",
    description="The loss of one example, of a hundred and of all, in one and two dimensions.",
    flow_run_name=lambda: flow_run_name("panels"),
)
def panels_flow(
    store: str,
    parameters: Panels = Panels(),
    resume: Name = "",
    runs: str = "runs",
    workers: Count = 0,
    scheduler: Name = "",
) -> PanelsRecord:
    """Evaluate and draw the panels, or resume an interrupted run.

    Args:
        store: The Zarr store, a path or a URL.
        parameters: What decides the result.
        resume: The run to resume, its name or its directory; empty for a new run.
        runs: The directory that runs are kept in.
        workers: Worker processes on this machine; 0 for one per core.
        scheduler: The address of a Dask scheduler; empty to start workers on this machine.

    Returns:
        The run's record.

    Raises:
        DataError: There is no such store, or it is damaged.
        PipelineError: The panels cannot be evaluated.
    """
    return PANELS.run(_panels, store, parameters, resume, runs, workers, scheduler)


def _panels(session: Session, run: ActiveRun[Panels, PanelsResult, PanelsInputs]) -> PanelsRecord:
    W, examples, parameters = run.plan.inputs.W, run.plan.inputs.examples, run.parameters
    objective = objective_in_tasks(session, run.dataset, parameters.reg)
    a, b = (
        random_axis(W, parameters.seed, number, parameters.extent, parameters.points)
        for number in range(2)
    )
    line = evaluate_line(session, objective, W, a, examples[ONE])
    planes = {
        name: evaluate_plane(session, objective, W, (a, b), chosen)
        for name, chosen in examples.items()
    }
    result = summarise_panels(line, planes, W)
    save_results(run, line, planes)
    return run.finish(result, {})
