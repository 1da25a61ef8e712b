"""The inputs of a check besides its parameters: weights, rows and coordinates."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.runs.weights import weights_named, weights_sha256
from flows.services.console import to_json
from pipeline.check.black_box import BlackBoxInputs
from pipeline.check.parameters import CheckMethod, Gradient, GradientCheck
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Rows
from storage.dataset import Dataset

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CheckInputs:
    """The weights to check at, the rows to check over, and the coordinates to check."""

    W: Floats
    """(C, D + 1)."""
    rows: Rows | None
    """Row numbers in the training split; None for all rows."""
    coordinates: NDArray[np.int64]
    """(k,): indices into the flattened weights."""

    def black_box(self, check: GradientCheck, mean: Floats) -> BlackBoxInputs:
        """Return the inputs of the black-box check; `mean` is the mean training image (D,)."""
        return BlackBoxInputs(
            self.W, mean, check.step, check.scheme, self.rows, check.reg, check.reg_bias
        )


def draw_inputs(check: GradientCheck, dataset: Dataset, runs: Path) -> CheckInputs:
    """Draw the rows, the coordinates and the weights, or read the weights from a run in `runs`.

    Raises PipelineError if the run does not exist, if its weights have another shape or are not
    finite, or if the check requires more coordinates or examples than the data set has.
    """
    rows = check.rows(dataset.rows("train"))
    coordinates = check.coordinate_indices(len(dataset.classes))
    return CheckInputs(weights_named(check.at, dataset, runs, check.seed), rows, coordinates)


def refuse_lost_step(W: Floats, step: float, check: GradientCheck) -> None:
    """Raise PipelineError if `step` is too small to change every weight that the check moves."""
    moves_weights = check.gradient is not Gradient.DATA and (
        check.method is CheckMethod.BLACK_BOX or check.reg > 0
    )
    if moves_weights and (W + step == W).any():
        raise PipelineError(
            f"a difference step of {step} is too small to change weights of up to "
            f"{np.abs(W).max():g}; use a larger step"
        )


def journal_identity(check: GradientCheck, dataset: Dataset, W: Floats) -> str:
    """Return everything that determines the values in a check's journal, as one string."""
    identity = {"check": asdict(check), "data": dataset.fingerprint}
    return to_json(identity | {"weights": weights_sha256(W)})
