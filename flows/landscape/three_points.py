"""The notes' smallest data set: three one-dimensional points of three classes, and one weight.

    L_0 = max(0, w_1 x_0 - w_0 x_0 + 1) + max(0, w_2 x_0 - w_0 x_0 + 1)
    L_1 = max(0, w_0 x_1 - w_1 x_1 + 1) + max(0, w_2 x_1 - w_1 x_1 + 1)
    L_2 = max(0, w_0 x_2 - w_2 x_2 + 1) + max(0, w_1 x_2 - w_2 x_2 + 1)

These losses and their mean are functions of w_0, linear between kinks. Like images, the points are
bytes minus a mean, and the functions are computed by the same kernels.

A. Karpathy and J. Johnson, CS231n, "Optimization: Stochastic Gradient Descent".
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from flows.landscape.three_points_results import PICTURE, ThreePointsRecord, summarise_loss
from flows.runs.directory import RunDirectory, check_runs
from flows.runs.environment import package_versions, this_machine, timestamp
from flows.runs.record import write_record
from kernels.piecewise import PiecewiseLinear
from pipeline.cluster.map_shards import run_in_process
from pipeline.cluster.shards import ResidentShard
from pipeline.objective import Objective
from pipeline.slices.line import LossAlongLine

POINTS = np.array([[4], [1], [6]], np.uint8)
"""The points as bytes (3, 1), of classes 0, 1 and 2."""

MEAN = np.array([2.0])
"""The mean, which is subtracted from the points. This gives 2, -1 and 4."""

WEIGHTS = np.array([[0.0, 0.0], [0.5, 0.0], [-0.25, 0.0]])
"""One row per class; the bias is 0. The line starts here, at w_0 = 0."""

DIRECTION = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
"""The direction of the line: only w_0 changes."""

LOW, HIGH = -2.0, 3.0
"""The smallest and the largest w_0."""


def loss_functions() -> dict[str, PiecewiseLinear]:
    """Return the loss of each point, and their mean, as functions of w_0.

    Examples:
        >>> {name: loss.positions[1:-1].tolist() for name, loss in loss_functions().items()}
        {'L0': [0.25, 1.0], 'L1': [1.5], 'L2': [-0.5], 'mean': [-0.5, 0.25, 1.0, 1.5]}
    """
    shard = ResidentShard(0, 3, POINTS, np.arange(3, dtype=np.uint8))
    objective = Objective(run_in_process([shard]), MEAN, dtype="float64")
    rows_of_each = {f"L{i}": np.array([i]) for i in range(3)} | {"mean": None}
    return {
        name: LossAlongLine(objective, WEIGHTS, DIRECTION, rows).function(LOW, HIGH)
        for name, rows in rows_of_each.items()
    }


def record_three_points(runs: Path) -> ThreePointsRecord:
    """Draw the example as a new run in `runs`, and return its record.

    Raises PipelineError if `runs` cannot contain runs.
    """
    from flows.landscape.three_points_figures import draw_three_points

    check_runs(runs)
    started, losses = timestamp(), loss_functions()
    with TemporaryDirectory() as temporary:  # draw first, so that a failure leaves no run
        draw_three_points(Path(temporary) / PICTURE, losses)
        directory = RunDirectory.create(runs, "three-points")
        shutil.copy(Path(temporary) / PICTURE, directory.path)
    record = ThreePointsRecord(
        run=directory.id,
        command="three-points",
        status="done",
        started=started,
        finished=timestamp(),
        versions=package_versions(),
        machine=this_machine(),
        points=tuple((POINTS[:, 0] - MEAN).tolist()),
        classes=(0, 1, 2),
        weights=tuple(WEIGHTS[:, 0].tolist()),
        losses={name: summarise_loss(loss) for name, loss in losses.items()},
    )
    write_record(directory, record)
    return record
