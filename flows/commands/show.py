"""`hinge show`: what the weights of a run look like, and what they take images for."""

import math
from pathlib import Path
from typing import Any

import click

from flows.commands.options import output_options
from flows.errors import EXIT_DONE


@click.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--store",
    metavar="URL",
    help="The Zarr store: a path or a URL.  [default: the one that the run was on]",
)
@click.option(
    "--split",
    type=click.Choice(["test", "train"]),
    default="test",
    show_default=True,
    help="The images that are predicted.",
)
@click.option(
    "--examples",
    type=click.IntRange(1, 16),
    metavar="N",
    default=8,
    show_default=True,
    help="Images to draw with their margins: the first rows of the split.",
)
@output_options
def show(run: str, store: str | None, split: Any, examples: int, runs: Path, as_json: bool) -> int:
    """Draw the weights of a run, and say what they take images for.

    RUN is a run that left weights: its name, or its directory. The pictures are put there:
    the weights as images, the margins of some examples, and the confusion matrix.
    """
    from flows.console import Console
    from flows.record import Run
    from flows.show import dataset_of, look, results
    from flows.show_figures import draw_shown
    from storage.schema import PIXELS

    found = Run.find(runs, run)
    dataset = dataset_of(found, store)
    W = found.read_weights((len(dataset.classes), PIXELS + 1))
    shown = look(dataset, W, split, examples)
    pictures = draw_shown(found.path, W, shown, title=found.id)
    result = {"run": found.id, "data": dataset.describe(), **results(shown)}
    result["pictures"] = [str(path) for path in pictures]
    Console(json=as_json).result(result, _summary(result, found.path), _table(result))
    return EXIT_DONE


def _table(result: dict[str, Any]) -> list[str]:
    """Return a line for each class: how its images fared."""
    line = "{:<12} {:>7} {:>8} {:>10}  {}"
    columns = ("classes", "confusion", "recall", "precision")
    return [
        line.format("class", "images", "recall", "precision", "most often taken for"),
        *(
            line.format(
                name,
                f"{sum(counts):,}",
                _percent(recall),
                _percent(precision),
                _most_often(result["classes"], index, counts),
            )
            for index, (name, counts, recall, precision) in enumerate(
                zip(*(result[column] for column in columns), strict=True)
            )
        ),
    ]


def _percent(part: float) -> str:
    return "none" if math.isnan(part) else f"{part:.2%}"


def _most_often(classes: list[str], own: int, counts: list[int]) -> str:
    """Say what other class a class's images were most often taken for, and how many were."""
    others = [-1 if index == own else count for index, count in enumerate(counts)]
    most = max(others)
    return f"{classes[others.index(most)]} ({most:,})" if most > 0 else "none"


def _summary(result: dict[str, Any], directory: Path) -> dict[str, str]:
    from flows.console import described_data
    from flows.show import KINDS

    images = sum(map(sum, result["confusion"]))
    names = ", ".join(Path(picture).name for picture in result["pictures"])
    return {
        "run": result["run"],
        "data": described_data(result["data"]),
        "loss": f"{result['loss']:.4f} (mean hinge of the {KINDS[result['split']]}, without a "
        "regulariser)",
        "accuracy": f"{result['accuracy']:.2%} of the {images:,} {KINDS[result['split']]}",
        "look at": f"{names} in {directory}",
    }
