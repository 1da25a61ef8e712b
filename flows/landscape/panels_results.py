"""What the panels leave: their results, a file of all values, and a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.landscape.figures import draw_panels
from flows.landscape.results import LineResult, PlaneResult, summarise_line, summarise_plane
from flows.landscape.slices import LineSlice, PlaneSlice
from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord
from flows.runs.weights import weights_sha256
from pipeline.landscape.parameters import Panels

Floats = NDArray[np.float64]

VALUES, PICTURE = "panels.npz", "panels.png"


@dataclass(frozen=True, kw_only=True)
class PanelsResult:
    """The results of the four panels."""

    line: LineResult
    """One example."""
    planes: Mapping[str, PlaneResult]
    """The same example, a hundred, and all of them."""
    values: str
    """The file that holds all points."""
    weights_sha256: str
    """Of the weights in the middle of all panels."""
    seconds: float
    """How long the score passes and the points took."""


PanelsRecord = FinishedRecord[Panels, PanelsResult]


def summarise_panels(line: LineSlice, planes: Mapping[str, PlaneSlice], W: Floats) -> PanelsResult:
    """Return the result of the panels around the weights `W`."""
    line_result = summarise_line(line, W, VALUES)
    results = {name: summarise_plane(plane, W, values=VALUES) for name, plane in planes.items()}
    return PanelsResult(
        line=line_result,
        planes=results,
        values=VALUES,
        weights_sha256=weights_sha256(W),
        seconds=line_result.seconds + sum(result.seconds for result in results.values()),
    )


@task(name="save results", cache_policy=NO_CACHE)
def save_results(
    run: ActiveRun[Panels, PanelsResult, Any], line: LineSlice, planes: Mapping[str, PlaneSlice]
) -> None:
    """Write all values and their picture, and show the picture in Prefect."""
    arrays = {"a": line.axis.steps, "line": line.losses}
    arrays |= {name.replace(" ", "_"): plane.losses for name, plane in planes.items()}
    run.directory.write_arrays(VALUES, arrays)
    picture = run.directory.path / PICTURE
    title = f"{run.id}, around {Path(run.parameters.around).name}"
    draw_panels(picture, line, planes, title=title)
    artifacts.picture("landscape: panels", picture, f"{run.title}: the loss in panels")
