"""Results of the panels: the record, a file of all values, and a figure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.landscape.results import LineResult, PlaneResult, summarise_line, summarise_plane
from flows.landscape.slices import LineSlice, PlaneSlice
from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord
from flows.runs.weights import weights_sha256
from flows.services.tasks import task
from pipeline.landscape.parameters import Panels

Floats = NDArray[np.float64]

VALUES, PICTURE = "panels.npz", "panels.png"


@dataclass(frozen=True, kw_only=True)
class PanelsResult:
    """The results of the four panels."""

    line: LineResult
    """The loss of one example along a line."""
    planes: Mapping[str, PlaneResult]
    """The loss of the same example, of a hundred examples, and of all examples."""
    values: str
    """The file that contains all points."""
    weights_sha256: str
    """The hash of the weights in the middle of all panels."""
    seconds: float
    """The duration of the passes over the images and of the evaluation of the points."""

    def in_words(self) -> str:
        """Return the lowest point of each plane as one line."""
        lowest = (f"{plane.minimum:.6f} ({name})" for name, plane in self.planes.items())
        return f"lowest {', '.join(lowest)}"


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


@task("save results")
def save_results(
    run: ActiveRun[Panels, PanelsResult, Any], line: LineSlice, planes: Mapping[str, PlaneSlice]
) -> None:
    """Write all values and the figure, and show the figure in Prefect."""
    arrays = {"a": line.axis.steps, "line": line.losses}
    arrays |= {name.replace(" ", "_"): plane.losses for name, plane in planes.items()}
    run.directory.write_arrays(VALUES, arrays)
    title = f"{run.id}, around {Path(run.parameters.around).name}"

    def draw(path: Path) -> None:
        from flows.landscape.figures import draw_panels

        draw_panels(path, line, planes, title=title)

    picture = run.draw(PICTURE, draw)
    words = run.describe("Loss in four panels")
    run.report.publish(artifacts.picture, f"{run.series}: loss", picture, words)
