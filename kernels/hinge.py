"""The multiclass hinge loss of Weston and Watkins and its subgradient, on arrays in memory.

    s_ij = W_j . x_i,    m_ij = s_ij - s_i,y_i + delta,    x_i = (image_i - mean, 1)
    L = 1/N sum_i sum_{j != y_i} max(0, m_ij) + reg ||W without bias||^2

Shapes: images (n, D) or (n, 3, 32, 32), labels (n,) integer in 0..C-1, `W` (C, D + 1)
float64 with the bias last, `mean` (D,) float64. Pixels keep their scale of 0 to 255.
The subgradient of the data part is 1/N sum_i k_i (outer) x_i. The factor k_ij of a wrong class is
the indicator of m_ij > 0, which is 0 at a kink (m = 0). The factor of the row's own class is minus
the sum of the others.

`loss_and_gradient` does everything in one call. The pipeline calls its three parts separately:
`fold` once per set of weights, `sum_rows` for the bytes of each shard, and
`kernels.partial.finalize` for the combined sums.

J. Weston and C. Watkins, "Support Vector Machines for Multi-Class Pattern Recognition",
ESANN 1999.
"""

import math
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from kernels.compiled import gradient as loops
from kernels.exact_sum import LARGEST_LOSS, LIMB_ROWS, LOSS_LIMBS, LossSum
from kernels.partial import Partial, finalize, squared_norm
from kernels.simd import tiles as vector

MAX_CLASSES = 128
"""Largest number of classes: the factor of a row's own class, at least -(C - 1), must fit int8."""


class Scorer(NamedTuple):
    """Weights with the mean image folded in: `scores = weights @ image + offset`."""

    weights: NDArray[np.floating]
    """(C, D) float32 or float64: the type of the scores."""
    offset: NDArray[np.floating]
    """(C,) of the same type: the bias minus `weights @ mean`, computed in float64."""


def fold(
    W: NDArray[np.float64],
    mean: NDArray[np.float64] | None = None,
    dtype: DTypeLike = np.float32,
) -> Scorer:
    """Fold `mean` into the weights, so that stored bytes can be scored directly.

    Weights beyond the range of `dtype` (float32 or float64) become infinite, and so does the loss.

    Examples:
        >>> fold(np.array([[1.0, 2.0, 0.5], [0.0, 1.0, 0.0]]), np.array([10.0, 20.0])).offset
        array([-49.5, -20. ], dtype=float32)
    """
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"scores must be float32 or float64, not {np.dtype(dtype)}")
    weights = np.ascontiguousarray(W[:, :-1], np.float64)
    offset = W[:, -1].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if mean is not None:
            mean_image = np.asarray(mean, np.float64)[None]
            offset -= scores(Scorer(weights, np.zeros(len(W))), mean_image)[0]
        return Scorer(weights.astype(dtype), offset.astype(dtype))


def load_kernels() -> None:
    """Load Numba's machinery and one kernel, which takes a second, before they are needed."""
    fold(np.zeros((1, 2)), np.zeros(1))


def scores(scorer: Scorer, images: NDArray[Any]) -> NDArray[np.floating]:
    """Return the scores (n, C) of images (n, D), uint8 or of the scorer's type.

    A row's scores are bit-identical at every position and on every processor.

    Raises ValueError if the images have another type or width.
    """
    weights, columns = scorer.weights, scorer.weights.shape[1]
    if images.dtype not in (np.uint8, weights.dtype) or images.shape != (len(images), columns):
        raise ValueError(
            f"weights of {columns} pixels need images (n, {columns}) of uint8 or "
            f"{weights.dtype}, not {images.shape} of {images.dtype}"
        )
    weights, images = pad(weights, images)
    out = np.empty((len(images), len(scorer.offset)), weights.dtype)
    loops.scores(images, np.arange(len(images)), weights, scorer.offset, out)
    return out


