"""What a slice of the loss leaves: the numbers of its record, all its values, and a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows import artifacts
from flows.landscape_figures import MOST_MARKED, draw_line, draw_plane
from flows.lifecycle import Plan
from flows.record import Run, weights_sha256
from flows.slices import LineSlice, PlaneSlice
from pipeline.landscape import Landscape

Floats = NDArray[np.float64]

VALUES, PICTURE = "landscape.npz", "landscape.png"


@dataclass(frozen=True, eq=False)
class Path2D:
    """A run's path, projected on a plane."""

    run: str
    steps: NDArray[np.int64]
    """(T,)."""
    coordinates: Floats
    """(T, 2)."""
    explained: Floats
    """(2,): the part of the squared distances that lies in each direction."""


def results(found: LineSlice | PlaneSlice, W: Floats, path: Path2D | None = None) -> dict[str, Any]:
    """Return what the record says of a slice around the weights `W`."""
    axes = (found.axis,) if isinstance(found, LineSlice) else found.axes
    place = found.lowest
    at = [float(axis.steps[i]) for axis, i in zip(axes, reversed(place), strict=True)]
    named: dict[str, Any] = {
        "examples": found.examples,
        "axes": [axis.described() for axis in axes],
        "points": found.losses.size,
        "minimum": float(found.losses.min()),
        "minimum_at": at,
        "maximum": float(found.losses.max()),
        "values": VALUES,
        "seconds": sum(found.seconds.values()),
        "weights_sha256": weights_sha256(W),
    }
    if isinstance(found, LineSlice):
        named |= _of_function(found)
    else:
        named["middle"] = found.middle
        if path is not None:
            named["path"] = {
                "run": path.run,
                "looks": len(path.steps),
                "explained": path.explained.tolist(),
                "reg": found.reg,
            }
    return named


def _of_function(found: LineSlice) -> dict[str, Any]:
    """Say what is known of the whole line; the regulariser has no part in it."""
    function = found.function
    where, value = function.minimum
    kinks = zip(
        *(each.tolist() for each in (function.positions, function.values, function.slopes)),
        strict=False,
    )
    return {
        "breakpoints": function.breakpoints,
        "kinks": [
            {"a": a, "hinge_loss": loss, "slope_after": slope}
            for a, loss, slope in list(kinks)[1 : MOST_MARKED + 1]
        ]
        if function.breakpoints <= MOST_MARKED
        else [],
        "slope_at_ends": [float(function.slopes[0]), float(function.slopes[-1])],
        "slopes_rise": bool((np.diff(function.slopes) >= 0).all()),
        "max_difference": found.max_difference,
        "exact_minimum": {"a": where, "hinge_loss": value},
    }


@task(name="keep results", cache_policy=NO_CACHE)
def keep_task(
    run: Run,
    plan: Plan[Landscape],
    found: LineSlice | PlaneSlice,
    path: Path2D | None,
    named: dict[str, Any],
) -> None:
    """Write all values and the picture, and show them."""
    around = Path(plan.parameters.around).name
    if path is not None:
        around = f"{path.run}, reg {named['path']['reg']:g}"
    images = "image" if found.examples == 1 else "images"
    title = f"{run.id}\n{found.examples:,} training {images}, around {around}"
    if isinstance(found, LineSlice):
        arrays: dict[str, NDArray[Any]] = {"a": found.axis.steps, "loss": found.losses}
        function = found.function
        arrays |= {
            "breakpoints": function.positions,
            "hinge_loss": function.values,
            "slopes": function.slopes,
        }
        draw_line(run.path / PICTURE, found, title=title)
    else:
        a, b = (axis.steps for axis in found.axes)
        arrays = {"a": a, "b": b, "loss": found.losses}
        if path is not None:
            arrays |= {"path": path.coordinates, "path_steps": path.steps}
        coordinates = None if path is None else path.coordinates
        draw_plane(run.path / PICTURE, found, coordinates, title=title)
    run.write_arrays(VALUES, arrays)
    described = f"Run {run.id} on {plan.dataset.name} ({plan.dataset.fingerprint[:12]})"
    shown = ("examples", "points", "minimum", "maximum", "breakpoints", "seconds")
    rows = {name: named[name] for name in shown if name in named}
    artifacts.table("landscape", {"result": list(rows), "value": list(rows.values())}, described)
    artifacts.picture("landscape: loss", run.path / PICTURE, f"{described}: the loss")
