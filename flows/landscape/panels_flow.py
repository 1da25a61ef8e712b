"""The flow `panels`: the notes' figure of the loss, with an additional panel of all images.

The panels show one example along a line, and over a plane the same example, a hundred examples
and all examples. All panels are around the same weights and in the same directions. The loss of
each example is piecewise linear. The mean over more examples is closer to a smooth bowl.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.landscape.evaluation import (
    ChosenExamples,
    choose_examples,
    evaluate_line,
    evaluate_plane,
    objective_in_tasks,
)
from flows.landscape.panels_results import (
    PanelsRecord,
    PanelsResult,
    save_results,
    summarise_panels,
)
from flows.runs.active_run import ActiveRun
from flows.runs.flow_parameters import Count, Name
from flows.runs.lifecycle import RunKind, RunRequest
from flows.runs.weights import weights_named
from flows.services.guarded_flow import flow
from flows.services.session import Session
from pipeline.landscape.axes import random_axis
from pipeline.landscape.parameters import Panels

Floats = NDArray[np.float64]

ONE = "one example"
PLANES = {ONE: "1", "100 examples": "100", "all examples": "all"}
"""The examples of each plane, in the format of `--examples`. The line uses those of `ONE`."""


@dataclass(frozen=True, eq=False)
class PanelsInputs:
    """The weights and the examples of the panels."""

    W: Floats
    """The weights in the middle of all panels (C, D + 1)."""
    examples: Mapping[str, ChosenExamples]
    """The examples of each plane."""


def prepare(request: RunRequest[Panels]) -> PanelsInputs:
    """Find the weights in the middle, and the examples of each panel.

    Raises PipelineError if the run does not exist or its weights cannot be used, or if the split
    has too few examples.
    """
    dataset, parameters = request.dataset, request.parameters
    seed = parameters.seed
    examples = {name: choose_examples(text, dataset, seed) for name, text in PLANES.items()}
    return PanelsInputs(weights_named(parameters.around, dataset, request.siblings, seed), examples)


PANELS = RunKind("panels", Panels, PanelsResult, prepare)


@flow(
    name="panels",
    description="The loss of one example along a line, and of one, a hundred and all examples "
    "over a plane.",
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
        store: The path or URL of the Zarr store.
        parameters: The parameters that determine the result.
        resume: The name or directory of the run to resume; empty for a new run.
        runs: The directory that contains all runs.
        workers: The number of worker processes to start; 0 for those of the workbench, or else one
            with a thread per core.
        scheduler: The address of a Dask scheduler; empty for that of the workbench, or else for
            workers on this machine.

    Returns:
        The run's record.

    Raises:
        DataError: The store does not exist, or is damaged.
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
    line = evaluate_line(run.report, objective, W, a, examples[ONE])
    planes = {
        name: evaluate_plane(run.report, objective, W, (a, b), chosen)
        for name, chosen in examples.items()
    }
    result = summarise_panels(line, planes, W)
    save_results(run, line, planes)
    return run.finish(result, {})
