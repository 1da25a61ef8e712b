"""What a study of steps leaves: its result, a table of the errors, and their picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.check.inputs import CheckInputs
from flows.check.step_figures import draw_step_errors
from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, Number, plain
from flows.runs.weights import weights_sha256
from kernels.finite_difference import Scheme
from pipeline.check.step_study import StepErrors, StepStudy

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """The errors at one step, in one scheme; see `pipeline.check.step_study.StepErrors`."""

    step: float
    scheme: str
    error: Number
    error_after_kinks: Number
    max_error: Number
    crossings: int
    truncation: Number
    rounding: Number
    rounding_bound: Number


@dataclass(frozen=True, kw_only=True)
class ByScheme:
    """A number of centred differences, and of forward ones."""

    centred: Number
    forward: Number


@dataclass(frozen=True, kw_only=True)
class StepStudyResult:
    """The result of a study of steps."""

    steps: tuple[StepRow, ...]
    """By step, falling; centred before forward."""
    best_step: ByScheme
    """The step with the least error."""
    least_error: ByScheme
    """The root mean square error at that step."""
    weights_sha256: str
    seconds: float
    """How long the differences took, the loading of the images included."""


StepStudyRecord = FinishedRecord[StepStudy, StepStudyResult]
StepStudyRun = ActiveRun[StepStudy, StepStudyResult, CheckInputs]


def summarise(errors: list[StepErrors], W: Floats, seconds: float) -> StepStudyResult:
    """Return the result of a study at `W` that took so many seconds."""
    centred, forward = (
        min((each for each in errors if each.scheme == scheme), key=lambda each: each.error)
        for scheme in (Scheme.CENTRED, Scheme.FORWARD)
    )
    return StepStudyResult(
        steps=tuple(StepRow(**each._asdict()) for each in errors),
        best_step=ByScheme(centred=centred.step, forward=forward.step),
        least_error=ByScheme(centred=centred.error, forward=forward.error),
        weights_sha256=weights_sha256(W),
        seconds=seconds,
    )


@task(name="save results", cache_policy=NO_CACHE)
def save_results(run: StepStudyRun, result: StepStudyResult) -> None:
    """Write the errors and their picture, and show them in Prefect."""
    rows, picture = [plain(each) for each in result.steps], run.directory.path / "steps.png"
    run.directory.write_table("steps.csv", rows)
    check = run.parameters.check
    draw_step_errors(
        picture,
        np.array(run.parameters.step_sizes),
        *_curves(result),
        mark=check.step,
        title=f"{run.id}\nerror of a finite difference, at {check.at}",
    )
    artifacts.table("gradient check: steps", rows, f"{run.title}: steps of differences")
    words = f"{run.title}: error by the step of the difference"
    artifacts.picture("gradient check: steps", picture, words)


def _curves(result: StepStudyResult) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return the measured errors and theory's predictions, by the names in the legend."""
    measured, theory = dict[str, Floats](), dict[str, Floats]()
    rows = {scheme: [each for each in result.steps if each.scheme == scheme] for scheme in Scheme}
    for scheme, own in rows.items():
        measured[str(scheme)] = np.array([each.error for each in own])
        measured[f"{scheme}, less kinks"] = np.array([each.error_after_kinks for each in own])
        theory[f"kinks in theory, {scheme}"] = np.array([each.truncation for each in own])
    centred = rows[Scheme.CENTRED]
    theory["rounding in theory"] = np.array([each.rounding for each in centred])
    theory["bound on rounding"] = np.array([each.rounding_bound for each in centred])
    return measured, theory
