"""Predictions of weights on a split: loss, confusion matrix, and the scores of some images.

Scores are float64. An image's margins are `s_j - s_y + 1`. Its loss is the sum of the positive
margins of the wrong classes. The margin of its own class is always 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.hinge import fold, scores, sum_rows
from kernels.partial import Partial, finalize
from storage.dataset import Dataset
from storage.schema import Bytes, Split

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ImagePrediction:
    """One image and its prediction."""

    row: int
    image: Bytes
    """(3072,) uint8, as stored."""
    label: int
    predicted: int
    loss: float
    """inf if a score is not finite."""
    scores: Floats
    """(C,)."""
    margins: Floats
    """(C,): `s_j - s_y + 1`."""


@dataclass(frozen=True, eq=False)
class SplitPredictions:
    """The predictions for all images of a split."""

    split: Split
    classes: tuple[str, ...]
    loss: float
    """The mean hinge loss of all images of the split, without a regulariser."""
    accuracy: float
    confusion: NDArray[np.int64]
    """(C, C): entry [j, k] is the number of images of class j that were predicted as class k."""
    examples: tuple[ImagePrediction, ...]
    """The first rows of the split."""

    @property
    def images(self) -> NDArray[np.int64]:
        """The number of images of each class (C,)."""
        return np.asarray(self.confusion.sum(axis=1))

    @property
    def recall(self) -> Floats:
        """The fraction of each class's images predicted correctly (C,); nan for no images."""
        return ratio(self.confusion.diagonal(), self.images)

    @property
    def precision(self) -> Floats:
        """The fraction of each class's predictions that is correct (C,); nan for no predictions."""
        return ratio(self.confusion.diagonal(), self.confusion.sum(axis=0))


def predict_split(dataset: Dataset, W: Floats, split: Split, examples: int) -> SplitPredictions:
    """Predict all images of a split with weights (C, D + 1); keep the first `examples`.

    Raises DataError if a chunk is damaged or missing.
    """
    scorer = fold(W, dataset.mean, np.float64)
    total = Partial.zero(*scorer.weights.shape)
    confusion = np.zeros((len(W), len(W)), np.int64)
    for shard in dataset.shards(split):
        images, labels = dataset.read(split, shard.start, shard.stop)
        predictions = np.empty(len(labels), np.uint8)
        total = total.combine(sum_rows(scorer, images, labels, predictions=predictions))
        confusion += count_confusion(labels, predictions, len(W))
    value = finalize(total, W, dataset.mean)
    images, labels = dataset.read(split, 0, min(examples, dataset.rows(split)))
    kept = zip(images, labels.tolist(), scores(scorer, images).astype(np.float64), strict=True)
    return SplitPredictions(
        split,
        dataset.classes,
        value.loss,
        value.accuracy,
        confusion,
        tuple(_predict_image(row, *each) for row, each in enumerate(kept)),
    )


def count_confusion(labels: Bytes, predictions: Bytes, classes: int) -> NDArray[np.int64]:
    """Return the number of images for each true class (row) and predicted class (column) (C, C).

    Examples:
        >>> count_confusion(np.array([0, 1, 1], np.uint8), np.array([0, 0, 1], np.uint8), 2)
        array([[1, 0],
               [1, 1]])
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def ratio(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> Floats:
    """Return `parts / wholes`, with nan where a whole is 0.

    Examples:
        >>> ratio(np.array([1, 0]), np.array([4, 0]))
        array([0.25,  nan])
    """
    ratios = np.full(len(wholes), np.nan)
    np.divide(parts, wholes, out=ratios, where=wholes > 0)
    return ratios


def _predict_image(row: int, image: Bytes, label: int, scores: Floats) -> ImagePrediction:
    with np.errstate(over="ignore", invalid="ignore"):  # then the loss is inf
        margins = scores - scores[label] + 1.0
        loss = float(np.maximum(np.delete(margins, label), 0.0).sum())
    loss = loss if np.isfinite(loss) else np.inf
    return ImagePrediction(row, image, label, int(np.argmax(scores)), loss, scores, margins)
