"""The notes' smallest data set: three one-dimensional points of three classes, and one weight.

    L_0 = max(0, w_1 x_0 - w_0 x_0 + 1) + max(0, w_2 x_0 - w_0 x_0 + 1)
    L_1 = max(0, w_0 x_1 - w_1 x_1 + 1) + max(0, w_2 x_1 - w_1 x_1 + 1)
    L_2 = max(0, w_0 x_2 - w_2 x_2 + 1) + max(0, w_1 x_2 - w_2 x_2 + 1)

and their mean, as functions of w_0: straight lines between kinks. The points are bytes less
their mean, as images are, and the functions come from the same kernels.

A. Karpathy and J. Johnson, CS231n, "Optimization: Stochastic Gradient Descent".
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flows.figures import BLUE, GREEN, ORANGE, legend_below, plain
from flows.record import Run, check_runs, circumstances, now
from kernels.piecewise import PiecewiseLinear
from pipeline.line import LossAlongLine
from pipeline.objective import Objective, here
from pipeline.shards import ResidentShard

PICTURE = "three-points.png"

POINTS = np.array([[4], [1], [6]], np.uint8)
"""The points as bytes (3, 1), of class 0, 1 and 2."""

MEAN = np.array([2.0])
"""So that they are at 2, -1 and 4."""

WEIGHTS = np.array([[0.0, 0.0], [0.5, 0.0], [-0.25, 0.0]])
"""Of the three classes: w_0 is gone along from 0; there is no bias."""

DIRECTION = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])

LOW, HIGH = -2.0, 3.0
"""Where w_0 goes."""


def functions() -> dict[str, PiecewiseLinear]:
    """Return each point's loss as a function of w_0, whole, and their mean.

    >>> {name: loss.positions[1:-1].tolist() for name, loss in functions().items()}
    {'L0': [0.25, 1.0], 'L1': [1.5], 'L2': [-0.5], 'mean': [-0.5, 0.25, 1.0, 1.5]}
    """
    shard = ResidentShard(0, 3, POINTS, np.arange(3, dtype=np.uint8))
    objective = Objective(here([shard]), MEAN, dtype="float64")
    chosen = {f"L{i}": np.array([i]) for i in range(3)} | {"mean": None}
    return {
        name: LossAlongLine(objective, WEIGHTS, DIRECTION, rows).function(LOW, HIGH)
        for name, rows in chosen.items()
    }


def draw(path: Path) -> dict[str, Any]:
    """Draw the example to `path` (PNG); return its numbers."""
    found = functions()
    figure = Figure(figsize=(8, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Three points of three classes: the loss as a function of one weight")
    left, right = figure.subplots(1, 2, sharex=True)
    colours = {"L0": BLUE, "L1": ORANGE, "L2": GREEN, "mean": "black"}
    dashes = {"L0": "-", "L1": "--", "L2": "-.", "mean": "-"}
    for name, loss in found.items():
        axes = right if name == "mean" else left
        label = "mean of the three" if name == "mean" else f"$L_{name[1]}$"
        style = {"color": colours[name], "linestyle": dashes[name]}
        axes.plot(loss.positions, loss.values, linewidth=1.6, label=label, **style)
        inner = slice(1, -1)
        axes.plot(loss.positions[inner], loss.values[inner], "o", color=colours[name], markersize=6)
    where, lowest = found["mean"].minimum
    right.plot(where, lowest, "*", color="white", markeredgecolor="black", markersize=13,
               linestyle="none", label=f"lowest: {lowest:.4g} at {where:.4g}")  # fmt: skip
    for axes, title in (left, "each point's loss"), (right, "the data set's loss"):
        plain(axes)
        axes.set(title=title, xlabel="$w_0$", ylabel="loss (hinge)")
    legend_below(figure, columns=5)
    figure.savefig(path)
    return {name: _described(loss) for name, loss in found.items()}


def _described(loss: PiecewiseLinear) -> dict[str, Any]:
    where, lowest = loss.minimum
    return {
        "kinks": [
            {"w0": w0, "loss": value, "slope_after": slope}
            for w0, value, slope in zip(
                loss.positions[1:-1].tolist(),
                loss.values[1:-1].tolist(),
                loss.slopes[1:].tolist(),
                strict=True,
            )
        ],
        "minimum": lowest,
        "minimum_at": where,
    }


def three_points(runs: Path) -> dict[str, Any]:
    """Draw the example as a run of its own in `runs`; return its record.

    Raises PipelineError if runs cannot be kept there.
    """
    check_runs(runs)
    started = now()
    x: NDArray[np.float64] = POINTS[:, 0] - MEAN
    with TemporaryDirectory() as made:  # first all that may fail
        drawn = draw(Path(made) / PICTURE)
        run = Run.create(runs, "landscape --three-points")
        shutil.copy(Path(made) / PICTURE, run.path)
    record = {
        "run": run.id,
        "command": "landscape --three-points",
        "status": "done",
        "points": x.tolist(),
        "classes": [0, 1, 2],
        "weights": WEIGHTS[:, 0].tolist(),
        "losses": drawn,
        "started": started,
        "finished": now(),
        **circumstances(),
    }
    run.write_record(record)
    return record
