"""A look at weights: what they take the images of a split for, and what that costs.

Scores are float64; an example's margins are `s_j - s_y + 1`, its loss the sum of those above 0
but for its own class's, which is always 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.record import Run
from kernels.hinge import fold, hinge_partial, scores
from kernels.partial import Partial, finalize
from pipeline.errors import PipelineError
from storage.dataset import Dataset, open_dataset
from storage.errors import DataError
from storage.schema import Bytes, Split

Floats = NDArray[np.float64]

KINDS: dict[Split, str] = {"train": "training images", "test": "test images"}
"""What a split's images are called."""


@dataclass(frozen=True, eq=False)
class Example:
    """One image, and what the weights say of it."""

    row: int
    image: Bytes
    """(3072,) uint8, as it is stored."""
    label: int
    predicted: int
    loss: float
    """inf where a score is no usable number."""
    scores: Floats
    """(C,)."""
    margins: Floats
    """(C,): `s_j - s_y + 1`."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What there is to say of some weights on a split."""

    split: Split
    classes: tuple[str, ...]
    loss: float
    """Mean hinge loss of all images of the split, without a regulariser."""
    accuracy: float
    confusion: NDArray[np.int64]
    """(C, C): how many images of the row's class were taken for the column's."""
    examples: tuple[Example, ...]
    """The first rows of the split."""

    @property
    def images(self) -> NDArray[np.int64]:
        """How many images each class has (C,)."""
        return np.asarray(self.confusion.sum(axis=1))

    @property
    def recall(self) -> Floats:
        """The part of each class's images that was taken for it (C,); NaN where it has none."""
        return ratio(self.confusion.diagonal(), self.images)

    @property
    def precision(self) -> Floats:
        """The part of what was taken for each class that is of it (C,); NaN where nothing was."""
        return ratio(self.confusion.diagonal(), self.confusion.sum(axis=0))


def dataset_of(run: Run, store: str | None) -> Dataset:
    """Open the store that a run was on, where it is now or, for None, where its record says.

    Raises DataError if there is no store, and PipelineError if it holds other data.
    """
    record = run.record
    try:
        url, fingerprint = str(record["data"]["url"]), str(record["data"]["fingerprint"])
    except (KeyError, TypeError) as error:
        raise run.unreadable(f"it does not say what data it was on ({error!r})") from error
    try:
        dataset = open_dataset(store or url)
    except DataError as error:
        if store:
            raise
        raise DataError(f"{error}; if the store of run {run.id} was moved, give --store") from error
    if dataset.fingerprint != fingerprint:
        raise PipelineError(
            f"run {run.id} was on other data than {dataset.url} holds (fingerprint "
            f"{fingerprint[:12]}, not {dataset.fingerprint[:12]}); name the store it was on "
            "with --store"
        )
    return dataset


def look(dataset: Dataset, W: Floats, split: Split, examples: int) -> Shown:
    """Take the weights (C, D + 1) over all images of a split, and keep the first `examples`.

    Raises DataError if a chunk is damaged or missing.
    """
    scorer = fold(W, dataset.mean, np.float64)
    total = Partial.zero(*scorer.weights.shape)
    confused = np.zeros((len(W), len(W)), np.int64)
    for shard in dataset.shards(split):
        images, labels = dataset.read(split, shard.start, shard.stop)
        predictions = np.empty(len(labels), np.uint8)
        total = total.combine(hinge_partial(scorer, images, labels, predictions=predictions))
        confused += confusion(labels, predictions, len(W))
    value = finalize(total, W, dataset.mean)
    images, labels = dataset.read(split, 0, min(examples, dataset.rows(split)))
    kept = zip(images, labels.tolist(), scores(scorer, images).astype(np.float64), strict=True)
    return Shown(
        split,
        dataset.classes,
        value.loss,
        value.accuracy,
        confused,
        tuple(_example(row, *each) for row, each in enumerate(kept)),
    )


def confusion(labels: Bytes, predictions: Bytes, classes: int) -> NDArray[np.int64]:
    """Count the images (n,) of each class that were taken for each (C, C).

    >>> confusion(np.array([0, 1, 1], np.uint8), np.array([0, 0, 1], np.uint8), 2)
    array([[1, 0],
           [1, 1]])
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def ratio(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> Floats:
    """Return `parts / wholes`, NaN where there is nothing to be a part of.

    >>> ratio(np.array([1, 0]), np.array([4, 0]))
    array([0.25,  nan])
    """
    ratios = np.full(len(wholes), np.nan)
    np.divide(parts, wholes, out=ratios, where=wholes > 0)
    return ratios


def _example(row: int, image: Bytes, label: int, scores: Floats) -> Example:
    with np.errstate(over="ignore", invalid="ignore"):  # the loss says so
        margins = scores - scores[label] + 1.0
        loss = float(np.maximum(np.delete(margins, label), 0.0).sum())
    loss = loss if np.isfinite(loss) else np.inf
    return Example(row, image, label, int(np.argmax(scores)), loss, scores, margins)


def results(shown: Shown) -> dict[str, Any]:
    """Return all but the images as JSON would have it; what is no number becomes null there."""
    return {
        "split": shown.split,
        "accuracy": shown.accuracy,
        "loss": shown.loss,
        "classes": list(shown.classes),
        "confusion": shown.confusion.tolist(),
        "recall": shown.recall.tolist(),
        "precision": shown.precision.tolist(),
        "examples": [
            {
                "row": each.row,
                "class": shown.classes[each.label],
                "predicted": shown.classes[each.predicted],
                "loss": each.loss,
                "scores": each.scores.tolist(),
                "margins": each.margins.tolist(),
            }
            for each in shown.examples
        ],
    }
