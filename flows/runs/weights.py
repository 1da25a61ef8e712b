"""Weights by name: a distribution from which they are drawn, or the run that produced them."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.runs.directory import RunDirectory
from pipeline.inputs.weights import InitialWeights
from storage.dataset import Dataset
from storage.schema import PIXELS


def weights_named(name: str, dataset: Dataset, runs: Path, seed: int) -> NDArray[np.float64]:
    """Return the weights (C, D + 1) for `zeros`, `normal:SCALE`, `uniform:SCALE` or a run.

    Raises PipelineError if the run is not in `runs`, or has no weights of this shape.
    """
    classes = len(dataset.classes)
    if name.partition(":")[0] in {"zeros", "normal", "uniform"}:
        return InitialWeights.parse(name).weights(classes, seed)
    return RunDirectory.find(runs, name).read_weights((classes, PIXELS + 1))


def weights_sha256(W: NDArray[np.float64]) -> str:
    """Return the SHA-256 (hex) of the weights as float64 bytes, row-major and little-endian."""
    return hashlib.sha256(np.ascontiguousarray(W, "<f8").tobytes()).hexdigest()
