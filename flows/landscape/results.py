"""What a slice of the loss leaves: its result, a file of all values, and a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.landscape.figures import MOST_MARKED, draw_line, draw_plane
from flows.landscape.path import ProjectedPath
from flows.landscape.slices import LineSlice, PlaneSlice
from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, Loss, Number, plain
from flows.runs.weights import weights_sha256
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
    """How many points were evaluated."""
    minimum: Loss
    """The lowest of the points."""
    minimum_at: tuple[float, ...]
    """Its steps along the axes."""
    maximum: Loss
    values: str
    """The file that holds all points."""
    seconds: float
    """How long the score passes and the points took."""
    weights_sha256: str
    """Of the weights in the middle."""


@dataclass(frozen=True, kw_only=True)
class Kink:
    """A place where the slope of a line changes."""

    a: float
    hinge_loss: Loss
    slope_after: Number


@dataclass(frozen=True, kw_only=True)
class ExactMinimum:
    """Where the hinge loss along a line is lowest."""

    a: float
    hinge_loss: Loss


@dataclass(frozen=True, kw_only=True)
class LineResult(SliceResult):
    """The result of a line.

    The hinge loss, without the regulariser, is a known function between the ends of the axis.
    """

    breakpoints: int
    """How many kinks it has there."""
    kinks: tuple[Kink, ...]
    """All of them, or none if they are too many to read."""
    slope_at_ends: tuple[Number, Number]
    slopes_rise: bool
    """Whether no slope is below the one before it: the function is convex."""
    max_difference: Number
    """The largest difference of a point from the function (`LineSlice.max_difference`)."""
    exact_minimum: ExactMinimum


@dataclass(frozen=True, kw_only=True)
class PathSummary:
    """The path of a training run, projected on a plane."""

    run: str
    looks: int
    """How many weights of the run the path goes through."""
    explained: tuple[float, float]
    """The part of the path's squared distances to its end that lies along each axis."""
    reg: float
    """The regulariser of the run."""


@dataclass(frozen=True, kw_only=True)
class PlaneResult(SliceResult):
    """The result of a plane."""

    middle: Loss
    """The loss where both axes are 0."""
    path: PathSummary | None = None
    """The path that is drawn over the plane, if there is one."""


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
    """Return the kinks between the ends of the axis, or none if they are many."""
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

    `path` is the path that is drawn over it.
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


@task(name="save results", cache_policy=NO_CACHE)
def save_results(
    run: ActiveRun[Landscape, LandscapeResult, Any],
    evaluated: LineSlice | PlaneSlice,
    path: ProjectedPath | None,
    result: LandscapeResult,
) -> None:
    """Write all values and their picture, and show them in Prefect."""
    title, picture = _title(run, result), run.directory.path / PICTURE
    if isinstance(evaluated, LineSlice):
        draw_line(picture, evaluated, title=title)
        run.directory.write_arrays(VALUES, _arrays_of_line(evaluated))
    else:
        draw_plane(picture, evaluated, path.coordinates if path else None, title=title)
        run.directory.write_arrays(VALUES, _arrays_of_plane(evaluated, path))
    names = ("examples", "points", "minimum", "maximum", "breakpoints", "seconds")
    values = plain(result)
    shown = {name: values[name] for name in names if name in values}
    artifacts.summary("landscape", shown, run.title)
    artifacts.picture("landscape: loss", picture, f"{run.title}: the loss")


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
