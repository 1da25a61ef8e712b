"""Finite-difference check of the gradient of each row's loss with respect to its pixels.

Changing pixel d of row i by h moves each of its margins by `h (W_jd - W_yd)`. As in
`kernels.structured_difference`, each margin's hinge is evaluated at both points of the difference
and subtracted, and the contribution of crossed kinks is known exactly.
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
    """Compare `hinge.data_gradient` of images (n, D) with differences in every pixel (n, D).

    Raises ValueError if the arrays do not fit together or a margin is non-finite.
    """
    gradient = data_gradient(W, images, labels, mean=mean, delta=delta)
    margins = np.empty((len(labels), len(W)))
    products = scores(fold(W, mean, np.float64), images)
    not_finite = block_margins(products, np.zeros(len(W)), labels, float(delta), margins)
    if not_finite:
        raise ValueError(
            f"{not_finite} margins at these weights are non-finite; use smaller weights"
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
    """Return a bound on the rounding errors of a quotient and the gradient that it checks.

    The unit is one rounding of the largest weight. Each of the C - 1 margins moves by at most twice
    the largest weight times the step. Computing the move and the difference of the hinges takes 6
    roundings. The sums of the differences and of the kink parts are rounded once per term. Each
    entry of the gradient is the sum of C products of a weight and a factor. The absolute values of
    the factors sum to at most 2 (C - 1).
    """
    return 6 * (classes - 1) * (classes + 1)


def _rounded(sizes: Floats) -> Floats:
    """Return the largest rounding error of numbers of these sizes (n,), as a column (n, 1)."""
    return np.asarray((1 + 1e-6) * ROUNDOFF_UNIT * sizes)[:, None]


def _largest_slope(pixels: Floats) -> float:
    """Return the largest change of a margin per unit change of a pixel."""
    return float(np.ptp(pixels, axis=0).max(initial=0.0))
