"""What `hinge info` reports of a store. It is printed and not kept."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from storage.dataset import Dataset, DatasetSummary
from storage.schema import SPLITS


@dataclass(frozen=True, kw_only=True)
class StoreReport(DatasetSummary):
    """A store's summary, and how many images of each class it holds."""

    class_counts: Mapping[str, tuple[int, ...]]
    """By split, in the order of `classes`."""


def describe_store(dataset: Dataset) -> StoreReport:
    """Report what a store holds.

    Raises DataError if its labels are damaged or missing.
    """
    counts: dict[str, tuple[int, ...]] = {
        split: tuple(np.bincount(dataset.labels(split), minlength=len(dataset.classes)).tolist())
        for split in SPLITS
    }
    return StoreReport(**vars(dataset.summary()), class_counts=counts)
