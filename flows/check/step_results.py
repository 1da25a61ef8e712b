"""The results of a study of difference steps: its record, a table of errors, and a figure."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.check.inputs import CheckInputs
from flows.runs import artifacts
from flows.runs.active_run import ActiveRun
from flows.runs.record import FinishedRecord, Number, plain
from flows.runs.weights import weights_sha256
from flows.services.tasks import task
from kernels.finite_difference import Scheme
from pipeline.check.step_study import StepErrors, StepStudy
from pipeline.inputs.words import short

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """The errors of one scheme at one step h; see `pipeline.check.step_study.StepErrors`."""

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
    """A value for centred differences and one for forward differences."""

    centred: Number
    forward: Number


@dataclass(frozen=True, kw_only=True)
class StepStudyResult:
    """The result of a study of difference steps."""

    steps: tuple[StepRow, ...]
    """In descending order of the step h. For each h, centred comes before forward."""
    best_step: ByScheme
    """The step with the smallest error."""
    least_error: ByScheme
    """The root mean square error at that step."""
    weights_sha256: str
    seconds: float
    """The duration of loading the images and computing the gradient and the differences."""

    def in_words(self) -> str:
        """Return the best steps as one line."""
        error, step = self.least_error, self.best_step
        return (
            f"least error {error.centred:.1e} at h = {short(step.centred)} (centred), "
            f"{error.forward:.1e} at {short(step.forward)} (forward)"
        )


StepStudyRecord = FinishedRecord[StepStudy, StepStudyResult]
StepStudyRun = ActiveRun[StepStudy, StepStudyResult, CheckInputs]


def summarise(errors: list[StepErrors], W: Floats, seconds: float) -> StepStudyResult:
    """Return the result of a study at `W` that took `seconds`."""
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


@task("save results")
def save_results(run: StepStudyRun, result: StepStudyResult) -> None:
    """Write the table of errors, draw the figure, and publish both as Prefect artifacts."""
    rows = [plain(each) for each in result.steps]
    run.directory.write_table("steps.csv", rows)
    measured, theory = _curves(result)
    step_sizes, mark = np.array(run.parameters.step_sizes), run.parameters.check.step
    header = f"{run.id}\nerror of finite differences, at {run.parameters.check.at}"

    def draw(path: Path) -> None:
        from flows.check.step_figures import draw_step_errors

        draw_step_errors(path, step_sizes, measured, theory, mark=mark, title=header)

    picture = run.draw("steps.png", draw)
    publish, series = run.report.publish, run.series
    words = run.describe("Error by difference step h")
    publish(artifacts.table, f"{series}: steps", rows, words)
    publish(artifacts.picture, f"{series}: errors", picture, words)


def _curves(result: StepStudyResult) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return the measured and the predicted errors, keyed by their names in the legend."""
    measured, theory = dict[str, Floats](), dict[str, Floats]()
    rows = {scheme: [each for each in result.steps if each.scheme == scheme] for scheme in Scheme}
    for scheme, own in rows.items():
        measured[str(scheme)] = np.array([each.error for each in own])
        measured[f"{scheme}, kinks removed"] = np.array([each.error_after_kinks for each in own])
        theory[f"kinks (theory), {scheme}"] = np.array([each.truncation for each in own])
    centred = rows[Scheme.CENTRED]
    theory["rounding (theory)"] = np.array([each.rounding for each in centred])
    theory["bound on rounding"] = np.array([each.rounding_bound for each in centred])
    return measured, theory
