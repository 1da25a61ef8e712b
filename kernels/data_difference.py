"""Finite differences of each row's loss in its own pixels, beside the gradient in the data.

Changing pixel d of row i by h moves each of its margins by `h (W_jd - W_yd)`. As for the weights
(`kernels.structured_difference`) both hinges of every class are evaluated and subtracted, and what
crossed kinks make of it is known exactly.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled.differences import block_margins
from kernels.compiled.pixel_differences import add_differences
from kernels.finite_difference import Scheme
from kernels.gradient_verdict import ROUNDOFF_UNIT, Comparison
from kernels.hinge import data_gradient, fold, scores

Floats = NDArray[np.float64]


def compare_pixel_gradient(
    W: Floats,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    mean: Floats,
    step: float,
    scheme: Scheme = Scheme.CENTRED,
    delta: float = 1.0,
) -> Comparison:
    """Compare `hinge.data_gradient` of images (n, D) with the differences in every pixel (n, D).

    Raises ValueError for arrays that do not fit together, or a margin that is not finite.
    """
    gradient = data_gradient(W, images, labels, mean=mean, delta=delta)
    margins = np.empty((len(labels), len(W)))
    products = scores(fold(W, mean, np.float64), images)
    not_finite = block_margins(products, np.zeros(len(W)), labels, float(delta), margins)
    if not_finite:
        raise ValueError(
            f"{not_finite} margins at these weights are not finite numbers; take smaller weights"
        )
    pixels = np.ascontiguousarray(W[:, :-1])
    reach = np.nextafter(step * _largest_slope(pixels), np.inf)
    numerical, kinks = np.zeros((2, *images.shape))
    crossings = np.zeros(images.shape, np.int64)
    sizes = np.zeros(len(labels))
    centred = scheme is Scheme.CENTRED
    add_differences(
        margins, labels, pixels, step, reach, centred, numerical, kinks, crossings, sizes
    )
    distance = step * scheme.width
    numerical /= distance
    kinks /= distance
    bound = 2 * sizes / distance + _roundings(len(W)) * np.abs(pixels).max(initial=0.0)
    return Comparison(
        gradient, numerical, kinks, crossings, np.broadcast_to(_rounded(bound), images.shape)
    )


def _roundings(classes: int) -> int:
    """Return how often the largest weight is rounded on the way to a quotient and its gradient.

    Of C - 1 margins each moves by at most twice that weight: 6 roundings of the move and the
    difference, and in the sums, of the differences and of the kinks' part, as many as there are
    terms; the gradient's own sum has 2 (C - 1) weights in C terms.
    """
    return 6 * (classes - 1) * (classes + 1)


def _rounded(sizes: Floats) -> Floats:
    """Return what rounding makes of sizes (n,), as a column."""
    return np.asarray((1 + 1e-6) * ROUNDOFF_UNIT * sizes)[:, None]


def _largest_slope(pixels: Floats) -> float:
    """Return the most that a pixel may change a margin by."""
    return float(np.ptp(pixels, axis=0).max(initial=0.0))
