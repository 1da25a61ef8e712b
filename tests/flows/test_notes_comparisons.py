"""Comparisons with the notes: each one agrees with good results, and can disagree."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.reproduce.claims import examine_claims
from flows.reproduce.comparisons import comparable, not_comparable
from flows.reproduce.measurements import WINDOW, Duplicates, Measurements, read_column
from flows.runs.record import plain
from tests.flows.handwritten_records import STEP_ERROR, TRIAL, documents, experiments

NOTES_SWEEP = [2.200652, 2.200057, 2.194116, 2.135493, 1.647802, 2.844355, 25.558142, 254.086573,
               2539.370888, 25392.214036]  # fmt: skip


def good() -> dict[str, Any]:
    """Return results for which every claim agrees, with the notes' own numbers where possible."""
    sweep = [
        {"step_size": float(f"1e{exponent}"), "loss": loss}
        for exponent, loss in zip(range(-10, 0), NOTES_SWEEP, strict=True)
    ]
    trials = [
        TRIAL | {"step_size": size, "loss": loss}
        for size, loss in [(1e-6, 5.0), (1e-8, 7.0), (1e-7, 4.0), (1e-5, 90.0), (1e-9, 8.0)]
    ]
    steps = [
        STEP_ERROR | {"scheme": scheme, "step": step, "error": error}
        for step, factor in [(1e-4, 10.0), (1e-5, 1.0)]
        for scheme, error in [("centred", 1e-6 * factor), ("forward", 3e-6 * factor)]
    ]
    return {
        "records": documents({
            "panels": {
                "line": {"breakpoints": 5, "max_difference": 1e-15},
                "planes": {"100 examples": {"minimum_at": [0.2, -0.9]}},
            },
            "line": {"breakpoints": 4_321, "slope_at_ends": [-2.0, 3.0], "slopes_rise": True},
            "random search": {"test_accuracy": 0.1555},
            "local search": {"test_accuracy": 0.214, "trials": 1_000},
            "gradient check": {
                "coordinates": 30_730,
                "parameters": {"step": 1e-5},
                "verdicts": {"pass": 30_000, "kink": 730, "roundoff": 0, "wrong": 0},
                "max_error_after_kinks": 3e-9,
            },
            "differences": {"steps": steps},
            "sweep": {"initial_loss": 2.200718, "losses": sweep, "best_step_size": 1e-6},
            "gradient descent": {"test_accuracy": 0.37, "steps": 200},
            "step sizes": {"trials": trials},
        }),
        "duplicates": {
            "unique": 1_000,
            "copies": 1_200,
            "rows": 1_200_000,
            "loss": 9.0,
            "same_bits": True,
            "seconds_unique": 0.1,
            "seconds_copied": 9.0,
            "seconds": 9.5,
        },
        "random_losses": np.array([8.1, 9.9, 9.0]),
        "descent_losses": np.linspace(9.0, 5.0, 201),
        "batch_losses": np.linspace(9.0, 4.0, 3_000),
        "rows": 50_000,
        "batch_size": 256,
    }  # fmt: skip


