"""The task that every run ends with: its weights, evaluated on all images of a split."""

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.services.session import Session
from kernels.partial import Evaluation
from pipeline.objective import Objective
from storage.dataset import Dataset
from storage.schema import Split


@task(name="evaluate", task_run_name="evaluate on {split}", cache_policy=NO_CACHE)
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
    """Evaluate `W` (C, D + 1) on all images of a split."""
    map_shards = session.map_shards(dataset, split)
    return Objective(map_shards, dataset.mean, reg, dtype, reg_bias)(W)
