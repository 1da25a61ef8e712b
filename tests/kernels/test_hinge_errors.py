"""Errors of the hinge kernels: each message states what was received and what was wanted."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kernels.exact_sum import LossSum
from kernels.hinge import data_gradient, fold, loss_and_gradient, scores, sum_rows
from kernels.partial import Partial, finalize

W = np.zeros((3, 5))
IMAGES = np.zeros((2, 4), np.uint8)
LABELS = np.array([0, 2], np.uint8)


@pytest.mark.parametrize("function", [loss_and_gradient, data_gradient])
@pytest.mark.parametrize(
    ("W", "images", "labels", "message"),
    [
        (W, IMAGES, [0, 3], "labels must be in 0..2, not 0..3"),
        (W, IMAGES, [-1, 2], "labels must be in 0..2, not -1..2"),
        (W, IMAGES, [0, 258], "labels must be in 0..2, not 0..258"),
        (W, IMAGES, [0.0, 1.0], "labels must be (n,) integers, not (2,) float64"),
        (W, IMAGES, [[0], [1]], "labels must be (n,) integers, not (2, 1) int64"),
        (
            W,
            IMAGES,
            [0],
            "1 labels and weights of 4 pixels need images of shape (1, 4), not (2, 4)",
        ),
        (
            W,
            IMAGES[:, :3],
            [0, 1],
            "2 labels and weights of 4 pixels need images of shape (2, 4), not (2, 3)",
        ),
        (W[:1], IMAGES, [0, 0], "there must be 2 to 128 classes, not 1"),
        (np.zeros((129, 5)), IMAGES, [0, 0], "there must be 2 to 128 classes, not 129"),
        (W[0], IMAGES, [0, 0], "W must be (C, D + 1), not of shape (5,)"),
    ],
)
def test_mismatched_arrays_raise_value_error(
    function: Callable[..., Any], W: Any, images: Any, labels: Any, message: str
) -> None:
    for kind in (np.uint8, np.float64):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            function(W, images.astype(kind), labels)


@pytest.mark.parametrize("function", [loss_and_gradient, data_gradient])
def test_mean_of_another_length_raises_value_error(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"^the mean has 3 pixels, the images have 4$"):
        function(W, IMAGES, LABELS, mean=np.zeros(3))


@pytest.mark.parametrize("image_type", [np.uint8, np.float64])
def test_empty_batch_has_no_loss_and_an_empty_data_gradient(image_type: type) -> None:
    with pytest.raises(ValueError, match=r"^the mean over no rows is not defined; give at least"):
        loss_and_gradient(W, IMAGES[:0].astype(image_type), LABELS[:0])
    assert data_gradient(W, IMAGES[:0].astype(image_type), LABELS[:0]).shape == (0, 4)


def test_finalize_of_no_rows_raises_value_error() -> None:
    nothing = sum_rows(fold(W), IMAGES[:0], LABELS[:0])
    for total in (
        nothing,
        Partial.zero(3, 4),
        sum_rows(fold(W), IMAGES, LABELS, rows=LABELS[:0].astype(int)),
    ):
        assert (total.losses, total.gradient.shape) == (LossSum(), (3, 4))
        with pytest.raises(ValueError, match=r"^the mean over no rows is not defined; sum at"):
            finalize(total, W, np.zeros(4))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": IMAGES.astype(np.int16)}, "images and labels must be uint8, not int16, uint8"),
        ({"labels": LABELS.astype(np.int64)}, "images and labels must be uint8, not uint8, int64"),
        ({"rows": np.array([0, 2])}, "rows must be in 0..1, not 0..2"),
        ({"rows": np.array([-1, 0])}, "rows must be in 0..1, not -1..0"),
        ({"rows": np.array([True, False])}, "rows must be (n,) int64, not (2,) bool"),
        ({"rows": np.array([[0]])}, "rows must be (n,) int64, not (1, 1) int64"),
        (
            {"predictions": np.empty(1, np.uint8)},
            "predictions of 2 rows must be (2,) uint8, not (1,) uint8",
        ),
        (
            {"predictions": np.empty(2, np.int64)},
            "predictions of 2 rows must be (2,) uint8, not (2,) int64",
        ),
    ],
)
def test_sum_rows_raises_for_wrong_types_and_rows(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"images": IMAGES, "labels": LABELS} | changed
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sum_rows(fold(W), **arguments)


@pytest.mark.parametrize(
    ("images", "received"),
    [
        (np.zeros((2, 4), np.float64), "(2, 4) of float64"),
        (np.zeros((2, 4), np.int8), "(2, 4) of int8"),
        (np.zeros((2, 3), np.uint8), "(2, 3) of uint8"),
        (np.zeros(4, np.uint8), "(4,) of uint8"),
    ],
)
def test_scores_raise_for_wrong_types_and_widths(images: Any, received: str) -> None:
    message = f"weights of 4 pixels need images (n, 4) of uint8 or float32, not {received}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        scores(fold(W), images)


def test_fold_raises_for_wrong_types_and_means() -> None:
    with pytest.raises(ValueError, match=r"^scores must be float32 or float64, not int32$"):
        fold(W, dtype=np.int32)
    with pytest.raises(ValueError, match=r"need images \(n, 4\) .* not \(1, 3\) of float64$"):
        fold(W, np.zeros(3))


def test_arguments_are_not_modified() -> None:
    rng = np.random.default_rng(0)
    arrays: list[Any] = [
        rng.normal(size=(3, 5)),
        rng.integers(0, 256, (2, 4), dtype=np.uint8),
        LABELS.copy(),
        rng.normal(size=4),
    ]
    copies = [array.copy() for array in arrays]
    loss_and_gradient(*arrays[:3], mean=arrays[3], reg=1.0)
    data_gradient(*arrays[:3], mean=arrays[3])
    total = sum_rows(fold(arrays[0], arrays[3]), arrays[1], arrays[2])
    sums = total.gradient.copy()
    finalize(total, arrays[0], arrays[3], reg=1.0)
    np.testing.assert_array_equal(total.gradient, sums)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
