"""Weights by name: a distribution that they are drawn from, or a run that came to them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.record import Run
from pipeline.weights import Init
from storage.dataset import Dataset
from storage.schema import PIXELS


def weights_named(name: str, dataset: Dataset, runs: Path, seed: int) -> NDArray[np.float64]:
    """Return the weights (C, D + 1) of `zeros`, `normal:SCALE`, `uniform:SCALE`, or a run's.

    Raises PipelineError if there is no such run in `runs`, or it has others.
    """
    classes = len(dataset.classes)
    if name.partition(":")[0] in {"zeros", "normal", "uniform"}:
        return Init.parse(name).weights(classes, seed)
    return Run.find(runs, name).read_weights((classes, PIXELS + 1))
