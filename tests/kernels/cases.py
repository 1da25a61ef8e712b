"""Objectives small enough for the notes' loops, and the comparison with those loops.

Weights and biases are multiples of 1/8 up to 2, pixels integers or halves up to 255 and the
mean a multiple of 1/2, so that every product and every sum of up to 130 of them is a
multiple of 1/16 below 2^24 / 16. Float32 holds such a number exactly, as float64 does: all
ways to a margin give the same number, and so agree on which side of its kink it is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import reference

COLUMNS = [1, 3, 63, 64, 65, 127, 128, 130]
"""Widths about a vector's 64 columns and the next."""


class Case(NamedTuple):
    """Everything the objective depends on."""

    W: NDArray[np.float64]
    images: NDArray[Any]
    labels: NDArray[np.uint8]
    mean: NDArray[np.float64] | None
    delta: float
    reg: float

    @property
    def centred(self) -> NDArray[np.float64]:
        """`x_i = (image_i - mean, 1)`, the rows of which the notes speak."""
        pixels = self.images.astype(np.float64)
        if self.mean is not None:
            pixels = pixels - self.mean
        return np.column_stack([pixels, np.ones(len(pixels))])

    @property
    def margins(self) -> NDArray[np.float64]:
        """The margins of the wrong classes, n (C - 1) of them; exact."""
        scores = self.centred @ self.W.T
        own = scores[np.arange(len(scores)), self.labels]
        wrong = np.arange(len(self.W)) != self.labels[:, None]
        margins: NDArray[np.float64] = (scores - own[:, None] + self.delta)[wrong]
        return margins


@st.composite
def cases(draw: st.DrawFn, max_rows: int = 6, max_columns: int = 130, floats: bool = True) -> Case:
    """Draw a case; bytes only if not `floats`. Big arrays come from a drawn seed."""
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


def loops(case: Case) -> tuple[float, NDArray[np.float64]]:
    """Loss and subgradient of the notes' loops."""
    arguments = (case.W.tolist(), case.centred.tolist(), case.labels.tolist())
    arguments_and_constants = (*arguments, case.delta, case.reg)
    loss = reference.loss(*arguments_and_constants)
    return loss, np.array(reference.gradient(*arguments_and_constants))


def assert_equal_to_loops(
    loss_and_gradient: Callable[[Case], tuple[float, NDArray[np.float64]]], case: Case
) -> None:
    """Hold an implementation to the notes' loops.

    The margins are exact on both sides, so what may differ is the order in which the loops
    round: up to n C D sums of terms no larger than the largest entry, in units of 2^-53. A
    relative 1e-12 is over ten times that; the smallest mistake is a whole 1/16 of a pixel
    in one row, more than 1e-6 of the largest entry.
    """
    loss, gradient = loss_and_gradient(case)
    expected_loss, expected_gradient = loops(case)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12, atol=0)
    scale = max(1.0, float(np.abs(case.centred).max()), 2 * case.reg * np.abs(case.W).max())
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-12 * scale)
