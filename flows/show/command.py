"""The command `hinge show`, which draws the weights of a run and evaluates their predictions."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.completion import complete_run, complete_store
from flows.command_line.exit_status import EXIT_DONE
from flows.command_line.options import output_options

if TYPE_CHECKING:
    from flows.show.results import WeightsReport


@click.command()
@click.argument("run", metavar="RUN", shell_complete=complete_run)
@click.option(
    "--store",
    metavar="URL",
    shell_complete=complete_store,
    help="Zarr store: a path or a URL.  [default: the store of the run]",
)
@click.option(
    "--split",
    type=click.Choice(["test", "train"]),
    default="test",
    show_default=True,
    help="The split to predict.",
)
@click.option(
    "--examples",
    type=click.IntRange(1, 16),
    metavar="N",
    default=8,
    show_default=True,
    help="Number of images to draw with their margins: the first N images of the split.",
)
@output_options
def show(run: str, store: str | None, split: Any, examples: int, runs: Path, as_json: bool) -> int:
    """Draw the weights of a run, and print how well they predict.

    RUN is the name or the directory of a run that saved its weights. The command draws three
    figures in this directory: the weights as images, the margins of some images, and the confusion
    matrix. It prints the recall and precision of each class.
    """
    from flows.runs.directory import RunDirectory
    from flows.runs.record import plain
    from flows.services.console import Console
    from flows.show.figures import draw_predictions
    from flows.show.predictions import predict_split
    from flows.show.results import describe_weights, open_dataset_of
    from storage.schema import PIXELS

    directory = RunDirectory.find(runs, run)
    dataset = open_dataset_of(directory, store)
    W = directory.read_weights((len(dataset.classes), PIXELS + 1))
    predictions = predict_split(dataset, W, split, examples)
    pictures = draw_predictions(directory.path, W, predictions, title=directory.id)
    report = describe_weights(directory, dataset, predictions, pictures)
    summary = _summary(report, directory.path)
    Console(json=as_json).result(plain(report), summary, _table(report))
    return EXIT_DONE


def _table(report: "WeightsReport") -> list[str]:
    """Return a header, and one line per class with its recall, precision and main mistake."""
    line = "{:<12} {:>7} {:>8} {:>10}  {}"
    by_class = zip(report.classes, report.confusion, report.recall, report.precision, strict=True)
    return [
        line.format("class", "images", "recall", "precision", "most often mistaken for"),
        *(
            line.format(
                name,
                f"{sum(counts):,}",
                _percent(recall),
                _percent(precision),
                _most_often(report.classes, index, counts),
            )
            for index, (name, counts, recall, precision) in enumerate(by_class)
        ),
    ]


def _percent(part: float) -> str:
    return "none" if math.isnan(part) else f"{part:.2%}"


def _most_often(classes: Sequence[str], own: int, counts: Sequence[int]) -> str:
    """Return the wrong class that is predicted most often for a class's images, and its count."""
    wrong = [-1 if index == own else count for index, count in enumerate(counts)]
    most = max(wrong)
    return f"{classes[wrong.index(most)]} ({most:,})" if most > 0 else "none"


def _summary(report: "WeightsReport", directory: Path) -> dict[str, str]:
    from flows.show.figures import SPLIT_IMAGES

    total, images = sum(map(sum, report.confusion)), SPLIT_IMAGES[report.split]
    names = ", ".join(Path(picture).name for picture in report.pictures)
    return {
        "run": report.run,
        "data": report.data.in_words(),
        "loss": f"{report.loss:.4f} (mean hinge loss of the {images}, without a regulariser)",
        "accuracy": f"{report.accuracy:.2%} of the {total:,} {images}",
        "files": f"{names} in {directory}",
    }