def sum_rows(
    scorer: Scorer,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    rows: NDArray[np.int64] | None = None,
    delta: float = 1.0,
    predictions: NDArray[np.uint8] | None = None,
    tiles: bool = vector.BYTE_DOT_PRODUCT,
) -> Partial:
    """Sum the loss, its integer gradient and the correct predictions over rows of bytes.

    `images` (n, D) and `labels` (n,) are uint8. `rows` selects rows, in any order and with
    repeats (default: every row once). If `predictions` is given, the predicted class of each
    selected row is written to it. `tiles=False` sums the gradient without the processor's dot
    product of bytes, which gives the same integers more slowly.

    Raises ValueError if a label has no weights, if `rows` is outside the images, or if the shapes
    or types of the arrays do not fit.
    """
    check_arrays(scorer.weights, images, labels)
    check_bytes(images, labels)
    rows = pick_rows(rows, len(images))
    if predictions is None:
        predictions = np.empty(len(rows), np.uint8)
    elif predictions.dtype != np.uint8 or predictions.shape != rows.shape:
        raise ValueError(
            f"predictions of {len(rows)} rows must be ({len(rows)},) uint8, "
            f"not {predictions.shape} {predictions.dtype}"
        )
    weights, images = pad(scorer.weights, images)
    parts = []
    for part in _safe_runs(len(rows), len(scorer.offset)):
        sums = _Sums.zero(weights)
        inputs = (images, labels, rows[part], weights, scorer.offset)
        settings = (weights.dtype.type(delta), tiles and vector.BYTE_DOT_PRODUCT)
        correct, overflows = loops.add_rows(*inputs, *settings, *sums, predictions[part])
        parts.append(sums.to_partial(scorer.weights.shape, len(rows[part]), correct, overflows))
    return reduce(Partial.combine, parts)


def _safe_runs(rows: int, classes: int) -> list[slice]:
    """Cut rows into runs whose sums fit int32 and the limbs, whatever the pixels."""
    longest = min((2**31 - 1) // (255 * (classes - 1)), LIMB_ROWS)
    return [slice(start, start + longest) for start in range(0, max(1, rows), longest)]


class _Sums(NamedTuple):
    """The arrays that the compiled loop adds to."""

    gradient: NDArray[np.int32]
    indicators: NDArray[np.int64]
    limbs: NDArray[np.int64]

    @classmethod
    def zero(cls, weights: NDArray[np.floating]) -> "_Sums":
        return cls(
            np.zeros(weights.shape, np.int32),
            np.zeros(len(weights), np.int64),
            np.zeros(LOSS_LIMBS, np.int64),
        )

    def to_partial(
        self, shape: tuple[int, ...], rows: int, correct: int, overflows: int
    ) -> Partial:
        """Return the sums without the padding, with the limbs joined into one integer."""
        classes, columns = shape
        losses = LossSum.of_limbs(self.limbs, overflows, rows)
        gradient = self.gradient[:classes, :columns]
        return Partial(gradient, self.indicators[:classes], losses, correct)


def loss_and_gradient(
    W: ArrayLike,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    mean: ArrayLike | None = None,
    delta: float = 1.0,
    reg: float = 0.0,
    dtype: DTypeLike = np.float64,
) -> tuple[float, NDArray[np.float64]]:
    """Return the loss and its subgradient (C, D + 1) over images in memory.

    uint8 images are summed exactly, as in the pipeline, with scores in `dtype` (float32 or
    float64). Other images are converted to float64. If `mean` is given, it is subtracted from the
    images.

    Examples:
        >>> W = np.array([[1.0, 0.0], [0.0, 0.0]])  # two classes, one pixel, and the bias
        >>> loss_and_gradient(W, np.array([[3], [2]], np.uint8), [1, 0])
        (2.0, array([[ 1.5,  0.5],
               [-1.5, -0.5]]))

    The loss is inf if a row overflows; see `kernels.partial`.

    Raises ValueError if there are no images, if a label has no weights, or if the shapes of the
    arrays do not fit.
    """
    W, pixels, classes, centre = _inputs(W, images, labels, mean)
    if not len(pixels):
        raise ValueError("the mean over no rows is not defined; give at least one image")
    if pixels.dtype == np.uint8:
        total = sum_rows(fold(W, centre, dtype), pixels, classes.astype(np.uint8), delta=delta)
        value = finalize(total, W, centre, reg=reg)
        return value.loss, value.gradient
    centred = np.column_stack([pixels - centre, np.ones(len(pixels))])
    with np.errstate(over="ignore", invalid="ignore"):  # the loss becomes inf
        losses, factors = _losses_and_factors(centred @ W.T, classes, delta)
        gradient = factors.T.astype(np.float64) @ centred / len(pixels)
        gradient[:, :-1] += 2.0 * reg * W[:, :-1]
    if not np.all(losses < LARGEST_LOSS):
        return math.inf, gradient
    return math.fsum(losses) / len(pixels) + reg * squared_norm(W), gradient


def data_gradient(
    W: ArrayLike,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    mean: ArrayLike | None = None,
    delta: float = 1.0,
) -> NDArray[np.float64]:
    """Return the gradient (n, D) of each row's loss with respect to its pixels.

    The gradient is `dL_i / dx_i = W^T k_i`.

    Examples:
        >>> W = np.array([[1.0, 0.0], [-2.0, 0.0]])
        >>> data_gradient(W, np.array([[3], [2]], np.uint8), [1, 0])
        array([[3.],
               [0.]])
    """
    W, pixels, classes, centre = _inputs(W, images, labels, mean)
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float64)
    _, factors = _losses_and_factors(scores(fold(W, centre, np.float64), pixels), classes, delta)
    gradient = np.zeros((len(classes), W.shape[1] - 1))
    loops.add_weights(factors, np.ascontiguousarray(W[:, :-1]), gradient)
    return gradient


