"""The result of `hinge show`: a report on a run's weights, which is printed but not stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from flows.runs.directory import RunDirectory
from flows.runs.header import check_data, read_header
from flows.runs.record import Number
from flows.show.predictions import ImagePrediction, SplitPredictions
from storage.dataset import Dataset, DatasetSummary, open_dataset
from storage.errors import DataError
from storage.schema import Split


@dataclass(frozen=True, kw_only=True)
class ExampleReport:
    """One image of a split and its prediction."""

    row: int
    true_class: Annotated[str, Field(alias="class")]
    predicted: str
    loss: Number
    scores: tuple[Number, ...]
    """One per class."""
    margins: tuple[Number, ...]
    """One per class: the class's score less the score of the true class, plus 1."""


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """The predictions of a run's weights on a split, and the paths of their pictures."""

    run: str
    data: DatasetSummary
    split: Split
    accuracy: float
    loss: Number
    """The mean hinge loss of all images of the split, without a regulariser."""
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Entry [j][k] is the number of images of class j that were predicted as class k."""
    recall: tuple[Number, ...]
    """The fraction of each class's images predicted correctly; nan for no images."""
    precision: tuple[Number, ...]
    """The fraction of each class's predictions that is correct; nan for no predictions."""
    examples: tuple[ExampleReport, ...]
    """The first rows of the split."""
    pictures: tuple[str, ...]
    """The paths of the pictures."""


def open_dataset_of(run: RunDirectory, store: str | None) -> Dataset:
    """Open `store`, or the store that the run's record names if `store` is None.

    Raises DataError if there is no store, and PipelineError if the store contains other data.
    """
    header = read_header(run)
    if header.data is None:
        raise run.unreadable("it does not name the data of the run")
    try:
        dataset = open_dataset(store or header.data.url)
    except DataError as error:
        if store:
            raise
        raise DataError(
            f"{error}; if the store of run {run.id} was moved, name its new path with --store"
        ) from error
    check_data(header, run, dataset, f"{dataset.url} contains", "of the run with --store")
    return dataset


def describe_weights(
    run: RunDirectory, dataset: Dataset, predictions: SplitPredictions, pictures: Sequence[Path]
) -> WeightsReport:
    """Return the report on the weights of a run."""
    return WeightsReport(
        run=run.id,
        data=dataset.summary(),
        split=predictions.split,
        accuracy=predictions.accuracy,
        loss=predictions.loss,
        classes=predictions.classes,
        confusion=tuple(map(tuple, predictions.confusion.tolist())),
        recall=tuple(predictions.recall.tolist()),
        precision=tuple(predictions.precision.tolist()),
        examples=tuple(
            _describe_example(each, predictions.classes) for each in predictions.examples
        ),
        pictures=tuple(map(str, pictures)),
    )


def _describe_example(example: ImagePrediction, classes: Sequence[str]) -> ExampleReport:
    return ExampleReport(
        row=example.row,
        true_class=classes[example.label],
        predicted=classes[example.predicted],
        loss=example.loss,
        scores=tuple(example.scores.tolist()),
        margins=tuple(example.margins.tolist()),
    )
