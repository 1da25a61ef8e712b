"""Weights in the frequency domain, where a quasi-Newton method needs few passes.

Neighbouring pixels and the three colours of a photograph are nearly equal, so the Hessian of a
loss over pixels has condition numbers of 10^5 and more. A fixed rotation of the colours, and then
a cosine transform of each rotated colour, nearly diagonalise the covariance of photographs. What
remains is to correct the scale of each coefficient. So weights are written W = T(V):

    V's coefficients   each times 1 / sqrt(curvature v + 2 reg), with v its variance over images
    -> pixels          by the inverse cosine transform and the inverse colour rotation
    V's last column    times 1 / sqrt(curvature + 2 reg): the bias multiplies a constant 1

The Hessian of the loss along a coefficient of W is about `curvature v + 2 reg`, where `curvature`
is the curvature of the hinge with respect to a score. Along a coefficient of V it is therefore
about 1. T is linear and fixed before a run, so the gradient with respect to V is the adjoint of T
applied to the gradient with respect to W.

The transform is orthonormal. In two dimensions it is the product of one transform per axis:

    X_k = sqrt(2 / n) c_k sum_i x_i cos(pi (2 i + 1) k / (2 n)),    c_0 = sqrt(1 / 2), else 1

Shapes: images (n, 3, H, W); W, V and gradients (C, 3 H W + 1), the bias last, float64.

N. Ahmed, T. Natarajan and K. R. Rao, "Discrete cosine transform", IEEE Trans. Comput., 1974.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

Floats = NDArray[np.float64]

_COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
"""Orthonormal rows: brightness, red against blue, and green against both."""

_LEAST_VARIANCE = 1 / 12
"""The variance that rounding to whole grey levels alone gives to every coefficient."""


def frequencies(images: NDArray[Any]) -> Floats:
    """Return the coefficients (n, 3, H, W) of images, over colour axes and two frequencies.

    Examples:
        >>> grey = np.full((1, 3, 2, 2), 5.0)
        >>> np.round(frequencies(grey).ravel(), 12) + 0.0  # only brightness: 5 sqrt(12)
        array([17.32050808,  0.        ,  0.        ,  0.        ,  0.        ,
                0.        ,  0.        ,  0.        ,  0.        ,  0.        ,
                0.        ,  0.        ])
    """
    rotated = np.einsum("ab,nbij->naij", _COLOURS, images)
    coefficients: Floats = dctn(rotated, axes=(2, 3), norm="ortho")
    return coefficients


def pixels(coefficients: Floats) -> Floats:
    """Return the images (n, 3, H, W) that have these coefficients."""
    rotated = idctn(coefficients, axes=(2, 3), norm="ortho")
    images: Floats = np.einsum("ab,naij->nbij", _COLOURS, rotated)
    return images


def variance(images: NDArray[np.uint8], mean: Floats) -> Floats:
    """Return the mean square (3, H, W) of each coefficient of `images - mean`.

    `images` is (n, 3, H, W) and `mean` (3, H, W). The result is at least 1/12, the variance of
    rounding pixels to whole numbers: with few images, or images of one colour, a coefficient
    may not vary at all.

    Raises ValueError if there are no images.
    """
    if not len(images):
        raise ValueError("the variance of no images is not defined; give at least one image")
    squares = np.square(frequencies(images - mean))
    known: Floats = np.maximum(squares.mean(axis=0), _LEAST_VARIANCE)
    return known


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """The map from V to W, its adjoint and its inverse."""

    scale: Floats
    """The factor of each coefficient of V (3, H, W)."""
    bias_scale: float
    """The factor of the last column of V."""

    @classmethod
    def of(cls, variance: Floats, *, curvature: float, reg: float = 0.0) -> Self:
        """Return the map that makes the Hessian of a loss about 1 along every coefficient.

        `curvature` is the curvature of the hinge, `variance` (3, H, W) the variance of the images'
        coefficients. The bias is scaled as if it were regularised, even if it is not; an
        unregularised bias then moves late in a run.

        Raises ValueError if the curvature is not above 0 or `reg` is below 0.
        """
        if not (curvature > 0 and reg >= 0):
            raise ValueError(
                f"curvature must be above 0 and reg at least 0, not {curvature} and {reg}"
            )
        bias_scale = 1 / math.sqrt(curvature + 2 * reg)
        return cls(1 / np.sqrt(curvature * variance + 2 * reg), bias_scale)

    def weights(self, V: Floats) -> Floats:
        """Return W = T(V)."""
        return _joined(pixels(self._images(V) * self.scale), V[:, -1] * self.bias_scale)

    def gradient(self, G: Floats) -> Floats:
        """Return the gradient with respect to V from that with respect to W: T's adjoint."""
        return _joined(frequencies(self._images(G)) * self.scale, G[:, -1] * self.bias_scale)

    def inverse(self, W: Floats) -> Floats:
        """Return the V for which T(V) = W."""
        return _joined(frequencies(self._images(W)) / self.scale, W[:, -1] / self.bias_scale)

    def _images(self, W: Floats) -> Floats:
        """Return the weights without the bias, as images (C, 3, H, W)."""
        return W[:, :-1].reshape(len(W), *self.scale.shape)


def _joined(images: Floats, bias: Floats) -> Floats:
    return np.column_stack([images.reshape(len(images), -1), bias])
