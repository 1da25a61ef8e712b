"""What a reproduction leaves: the comparisons in its record, and the page."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows import artifacts
from flows.comparisons import compare, sorted_out
from flows.experiments import Taken
from flows.findings import WINDOW, Findings, images_to_descend, read_column
from flows.lifecycle import Begun, Kind, Plan
from flows.record import Run
from flows.report import Report, write_report
from flows.report_figures import draw_convergence
from flows.session import Session
from flows.show import look
from flows.show_figures import draw_shown
from flows.three_points import MEAN, POINTS
from flows.three_points import draw as draw_three_points
from pipeline.streams import check_seed
from storage.dataset import Dataset
from storage.schema import PIXELS

EXAMPLES_SHOWN = 8

REAL, ALL_IMAGES = "cifar10", 50_000
"""The notes' data set, and how many training images it has."""


@dataclass(frozen=True)
class Reproduction:
    """Everything that decides a reproduction."""

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)


REPRODUCE = Kind("reproduce", Reproduction)
ReproductionPlan = Plan[Reproduction]

PICTURES = {
    "panels": ("panels", "panels.png"),
    "line": ("line", "landscape.png"),
    "trials": ("random search", "trials.png"),
    "tries": ("local search", "trials.png"),
    "errors": ("gradient check", "errors.png"),
    "differences": ("differences", "steps.png"),
    "steps": ("sweep", "steps.png"),
    "descent": ("gradient descent", "loss.png"),
    "curves": ("step sizes", "curves.png"),
    "passes": ("l-bfgs", "loss.png"),
    "path": ("path", "landscape.png"),
}
"""The parts' pictures that the page has."""


@task(name="report", cache_policy=NO_CACHE)
def report_task(
    session: Session,
    plan: ReproductionPlan,
    begun: Begun,
    taken: Mapping[str, Taken],
    found: Findings,
) -> dict[str, Any]:
    """Compare, write the page, and end the run."""
    directory, dataset = begun.run.path / "report", plan.dataset
    directory.mkdir(exist_ok=True)
    pictures = {name: taken[part].path / file for name, (part, file) in PICTURES.items()}
    pictures |= _draw(directory, dataset, taken, found)
    real = dataset.name == REAL and dataset.rows("train") == ALL_IMAGES
    sweep = taken["sweep"].record
    comparisons, cannot = sorted_out(compare(found), real=real, sweep=sweep)
    before = sum(each.seconds for each in taken.values() if each.before)
    seconds = time.perf_counter() - session.opened + before
    words = _words(plan, begun, found, real=real) | {"seconds": seconds}
    report = Report(taken, pictures, comparisons, cannot, words)
    write_report(directory / "index.html", report)
    artifacts.table("comparisons", comparisons, f"Run {begun.run.id}: beside the notes")
    results = {
        "comparisons": comparisons,
        "not_comparable": cannot,
        "agree": all(each["agrees"] for each in comparisons),
        "parts": {name: str(each.path) for name, each in taken.items()},
        "duplicates": found.records["duplicates"],
        "report": str(directory / "index.html"),
        "seconds": seconds,
    }
    return begun.ended("done", results, {name: each.seconds for name, each in taken.items()})


def _draw(
    directory: Path, dataset: Dataset, taken: Mapping[str, Taken], found: Findings
) -> dict[str, Path]:
    """Draw what no part has drawn."""
    draw_three_points(directory / "three-points.png")
    draw_convergence(
        directory / "convergence.png",
        found.descent,
        found.batches,
        rows=found.rows,
        batch_size=found.batch_size,
        window=WINDOW,
    )
    lbfgs = taken["l-bfgs"]
    W = Run(lbfgs.path).read_weights((len(dataset.classes), PIXELS + 1))
    draw_shown(directory, W, look(dataset, W, "test", EXAMPLES_SHOWN), title="L-BFGS")
    names = ("three-points", "convergence", "weights", "examples", "confusion")
    return {name: directory / f"{name}.png" for name in names}


def _words(plan: ReproductionPlan, begun: Begun, found: Findings, *, real: bool) -> dict[str, Any]:
    """Return what the page says beside the parts' records."""
    (full, few), seed = images_to_descend(found), plan.parameters.seed
    box, panels = found.records["numerical gradient"], found.records["panels"]
    per_weight = box["timings"]["black_box"] / box["coordinates"]
    return {
        "name": "CIFAR-10" if plan.dataset.name == REAL else f"{plan.dataset.name} images",
        "part_of": plan.dataset.name == REAL and not real,
        "all_images": ALL_IMAGES,
        "resumed": plan.run is not None,
        "real": real,
        "run": begun.run.id,
        "seed": seed,
        "command": f"hinge reproduce --store {shlex.quote(plan.store)} --seed {seed}",
        "three_points": [f"{x:g}" for x in (POINTS[:, 0] - MEAN).tolist()],
        "one": panels["line"],
        "copies": found.records["duplicates"],
        "batch_size": found.batch_size,
        "full_images": full,
        "few_images": few,
        "box_minutes": per_weight * found.records["gradient check"]["coordinates"] / 60,
        **{
            name: begun.record[name]
            for name in ("data", "cluster", "machine", "versions", "started")
        },
    }


def findings(dataset: Dataset, taken: Mapping[str, Taken], copies: dict[str, Any]) -> Findings:
    """Return what the comparisons are made from."""
    descent = taken["gradient descent"]
    losses = read_column(descent.path / "loss.csv", "loss")
    return Findings(
        records={name: each.record for name, each in taken.items()} | {"duplicates": copies},
        random_losses=read_column(taken["random search"].path / "trials.csv", "loss"),
        descent=np.append(losses, descent.record["loss"]),
        batches=read_column(taken["mini-batches"].path / "loss.csv", "loss"),
        rows=dataset.rows("train"),
        batch_size=taken["mini-batches"].record["parameters"]["batch_size"],
    )
