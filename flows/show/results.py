"""What `hinge show` reports of a run's weights. It is printed and not kept."""

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
    """One image of a split, and what the weights predict for it."""

    row: int
    true_class: Annotated[str, Field(alias="class")]
    predicted: str
    loss: Number
    scores: tuple[Number, ...]
    """By class."""
    margins: tuple[Number, ...]
    """By class: its score less that of the true class, plus 1."""


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """What the weights of a run predict on a split, and where that is drawn."""

    run: str
    data: DatasetSummary
    split: Split
    accuracy: float
    loss: Number
    """The mean hinge loss of all images of the split, without a regulariser."""
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    """How many images of the row's class were predicted as the column's."""
    recall: tuple[Number, ...]
    """The part of each class's images that was predicted right; nan for no images."""
    precision: tuple[Number, ...]
    """The part of each class's predictions that is right; nan for no predictions."""
    examples: tuple[ExampleReport, ...]
    """The first rows of the split."""
    pictures: tuple[str, ...]
    """The paths of the pictures."""


def open_dataset_of(run: RunDirectory, store: str | None) -> Dataset:
    """Open the store that a run was on: `store`, or for None the one that its record names.

    Raises DataError if there is no store, and PipelineError if it holds other data.
    """
    header = read_header(run)
    if header.data is None:
        raise run.unreadable("it does not say what data it was on")
    try:
        dataset = open_dataset(store or header.data.url)
    except DataError as error:
        if store:
            raise
        raise DataError(f"{error}; if the store of run {run.id} was moved, give --store") from error
    check_data(header, run, dataset, f"{dataset.url} holds", "it was on with --store")
    return dataset


def describe_weights(
    run: RunDirectory, dataset: Dataset, predictions: SplitPredictions, pictures: Sequence[Path]
) -> WeightsReport:
    """Report what the weights of a run predict."""
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
