"""The report that `hinge info` prints. It is not stored."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from storage.dataset import Dataset, DatasetSummary
from storage.schema import SPLITS


@dataclass(frozen=True, kw_only=True)
class StoreReport(DatasetSummary):
    """The summary of a store and its number of images per class."""

    class_counts: Mapping[str, tuple[int, ...]]
    """Images per class for each split, in the order of `classes`."""


def describe_store(dataset: Dataset) -> StoreReport:
    """Return the report on a store.

    Raises DataError if the store's labels are damaged or missing.
    """
    counts: dict[str, tuple[int, ...]] = {
        split: tuple(np.bincount(dataset.labels(split), minlength=len(dataset.classes)).tolist())
        for split in SPLITS
    }
    return StoreReport(**vars(dataset.summary()), class_counts=counts)
