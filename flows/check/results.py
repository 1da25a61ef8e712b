"""The results of a gradient check: its record, tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flows.check.inputs import CheckInputs
from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, Number, OptionalNumber, plain
from flows.runs.weights import weights_sha256
from flows.services.tasks import task
from kernels.gradient_verdict import Comparison, Findings, Named, Verdict
from pipeline.check.parameters import GradientCheck
from storage.schema import IMAGE_SHAPE, PIXELS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CHANNELS = ("red", "green", "blue")


@dataclass(frozen=True, kw_only=True)
class VerdictCounts:
    """The number of coordinates with each verdict (`kernels.gradient_verdict.Verdict`)."""

    pass_: Annotated[int, Field(alias="pass")]
    kink: int
    roundoff: int
    wrong: int


@dataclass(frozen=True, kw_only=True)
class WorstCoordinate:
    """One of the coordinates with the largest errors."""

    class_: Annotated[str | None, Field(alias="class")] = None
    """The class whose score the weight contributes to; None for a pixel."""
    example: int | None = None
    """The row number of the training image that contains the pixel; None for a weight."""
    channel: str
    """`red`, `green`, `blue` or `bias`."""
    row: int | None
    """The pixel's row in the image; None for the bias."""
    column: int | None
    verdict: str
    analytic: Number
    numerical: Number
    error: Number
    error_after_kinks: Number
    """The error with kinks removed."""
    crossings: int
    """The number of margins that cross their kink."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of a gradient check. Each maximum is over all checked coordinates."""

    coordinates: int
    """The number of checked coordinates."""
    examples: int
    verdicts: VerdictCounts
    max_relative_error: Number
    """`|a - n| / max(|a|, |n|)` of the analytic and the numerical value."""
    max_relative_error_after_kinks: Number
    max_error: Number
    """`|a - n|`."""
    max_error_after_kinks: Number
    largest_roundoff_bound: Number
    """The largest bound on the rounding error of a coordinate."""
    kink_crossings: int
    worst: tuple[WorstCoordinate, ...]
    """The coordinates with the largest errors, wrong ones first."""
    weights_sha256: str
    seconds: float
    """The duration of the check, without loading the images."""
    loss: Number
    """The loss at the weights, with the regulariser."""
    max_difference_to_structured: OptionalNumber = None
    """The largest difference between the black-box and the structured differences."""

    def in_words(self) -> str:
        """Return the verdicts as one line."""
        counts = (f"{count:,} {verdict}" for verdict, count in plain(self.verdicts).items())
        error = f"{self.max_relative_error_after_kinks:.1e}"
        return f"{', '.join(counts)}; relative error at most {error} with kinks removed"


