"""What a gradient check leaves: its result, tables, and pictures of the errors."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flows.check.figures import draw_crossings, draw_error_images, draw_histogram
from flows.check.inputs import CheckInputs
from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, Number, OptionalNumber, plain
from flows.runs.weights import weights_sha256
from kernels.gradient_verdict import Comparison, Findings, Named, Verdict
from pipeline.check.parameters import GradientCheck
from storage.schema import IMAGE_SHAPE, PIXELS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CHANNELS = ("red", "green", "blue")


@dataclass(frozen=True, kw_only=True)
class VerdictCounts:
    """How many coordinates have each verdict (`kernels.gradient_verdict.Verdict`)."""

    pass_: Annotated[int, Field(alias="pass")]
    kink: int
    roundoff: int
    wrong: int


@dataclass(frozen=True, kw_only=True)
class WorstCoordinate:
    """One of the coordinates that are the farthest off."""

    class_: Annotated[str | None, Field(alias="class")] = None
    """Whose score the weight is for; None for a pixel."""
    example: int | None = None
    """The training image whose pixel it is; None for a weight."""
    channel: str
    """`red`, `green`, `blue` or `bias`."""
    row: int | None
    """Of the image; None for the bias."""
    column: int | None
    verdict: str
    analytic: Number
    numerical: Number
    error: Number
    error_after_kinks: Number
    """Once kinks are accounted for."""
    crossings: int
    """How many margins cross their kink."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of a gradient check. Each largest error is over all coordinates."""

    coordinates: int
    """How many were checked."""
    examples: int
    verdicts: VerdictCounts
    max_relative_error: Number
    """`|a - n| / max(|a|, |n|)` of the analytic and the numerical value."""
    max_relative_error_after_kinks: Number
    max_error: Number
    """`|a - n|`."""
    max_error_after_kinks: Number
    largest_roundoff_bound: Number
    """How much of an error rounding explains, at most."""
    kink_crossings: int
    worst: tuple[WorstCoordinate, ...]
    """The coordinates that are the farthest off, wrong ones first."""
    weights_sha256: str
    seconds: float
    """How long the check took once the images were loaded."""
    loss: Number
    """At the weights, with the regulariser."""
    max_difference_to_structured: OptionalNumber = None
    """How far the black box's differences are from the structured ones."""


CheckRecord = FinishedRecord[GradientCheck, CheckResult]
CheckRun = ActiveRun[GradientCheck, CheckResult, CheckInputs]


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightOutcome:
    """What a check of the gradient in the weights found."""

    findings: Findings
    examples: int
    loss: float
    comparison: Comparison
    """Of the coordinates (k,)."""
    coordinates: Integers
    """(k,): indices into the flattened weights (C, D + 1)."""
    max_difference_to_structured: float | None
    """None unless the differences are the black box's."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PixelOutcome:
    """What a check of the gradient in the pixels found."""

    findings: Findings
    examples: int
    loss: float
    errors: Floats
    """(D,): the largest relative error of each pixel once kinks are accounted for."""
    crossings: Integers
    """(D,): how many margins cross their kink, by pixel."""


def summarise(
    outcome: WeightOutcome | PixelOutcome, W: Floats, classes: tuple[str, ...], seconds: float
) -> CheckResult:
    """Return the result of a check at `W` that took so many seconds."""
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
    """Say what a coordinate is a weight or a pixel of, where it is, and how far it is off."""
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


@task(name="save results", cache_policy=NO_CACHE)
def save_results(
    run: CheckRun,
    outcome: WeightOutcome | PixelOutcome,
    result: CheckResult,
) -> None:
    """Write the tables, draw the pictures, and show them in Prefect."""
    worst = [plain(each) for each in result.worst]
    run.directory.write_table("worst.csv", worst)
    artifacts.summary("gradient check", _shown(result), run.title)
    artifacts.table(
        "gradient check: worst", worst, f"{run.title}: the coordinates that are the farthest off"
    )
    check, path = run.parameters, run.directory.path
    title = f"{run.id}\n{check.scheme} differences, h = {check.step:g}, at {check.at}"
    draw_histogram(path / "histogram.png", outcome.findings.histograms, title=title)
    if isinstance(outcome, WeightOutcome):
        _draw_weights(run, outcome, title)
        errors = "relative errors by pixel"
    else:
        _draw_pixels(run, outcome, title)
        errors = "largest relative errors"
    pictures = {
        "histogram": "relative errors",
        "errors": errors,
        "crossings": "crossed kinks by pixel",
    }
    for name, words in pictures.items():
        artifacts.picture(f"gradient check: {name}", path / f"{name}.png", f"{run.title}: {words}")


def _shown(result: CheckResult) -> dict[str, Any]:
    """Return the numbers that Prefect shows in one table."""
    names = (
        "coordinates", "examples", "max_relative_error", "max_relative_error_after_kinks",
        "max_error_after_kinks", "largest_roundoff_bound", "kink_crossings", "seconds",
    )  # fmt: skip
    return {**plain(result.verdicts), **{name: getattr(result, name) for name in names}}


def _draw_weights(run: CheckRun, outcome: WeightOutcome, title: str) -> None:
    """Write the table of all coordinates, and draw errors and crossings, one image per class."""
    classes, path, comparison = run.dataset.classes, run.directory.path, outcome.comparison
    run.directory.write_table("coordinates.csv", _coordinate_table(classes, outcome))
    before, after, crossings = (
        _as_images(values, outcome.coordinates, len(classes))
        for values in (
            comparison.relative_error,
            comparison.relative_error_after_kinks,
            comparison.crossings.astype(np.float64),
        )
    )
    draw_error_images(path / "errors.png", before, after, classes, title=title)
    draw_crossings(path / "crossings.png", crossings, classes, title=title)


def _draw_pixels(run: CheckRun, outcome: PixelOutcome, title: str) -> None:
    """Draw errors and crossings over all images, one image each."""
    path, crossings = run.directory.path, outcome.crossings.astype(np.float64)
    draw_error_images(
        path / "errors.png", None, outcome.errors[None], ["largest over all images"], title=title
    )
    draw_crossings(path / "crossings.png", crossings[None], ["over all images"], title=title)


def _coordinate_table(classes: tuple[str, ...], outcome: WeightOutcome) -> dict[str, NDArray[Any]]:
    """Return the columns of a table with one row per coordinate."""
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
    """Return the coordinates' values (k,) as images (C, D) without the bias.

    A coordinate that was not checked is NaN.
    """
    images = np.full(classes * (PIXELS + 1), np.nan)
    images[coordinates] = values
    return images.reshape(classes, PIXELS + 1)[:, :-1]