def measured(found: dict[str, Any]) -> Measurements:
    """Return the results as typed measurements."""
    others = {name: value for name, value in found.items() if name != "records"}
    others["duplicates"] = Duplicates(**found["duplicates"])
    return Measurements(experiments=experiments(found["records"]), **others)


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that sets the element at `path` to `value`.

    `path` is the element's path in the records, such as `line/slope_at_ends/0`. With a leading
    slash, it is the path in the other measurements.
    """

    def plant(found: dict[str, Any]) -> None:
        *way, last = path.split("/")
        place: Any = found if way[:1] == [""] else found["records"]
        for name in filter(None, way):
            place = place[int(name) if isinstance(place, list) else name]
        place[int(last) if isinstance(place, list) else last] = value

    return plant


def failing(found: dict[str, Any]) -> set[str]:
    """Return the names of the claims that disagree."""
    return {each.name for each in examine_claims(measured(found)) if not each.agrees}


NAMES = [
    "the loss of one example along a line is piecewise linear",
    "the loss of 100 examples over a plane looks like a bowl",
    "the loss is convex",
    "losses of random weights",
    "test accuracy of the best of 1,000 random weights",
    "test accuracy after 1,000 trials of local search",
    "local search is better than random search",
    "loss evaluations for one numerical gradient",
    "the analytic gradient passes the check",
    "centred differences are more accurate than forward differences",
    "the best of ten step sizes",
    "the step sizes that lower the loss",
    "a 10 times smaller step lowers the loss about 10 times less",
    "a 10 times larger step overshoots about 10 times as far",
    "gradient descent is better than local search",
    "small steps make slow progress, and large steps overshoot",
    "mini-batch gradient descent converges much faster",
    "1,200 copies of each of 1,000 images have the same gradient as the 1,000 images",
]
"""The names of all claims, in the order of the notes."""

STRAIGHT, BOWL, CONVEX, LOSSES, RANDOM, LOCAL, BETTER, EVALUATIONS, PASSES, CENTRED, BEST, LOWER, \
    TENTH, TEN_TIMES, FOLLOWING, SIZES, BATCHES, COPIES = NAMES  # fmt: skip


def test_results_equal_to_the_notes_agree() -> None:
    claims = examine_claims(measured(good()))
    assert [each.name for each in claims] == NAMES
    assert failing(good()) == set()
    said = {each.name: (each.ours, each.notes) for each in claims}
    assert said[STRAIGHT] == (
        "6 linear pieces; largest relative difference to the evaluated points 1.0e-15",
        "piecewise linear",
    )
    assert said[LOSSES] == ("8.100000 to 9.900000", "8.605604 to 9.401632")
    assert said[RANDOM] == ("15.55%", "15.55%")
    assert said[LOCAL] == ("21.40%", "21.4%")
    assert said[EVALUATIONS] == ("30,731", "30,731")
    assert said[CENTRED][0] == "error 1.0e-06 against 3.0e-06 at h = 1e-5"
    assert said[BEST] == ("1e-06", "1e-06")
    assert said[LOWER] == ("1e-10 to 1e-06", "1e-10 to 1e-06")
    assert said[TENTH] == ("10.02", "10.02")
    assert said[TEN_TIMES] == ("9.9994", "9.9994")
    assert said[SIZES][0] == "of the step sizes 1e-09 to 1e-05, 1e-07 gives the lowest loss"
    assert all(each.how for each in claims)


FAULTS: list[tuple[str, Any, set[str]]] = [
    # the path of a value, a value for it, and the claims that then disagree
    ("panels/line/max_difference", 2e-12, {STRAIGHT}),
    ("panels/planes/100 examples/minimum_at", [0.2, -1.0], {BOWL}),  # on the lower edge
    ("panels/planes/100 examples/minimum_at", [1.0, 0.0], {BOWL}),  # on the right edge
    ("line/slopes_rise", False, {CONVEX}),
    ("/random_losses", np.array([8.7, 9.9]), {LOSSES}),  # the lowest is too high
    ("/random_losses", np.array([8.1, 9.3]), {LOSSES}),  # the highest is too low
    ("random search/test_accuracy", 0.1, {RANDOM}),  # no better than guessing
    ("random search/test_accuracy", 0.201, {RANDOM}),
    ("random search/test_accuracy", 0.22, {RANDOM, BETTER}),
    ("local search/test_accuracy", 0.05, {LOCAL, BETTER}),
    ("local search/test_accuracy", 0.18, {LOCAL}),
    ("local search/test_accuracy", 0.25, {LOCAL}),
    ("local search/test_accuracy", 0.15, {LOCAL, BETTER}),
    ("local search/test_accuracy", 0.38, {LOCAL, FOLLOWING}),
    ("gradient check/coordinates", 16, {EVALUATIONS}),
    ("gradient check/verdicts/wrong", 1, {PASSES}),
    ("differences/steps/2/error", 3e-6, {CENTRED}),  # centred is as bad as forward
    ("differences/steps/3/error", 1e-7, {CENTRED}),  # forward is better than centred
    ("differences/steps/1/error", 1e-9, set()),  # at another step h, which is not compared
    ("sweep/best_step_size", 1e-5, {BEST}),
    ("sweep/losses/5/loss", 2.1, {LOWER}),  # 1e-5 lowers the loss too
    ("sweep/losses/4/loss", 2.3, {LOWER}),  # 1e-6 no longer lowers the loss
    ("sweep/initial_loss", 2.20065, {LOWER, TENTH}),
    ("sweep/initial_loss", 2.0, {LOWER, TENTH}),
    ("sweep/losses/1/loss", 2.200718 - 0.94 * 10.02 * 0.000066, {TENTH}),  # 6% below
    ("sweep/losses/1/loss", 2.200718 - 1.06 * 10.02 * 0.000066, {TENTH}),  # 6% above
    ("sweep/losses/1/loss", 2.200718 - 1.04 * 10.02 * 0.000066, set()),  # within 5%
    ("sweep/losses/9/loss", 25_700.0, {TEN_TIMES}),
    ("sweep/losses/9/loss", 25_100.0, {TEN_TIMES}),
    ("sweep/losses/9/loss", 25_600.0, set()),  # within 1%
    ("gradient descent/test_accuracy", 0.05, {FOLLOWING}),
    ("gradient descent/test_accuracy", 0.214, {FOLLOWING}),
    ("step sizes/trials/3/loss", 3.0, {SIZES}),  # the largest step size is best
    ("step sizes/trials/4/loss", 3.0, {SIZES}),  # the smallest step size is best
    ("/batch_losses", np.linspace(9.0, 5.2, 3_000), {BATCHES}),  # never as low as 5
    ("/rows", 30, {BATCHES}),  # a step over all images reads few images
    ("/duplicates/same_bits", False, {COPIES}),
]


@pytest.mark.parametrize(("path", "value", "names"), FAULTS)
def test_planted_fault_makes_its_claims_disagree(path: str, value: Any, names: set[str]) -> None:
    found = copy.deepcopy(good())
    change(path, value)(found)
    assert failing(found) == names


def test_every_claim_can_disagree() -> None:
    assert {name for _, _, names in FAULTS for name in names} == set(NAMES)


def test_sweep_that_never_lowers_the_loss_reports_none() -> None:
    found = good()
    found["records"]["sweep"]["initial_loss"] = 1.5
    said = {each.name: each.ours for each in examine_claims(measured(found))}
    assert said[LOWER] == "none"


def test_other_images_are_compared_only_on_image_independent_claims() -> None:
    values = measured(good())
    claims, sweep = examine_claims(values), values.experiments.sweep.record.result
    kept = comparable(claims, notes_images=True)
    assert [each.name for each in kept] == NAMES
    assert [*plain(kept)[0]] == ["name", "ours", "notes", "agrees", "how"]
    assert [(each.ours, each.how) for each in kept] == [(each.ours, each.how) for each in claims]
    [initial] = not_comparable(claims, sweep, notes_images=True)
    assert initial.name == "step-size sweep: the loss before the step"
    assert (initial.ours, initial.notes) == ("2.200718", "2.200718")

    kept = comparable(claims, notes_images=False)
    laws = [STRAIGHT, CONVEX, EVALUATIONS, PASSES, COPIES]
    assert [each.name for each in kept] == laws
    cannot = not_comparable(claims, sweep, notes_images=False)
    named = [each.name for each in cannot]
    assert named == [*(name for name in NAMES if name not in laws), initial.name]
    assert {each.why for each in cannot[:-1]} == {"this run did not use all of the notes' images"}
    assert cannot[-1] == initial
    assert [*plain(cannot)[0]] == ["name", "ours", "notes", "why"]


def descents(descent: list[float], batches: list[float], rows: int = 1_000) -> Measurements:
    found = good() | {"descent_losses": np.array(descent), "batch_losses": np.array(batches)}
    return measured(found | {"rows": rows, "batch_size": 10})


def test_images_to_descend_counts_images_read_to_the_same_loss() -> None:
    """The mean of the last 50 batches reaches 5 once all of them are 5: after 60 + 50 batches."""
    falls = [9.0] * 60 + [5.0] * 100
    assert WINDOW == 50
    assert descents([9.0, 7.0, 5.0], falls).images_to_descend == (2 * 1_000, 110 * 10)
    assert descents([9.0], [9.0] * 50).images_to_descend == (0, 50 * 10)
    # 49 batches are too few for a mean, even if their losses are low
    assert descents([9.0, 5.0], [4.0] * 49).images_to_descend == (1_000, 0)
    assert descents([9.0, 4.9], falls).images_to_descend == (1_000, 0)
    # with 41 of 50 losses at 5 and 9 at 9 the mean is 5.72; with 42 it is 5.64
    assert descents([9.0, 5.7], falls).images_to_descend == (1_000, (60 + 42) * 10)


def test_read_column_selects_a_column_by_name(tmp_path: Path) -> None:
    table = tmp_path / "loss.csv"
    table.write_text("step,loss\n0,9.5\n1,1e-300\n2,inf\n")
    assert read_column(table, "loss").tolist() == [9.5, 1e-300, np.inf]
    assert read_column(table, "step").tolist() == [0, 1, 2]
    table.write_text("step,loss\n0,0.1\n")  # a single row
    assert read_column(table, "loss").tolist() == [0.1]
    with pytest.raises(ValueError, match="margin"):
        read_column(table, "margin")