CheckRecord = FinishedRecord[GradientCheck, CheckResult]
CheckRun = ActiveRun[GradientCheck, CheckResult, CheckInputs]


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightOutcome:
    """The outcome of a check of the gradient with respect to the weights."""

    findings: Findings
    examples: int
    loss: float
    comparison: Comparison
    """One element per coordinate (k,)."""
    coordinates: Integers
    """(k,): indices into the flattened weights (C, D + 1)."""
    max_difference_to_structured: float | None
    """None unless the black-box method computed the differences."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PixelOutcome:
    """The outcome of a check of the gradients with respect to the pixels."""

    findings: Findings
    examples: int
    loss: float
    errors: Floats
    """(D,): the largest relative error of each pixel, with kinks removed."""
    crossings: Integers
    """(D,): the number of margins that cross their kink, per pixel."""


def summarise(
    outcome: WeightOutcome | PixelOutcome, W: Floats, classes: tuple[str, ...], seconds: float
) -> CheckResult:
    """Return the result of a check at `W` that took `seconds`."""
    findings, largest = outcome.findings, outcome.findings.largest
    difference = None
    if isinstance(outcome, WeightOutcome):
        difference = outcome.max_difference_to_structured
    return CheckResult(
        coordinates=int(findings.verdicts.sum()),
        examples=outcome.examples,
        verdicts=VerdictCounts(
            pass_=int(findings.verdicts[Verdict.PASS]),
            kink=int(findings.verdicts[Verdict.KINK]),
            roundoff=int(findings.verdicts[Verdict.ROUNDOFF]),
            wrong=int(findings.verdicts[Verdict.WRONG]),
        ),
        max_relative_error=largest.relative_error,
        max_relative_error_after_kinks=largest.relative_error_after_kinks,
        max_error=largest.error,
        max_error_after_kinks=largest.error_after_kinks,
        largest_roundoff_bound=largest.bound,
        kink_crossings=findings.crossings,
        worst=tuple(_worst_coordinate(classes, each) for each in findings.worst),
        weights_sha256=weights_sha256(W),
        seconds=seconds,
        loss=outcome.loss,
        max_difference_to_structured=difference,
    )


def _worst_coordinate(classes: tuple[str, ...], named: Named) -> WorstCoordinate:
    """Describe a coordinate: its class or example, its place, and its errors."""
    name = example = None
    if len(named.place) == 2:
        example, pixel = named.place
    else:
        number, pixel = divmod(named.place[0], PIXELS + 1)
        name = classes[number]
    channel, row, column = "bias", None, None
    if pixel < PIXELS:
        at, row, column = map(int, np.unravel_index(pixel, IMAGE_SHAPE))
        channel = _CHANNELS[at]
    numbers = named._asdict() | {"verdict": named.verdict.name.lower()}
    del numbers["place"]
    return WorstCoordinate(
        class_=name, example=example, channel=channel, row=row, column=column, **numbers
    )


@task("save results")
def save_results(
    run: CheckRun,
    outcome: WeightOutcome | PixelOutcome,
    result: CheckResult,
) -> None:
    """Write the tables, draw the figures, and publish them as Prefect artifacts."""
    worst = [plain(each) for each in result.worst]
    run.directory.write_table("worst.csv", worst)
    publish, series = run.report.publish, run.series
    publish(artifacts.summary, f"{series}: result", _shown(result), run.describe("Result"))
    words = run.describe("Coordinates with the largest errors")
    publish(artifacts.table, f"{series}: worst", worst, words)
    check = run.parameters
    title = f"{run.id}\n{check.scheme} differences, h = {check.step:g}, at {check.at}"
    histograms = outcome.findings.histograms

    def draw(path: Path) -> None:
        from flows.check.figures import draw_histogram

        draw_histogram(path, histograms, title=title)

    run.draw("histogram.png", draw)
    if isinstance(outcome, WeightOutcome):
        _draw_weights(run, outcome, title)
        errors = "Relative errors per pixel"
    else:
        _draw_pixels(run, outcome, title)
        errors = "Largest relative error per pixel"
    pictures = {
        "histogram": "Histogram of the relative errors",
        "errors": errors,
        "crossings": "Crossed kinks per pixel",
    }
    for name, words in pictures.items():
        picture = run.directory.path / f"{name}.png"
        publish(artifacts.picture, f"{series}: {name}", picture, run.describe(words))


def _shown(result: CheckResult) -> dict[str, Any]:
    """Return the values of the summary table in Prefect."""
    names = (
        "coordinates", "examples", "max_relative_error", "max_relative_error_after_kinks",
        "max_error_after_kinks", "largest_roundoff_bound", "kink_crossings", "seconds",
    )  # fmt: skip
    return {**plain(result.verdicts), **{name: getattr(result, name) for name in names}}


def _draw_weights(run: CheckRun, outcome: WeightOutcome, title: str) -> None:
    """Write the table of all coordinates; draw the errors and crossings, one image per class."""
    classes, comparison = run.dataset.classes, outcome.comparison
    run.directory.write_table("coordinates.csv", _coordinate_table(classes, outcome))
    before, after, crossings = (
        _as_images(values, outcome.coordinates, len(classes))
        for values in (
            comparison.relative_error,
            comparison.relative_error_after_kinks,
            comparison.crossings.astype(np.float64),
        )
    )
    _draw_images(run, before, after, crossings, classes, title)


def _draw_pixels(run: CheckRun, outcome: PixelOutcome, title: str) -> None:
    """Draw one image of the errors and one of the crossings, over all examples."""
    errors, crossings = outcome.errors[None], outcome.crossings.astype(np.float64)[None]
    _draw_images(run, None, errors, crossings, ["over all images"], title)


def _draw_images(
    run: CheckRun,
    before: Floats | None,
    after: Floats,
    crossings: Floats,
    names: Sequence[str],
    title: str,
) -> None:
    """Draw the relative errors before and after the kinks are removed, and the crossings."""

    def draw_errors(path: Path) -> None:
        from flows.check.figures import draw_error_images

        draw_error_images(path, before, after, names, title=title)

    def draw_kinks(path: Path) -> None:
        from flows.check.figures import draw_crossings

        draw_crossings(path, crossings, names, title=title)

    run.draw("errors.png", draw_errors)
    run.draw("crossings.png", draw_kinks)


def _coordinate_table(classes: tuple[str, ...], outcome: WeightOutcome) -> dict[str, NDArray[Any]]:
    """Return the columns of the table with one row per coordinate."""
    comparison, coordinates = outcome.comparison, outcome.coordinates
    verdicts = np.array([each.name.lower() for each in Verdict])
    return {
        "class": np.array(classes)[coordinates // (PIXELS + 1)],
        "pixel": coordinates % (PIXELS + 1),
        "analytic": comparison.analytic,
        "numerical": comparison.numerical,
        "kinks": comparison.kinks,
        "crossings": comparison.crossings,
        "roundoff_bound": comparison.roundoff,
        "verdict": verdicts[comparison.verdicts],
    }


def _as_images(values: Floats, coordinates: Integers, classes: int) -> Floats:
    """Arrange the coordinates' values (k,) as images (C, D), without the bias.

    A coordinate that was not checked becomes NaN.
    """
    images = np.full(classes * (PIXELS + 1), np.nan)
    images[coordinates] = values
    return images.reshape(classes, PIXELS + 1)[:, :-1]
