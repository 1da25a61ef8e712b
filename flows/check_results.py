"""What a gradient check leaves: the numbers of its record, tables, and pictures of the errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows import artifacts
from flows.check_figures import draw_crossings, draw_error_images, draw_histogram
from flows.lifecycle import Plan
from flows.record import Run, weights_sha256
from kernels.gradient_verdict import Comparison, Findings, Named, Verdict
from pipeline.check_parameters import GradientCheck
from pipeline.gradient_check import DataFound
from storage.schema import IMAGE_SHAPE, PIXELS

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Checked:
    """What came of a check."""

    findings: Findings
    examples: int
    loss: float
    comparison: Comparison | None = None
    """Of the coordinates (k,), of a gradient in the weights."""
    coordinates: NDArray[np.int64] | None = None
    """Their places in the flattened (C, D + 1)."""
    apart: float | None = None
    """How far the black box is from the structured differences."""
    data: DataFound | None = None
    """Of a gradient in the pixels."""


def results(
    plan: Plan[GradientCheck], W: Floats, checked: Checked, seconds: float
) -> dict[str, Any]:
    """Return what the record says of a check that took so long."""
    findings, largest = checked.findings, checked.findings.largest
    found: dict[str, Any] = {
        "coordinates": int(findings.verdicts.sum()),
        "examples": checked.examples,
        "verdicts": {each.name.lower(): int(findings.verdicts[each]) for each in Verdict},
        "max_relative_error": largest.relative_error,
        "max_relative_error_after_kinks": largest.relative_error_after_kinks,
        "max_error": largest.error,
        "max_error_after_kinks": largest.error_after_kinks,
        "largest_roundoff_bound": largest.bound,
        "kink_crossings": findings.crossings,
        "worst": [_described(plan, each) for each in findings.worst],
        "weights_sha256": weights_sha256(W),
        "seconds": seconds,
        "loss": checked.loss,
    }
    if checked.apart is not None:
        found["max_difference_to_structured"] = checked.apart
    return found


def _described(plan: Plan[GradientCheck], named: Named) -> dict[str, Any]:
    """Return a coordinate as the record has it: what it is a weight or a pixel of, and where."""
    subject: dict[str, Any]
    if len(named.place) == 2:  # a row of the images, and a pixel
        subject, pixel = {"example": named.place[0]}, named.place[1]
    else:
        number, pixel = divmod(named.place[0], PIXELS + 1)
        subject = {"class": plan.dataset.classes[number]}
    where: dict[str, Any] = {"channel": "bias", "row": None, "column": None}
    if pixel < PIXELS:
        channel, row, column = map(int, np.unravel_index(pixel, IMAGE_SHAPE))
        where = {"channel": ("red", "green", "blue")[channel], "row": row, "column": column}
    numbers = named._asdict() | {"verdict": named.verdict.name.lower()}
    del numbers["place"]
    return {**subject, **where, **numbers}


@task(name="keep results", cache_policy=NO_CACHE)
def keep_task(run: Run, plan: Plan[GradientCheck], checked: Checked, found: dict[str, Any]) -> None:
    """Write the tables and draw the pictures, and show them."""
    check = plan.parameters
    run.write_table("worst.csv", found["worst"])
    described = f"Run {run.id} on {plan.dataset.name} ({plan.dataset.fingerprint[:12]})"
    names = (
        "coordinates", "examples", "max_relative_error", "max_relative_error_after_kinks",
        "max_error_after_kinks", "largest_roundoff_bound", "kink_crossings", "seconds",
    )  # fmt: skip
    rows = found["verdicts"] | {name: found[name] for name in names}
    summary = {"result": list(rows), "value": list(rows.values())}
    artifacts.table("gradient check", summary, described)
    worst = f"{described}: the coordinates that are the farthest off"
    artifacts.table("gradient check: worst", found["worst"], worst)
    title = f"{run.id}\n{check.scheme} differences, h = {check.step:g}, at {check.at}"
    draw_histogram(run.path / "histogram.png", checked.findings.histograms, title=title)
    pictures = {"histogram": "relative errors"}
    if checked.data is None:
        run.write_table("coordinates.csv", _table(plan, checked))
        before, after, crossings = _images(plan, checked)
        classes = plan.dataset.classes
        draw_error_images(run.path / "errors.png", before, after, classes, title=title)
        draw_crossings(run.path / "crossings.png", crossings, classes, title=title)
        pictures |= {"errors": "relative errors by pixel", "crossings": "crossed kinks by pixel"}
    else:
        errors = checked.data.errors[None]
        names_of_one = ["largest over all images"]
        draw_error_images(run.path / "errors.png", None, errors, names_of_one, title=title)
        crossings = checked.data.crossings[None].astype(np.float64)
        draw_crossings(run.path / "crossings.png", crossings, ["over all images"], title=title)
        pictures |= {"errors": "largest relative errors", "crossings": "crossed kinks by pixel"}
    for name, words in pictures.items():
        path = run.path / f"{name}.png"
        artifacts.picture(f"gradient check: {name}", path, f"{described}: {words}")


def _table(plan: Plan[GradientCheck], checked: Checked) -> dict[str, Any]:
    """Return a row for every coordinate."""
    compared, coordinates = checked.comparison, checked.coordinates
    assert compared is not None
    assert coordinates is not None
    names = np.array([each.name.lower() for each in Verdict])
    return {
        "class": np.array(plan.dataset.classes)[coordinates // (PIXELS + 1)],
        "pixel": coordinates % (PIXELS + 1),
        "analytic": compared.analytic,
        "numerical": compared.numerical,
        "kinks": compared.kinks,
        "crossings": compared.crossings,
        "roundoff_bound": compared.roundoff,
        "verdict": names[compared.verdicts],
    }


def _images(plan: Plan[GradientCheck], checked: Checked) -> tuple[Floats, Floats, Floats]:
    """Return the relative errors, before and after kinks, and crossings (C, D); NaN if unknown."""
    compared = checked.comparison
    assert compared is not None
    classes = len(plan.dataset.classes)
    values = (
        compared.relative_error,
        compared.relative_error_after_kinks,
        compared.crossings,
    )
    images = []
    for each in values:
        image = np.full(classes * (PIXELS + 1), np.nan)
        image[checked.coordinates] = each
        images.append(image.reshape(classes, PIXELS + 1)[:, :-1])
    return images[0], images[1], images[2]
