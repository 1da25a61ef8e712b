"""Results of a slice of the loss: the record, a file of all values, and a figure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.landscape.path import ProjectedPath
from flows.landscape.slices import MOST_MARKED, LineSlice, PlaneSlice
from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, Loss, Number, plain
from flows.runs.weights import weights_sha256
from flows.services.tasks import task
from pipeline.inputs.words import short
from pipeline.landscape.axes import AxisSummary
from pipeline.landscape.parameters import Landscape

Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]

VALUES, PICTURE = "landscape.npz", "landscape.png"


@dataclass(frozen=True, kw_only=True)
class SliceResult:
    """The result of a line or a plane. Losses include the regulariser."""

    examples: int
    axes: tuple[AxisSummary, ...]
    points: int
    """The number of evaluated points."""
    minimum: Loss
    """The lowest loss of all points."""
    minimum_at: tuple[float, ...]
    """The steps along the axes at which the lowest loss occurs."""
    maximum: Loss
    values: str
    """The file that contains all points."""
    seconds: float
    """The duration of the passes over the images and of the evaluation of the points."""
    weights_sha256: str
    """The hash of the weights in the middle."""

    def in_words(self) -> str:
        """Return the lowest point as one line."""
        at = ", ".join(map(short, self.minimum_at))
        return f"lowest {self.minimum:.6f} at {at} of {self.points:,} points"


@dataclass(frozen=True, kw_only=True)
class Kink:
    """A step along a line at which the slope of the loss changes."""

    a: float
    hinge_loss: Loss
    slope_after: Number


@dataclass(frozen=True, kw_only=True)
class ExactMinimum:
    """The exact minimum of the mean hinge loss along a line."""

    a: float
    hinge_loss: Loss


@dataclass(frozen=True, kw_only=True)
class LineResult(SliceResult):
    """The result of a line.

    The mean hinge loss, without the regulariser, is known as an exact function between the ends of
    the axis.
    """

    breakpoints: int
    """The number of kinks of the mean hinge loss along the line."""
    kinks: tuple[Kink, ...]
    """All kinks, or none if there are too many to read."""
    slope_at_ends: tuple[Number, Number]
    slopes_rise: bool
    """Whether the slope never falls along the line, which means that the loss is convex there."""
    max_difference: Number
    """The largest difference between a point and the exact loss (`LineSlice.max_difference`)."""
    exact_minimum: ExactMinimum


@dataclass(frozen=True, kw_only=True)
class PathSummary:
    """The path of a training run, projected onto a plane."""

    run: str
    looks: int
    """The number of snapshots of the weights on the path."""
    explained: tuple[float, float]
    """The fraction of the squared distances to the end of the path that lies along each axis."""
    reg: float
    """The regulariser of the run."""


@dataclass(frozen=True, kw_only=True)
class PlaneResult(SliceResult):
    """The result of a plane."""

    middle: Loss
    """The loss where both axes are 0."""
    path: PathSummary | None = None
    """The path that is drawn over the plane; None if there is none."""


LandscapeResult = LineResult | PlaneResult
LandscapeRecord = FinishedRecord[Landscape, LandscapeResult]


def summarise_line(line: LineSlice, W: Floats, values: str = VALUES) -> LineResult:
    """Return the result of a line around the weights `W`, whose points are in the file `values`."""
    function = line.function
    where, lowest = function.minimum
    return LineResult(
        examples=line.examples,
        axes=(line.axis.summary(),),
        points=line.losses.size,
        minimum=float(line.losses.min()),
        minimum_at=line.minimum_at,
        maximum=float(line.losses.max()),
        values=values,
        seconds=sum(line.timings.values()),
        weights_sha256=weights_sha256(W),
        breakpoints=function.breakpoints,
        kinks=_kinks(line),
        slope_at_ends=(float(function.slopes[0]), float(function.slopes[-1])),
        slopes_rise=bool((np.diff(function.slopes) >= 0).all()),
        max_difference=line.max_difference,
        exact_minimum=ExactMinimum(a=where, hinge_loss=lowest),
    )


def _kinks(line: LineSlice) -> tuple[Kink, ...]:
    """Return the kinks between the ends of the axis, or none if there are too many."""
    function = line.function
    if function.breakpoints > MOST_MARKED:
        return ()
    inner = function.positions[1:-1], function.values[1:-1], function.slopes[1:]
    return tuple(
        Kink(a=a, hinge_loss=loss, slope_after=slope)
        for a, loss, slope in zip(*(each.tolist() for each in inner), strict=True)
    )


def summarise_plane(
    plane: PlaneSlice, W: Floats, path: ProjectedPath | None = None, values: str = VALUES
) -> PlaneResult:
    """Return the result of a plane around the weights `W`, whose points are in the file `values`.

    `path` is the path drawn over the plane, if there is one.
    """
    return PlaneResult(
        examples=plane.examples,
        axes=tuple(axis.summary() for axis in plane.axes),
        points=plane.losses.size,
        minimum=float(plane.losses.min()),
        minimum_at=plane.minimum_at,
        maximum=float(plane.losses.max()),
        values=values,
        seconds=sum(plane.timings.values()),
        weights_sha256=weights_sha256(W),
        middle=plane.middle,
        path=_summarise_path(path, plane.reg) if path else None,
    )


def _summarise_path(path: ProjectedPath, reg: float) -> PathSummary:
    first, second = path.explained.tolist()
    return PathSummary(run=path.run, looks=len(path.steps), explained=(first, second), reg=reg)


@task("save results")
def save_results(
    run: ActiveRun[Landscape, LandscapeResult, Any],
    evaluated: LineSlice | PlaneSlice,
    path: ProjectedPath | None,
    result: LandscapeResult,
) -> None:
    """Write all values and the figure, and show a summary and the figure in Prefect."""
    title, coordinates = _title(run, result), path.coordinates if path else None

    def draw(path: Path) -> None:
        from flows.landscape.figures import draw_line, draw_plane

        if isinstance(evaluated, LineSlice):
            draw_line(path, evaluated, title=title)
        else:
            draw_plane(path, evaluated, coordinates, title=title)

    picture = run.draw(PICTURE, draw)
    if isinstance(evaluated, LineSlice):
        run.directory.write_arrays(VALUES, _arrays_of_line(evaluated))
    else:
        run.directory.write_arrays(VALUES, _arrays_of_plane(evaluated, path))
    names = ("examples", "points", "minimum", "maximum", "breakpoints", "seconds")
    values = plain(result)
    shown = {name: values[name] for name in names if name in values}
    run.report.publish(artifacts.summary, f"{run.series}: result", shown, run.describe("Result"))
    words = run.describe("Loss")
    run.report.publish(artifacts.picture, f"{run.series}: loss", picture, words)


def _title(run: ActiveRun[Landscape, LandscapeResult, Any], result: LandscapeResult) -> str:
    around = Path(run.parameters.around).name
    if isinstance(result, PlaneResult) and result.path:
        around = f"{result.path.run}, reg {result.path.reg:g}"
    images = "image" if result.examples == 1 else "images"
    return f"{run.id}\n{result.examples:,} training {images}, around {around}"


def _arrays_of_line(line: LineSlice) -> Arrays:
    return {
        "a": line.axis.steps,
        "loss": line.losses,
        "breakpoints": line.function.positions,
        "hinge_loss": line.function.values,
        "slopes": line.function.slopes,
    }


def _arrays_of_plane(plane: PlaneSlice, path: ProjectedPath | None) -> Arrays:
    a, b = (axis.steps for axis in plane.axes)
    arrays: Arrays = {"a": a, "b": b, "loss": plane.losses}
    if path is None:
        return arrays
    return {**arrays, "path": path.coordinates, "path_steps": path.steps}
