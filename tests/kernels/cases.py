"""Small random objectives, and the comparison of an implementation with `kernels.reference`.

Weights are multiples of 1/8 up to 2, biases are multiples of 1/8 up to 4.5, pixels are integers or
halves up to 255, and the mean is a multiple of 1/2. So every product, and every sum of up to 130
products, is a multiple of 1/16 below 2^24 / 16. Float32 and float64 represent such a number
exactly. All implementations therefore compute the same margins, and agree on whether each margin
is below, at or above its kink.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import reference

COLUMNS = [1, 3, 63, 64, 65, 127, 128, 130]
"""Widths around one and two vectors of 64 columns."""


class Case(NamedTuple):
    """All inputs of the objective."""

    W: NDArray[np.float64]
    images: NDArray[Any]
    labels: NDArray[np.uint8]
    mean: NDArray[np.float64] | None
    delta: float
    reg: float

    @property
    def centred(self) -> NDArray[np.float64]:
        """The examples `x_i = (image_i - mean, 1)`, as rows (n, D + 1)."""
        pixels = self.images.astype(np.float64)
        if self.mean is not None:
            pixels = pixels - self.mean
        return np.column_stack([pixels, np.ones(len(pixels))])

    @property
    def margins(self) -> NDArray[np.float64]:
        """The exact margins of the wrong classes, (n (C - 1),)."""
        scores = self.centred @ self.W.T
        own = scores[np.arange(len(scores)), self.labels]
        wrong = np.arange(len(self.W)) != self.labels[:, None]
        margins: NDArray[np.float64] = (scores - own[:, None] + self.delta)[wrong]
        return margins


@st.composite
def cases(draw: st.DrawFn, max_rows: int = 6, max_columns: int = 130, floats: bool = True) -> Case:
    """Draw a case, with float or uint8 images, or only uint8 ones if `floats` is False.

    Large arrays are made from a drawn seed.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    classes = draw(st.integers(2, 12), label="classes")
    rows = draw(st.integers(1, max_rows), label="rows")
    columns = draw(st.sampled_from([c for c in COLUMNS if c <= max_columns]), label="columns")
    delta = draw(st.sampled_from([1.0, 0.0, 0.125, 2.5]), label="delta")
    reg = draw(st.sampled_from([0.0, 0.5, 3.7e4]), label="reg")

    images: NDArray[Any] = rng.integers(0, 256, (rows, columns), dtype=np.uint8)
    kind = draw(st.sampled_from(["any", "0 or 255", "all 0", "all 255"]), label="pixels")
    if kind != "any":
        images = np.where(rng.random((rows, columns)) < 0.5, 255, 0).astype(np.uint8)
    if kind.startswith("all"):
        images[:] = int(kind.split()[1])
    if floats and draw(st.booleans(), label="float images"):
        kinds = st.sampled_from([np.float32, np.float64])
        images = (images / 2).astype(draw(kinds, label="image type"))

    labels = rng.integers(0, classes, rows).astype(np.uint8)
    if draw(st.booleans(), label="one class only"):
        labels[:] = labels[0]

    W = rng.integers(-16, 17, (classes, columns + 1)) / 8
    kind = draw(st.sampled_from(["any", "any", "zero", "tied", "at the kink"]), label="weights")
    if kind == "zero":
        W[:] = 0
    if kind in {"tied", "at the kink"}:
        W[:] = W[0]
    if kind == "at the kink":
        labels[:] = labels[0]
        W[labels[0], -1] += delta
    mean = None
    if draw(st.booleans(), label="mean"):
        mean = rng.integers(0, 511, columns) / 2
    return Case(W, images, labels, mean, delta, reg)


def reference_loss_and_gradient(case: Case) -> tuple[float, NDArray[np.float64]]:
    """Return the loss and subgradient of the reference implementation."""
    arguments = (case.W.tolist(), case.centred.tolist(), case.labels.tolist())
    arguments_and_constants = (*arguments, case.delta, case.reg)
    loss = reference.loss(*arguments_and_constants)
    return loss, np.array(reference.gradient(*arguments_and_constants))


def assert_matches_reference(
    loss_and_gradient: Callable[[Case], tuple[float, NDArray[np.float64]]], case: Case
) -> None:
    """Compare an implementation with the reference implementation.

    The margins are exact in both, so only the rounding of the sums may differ. The loss and each
    gradient entry sum at most n C terms of the data, so the relative rounding error is about
    n C 2^-53, below 1e-14. The tolerance is 1e-12. A margin that is wrong by 1/16, or a row whose
    gradient is wrong by half a pixel, exceeds it.
    """
    loss, gradient = loss_and_gradient(case)
    expected_loss, expected_gradient = reference_loss_and_gradient(case)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12, atol=0)
    scale = max(1.0, float(np.abs(case.centred).max()), 2 * case.reg * np.abs(case.W).max())
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-12 * scale)
