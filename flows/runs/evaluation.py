"""The Prefect task that evaluates the weights of a run on all images of a split."""

import numpy as np
from numpy.typing import NDArray

from flows.services.session import Session
from flows.services.tasks import task
from kernels.partial import Evaluation
from pipeline.objective import Objective
from storage.dataset import Dataset
from storage.schema import Split


@task("evaluate", run_name="evaluate on {split}")
def evaluate_weights(
    session: Session,
    dataset: Dataset,
    W: NDArray[np.float64],
    split: Split,
    *,
    reg: float = 0.0,
    reg_bias: bool = False,
    dtype: str = "float32",
) -> Evaluation:
    """Return the loss and accuracy of `W` (C, D + 1) on all images of a split."""
    map_shards = session.map_shards(dataset, split)
    return Objective(map_shards, dataset.mean, reg, dtype, reg_bias)(W)