def _losses_and_factors(
    scores: NDArray[np.floating], labels: NDArray[Any], delta: float
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Return each row's loss (n,) and its factors k (n, C)."""
    losses, factors = np.empty(len(labels)), np.empty(scores.shape, np.int8)
    loops.losses_and_factors(scores, labels.astype(np.uint8), float(delta), losses, factors)
    return losses, factors


def _inputs(
    W: ArrayLike, images: ArrayLike, labels: ArrayLike, mean: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Convert and check the inputs: W (C, D + 1), images (n, D), labels (n,), mean (D,)."""
    weights, pixels, classes = np.asarray(W, np.float64), np.asarray(images), np.asarray(labels)
    if weights.ndim != 2:
        raise ValueError(f"W must be (C, D + 1), not of shape {weights.shape}")
    columns = weights.shape[1] - 1
    pixels = pixels.reshape(len(pixels), math.prod(pixels.shape[1:]))
    check_arrays(weights[:, :-1], pixels, classes)
    centre = np.zeros(columns) if mean is None else np.ravel(mean).astype(np.float64)
    if len(centre) != columns:
        raise ValueError(f"the mean has {len(centre)} pixels, the images have {columns}")
    return np.ascontiguousarray(weights), pixels, classes, centre


def pad(
    weights: NDArray[np.floating], images: NDArray[Any]
) -> tuple[NDArray[np.floating], NDArray[Any]]:
    """Pad classes and columns with zeros to whole tiles, and make both arrays contiguous.

    The columns of CIFAR-10 images need no padding, so such images are not copied.
    """
    classes, columns = (
        -weights.shape[0] % vector.TILE_CLASSES,
        -weights.shape[1] % vector.VECTOR_BYTES,
    )
    if classes or columns:
        weights = np.pad(weights, ((0, classes), (0, columns)))
    if columns:
        images = np.pad(images, ((0, 0), (0, columns)))
    return np.ascontiguousarray(weights), np.ascontiguousarray(images)


def pick_rows(rows: NDArray[np.int64] | None, number: int) -> NDArray[np.int64]:
    """Return the selected rows, or all `number` rows if `rows` is None.

    Raises ValueError if they are not (n,) int64 or are out of range.
    """
    if rows is None:
        return np.arange(number)
    if rows.dtype != np.int64 or rows.ndim != 1:
        raise ValueError(f"rows must be (n,) int64, not {rows.shape} {rows.dtype}")
    if len(rows) and not (rows.min() >= 0 and rows.max() < number):
        raise ValueError(f"rows must be in 0..{number - 1}, not {rows.min()}..{rows.max()}")
    return rows


def check_bytes(images: NDArray[Any], labels: NDArray[Any]) -> None:
    """Raise ValueError unless both have the stored type, uint8."""
    if images.dtype != np.uint8 or labels.dtype != np.uint8:
        raise ValueError(f"images and labels must be uint8, not {images.dtype}, {labels.dtype}")


def check_arrays(weights: NDArray[Any], images: NDArray[Any], labels: NDArray[Any]) -> None:
    """Raise ValueError unless the shapes fit together and every label has weights."""
    classes, columns = weights.shape
    if not 2 <= classes <= MAX_CLASSES:
        raise ValueError(f"there must be 2 to {MAX_CLASSES} classes, not {classes}")
    if images.shape != (len(labels), columns):
        raise ValueError(
            f"{len(labels)} labels and weights of {columns} pixels need images of shape "
            f"({len(labels)}, {columns}), not {images.shape}"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be (n,) integers, not {labels.shape} {labels.dtype}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels must be in 0..{classes - 1}, not {labels.min()}..{labels.max()}")
