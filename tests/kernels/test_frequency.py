"""Weights in the frequency domain: the transform's definition and the laws of linear maps."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.frequency import Preconditioner, frequencies, pixels, variance

Array = NDArray[np.float64]
RNG = np.random.default_rng(3)

# The rotation of the colours, worked by hand: each row's weights of red, green and blue.
COLOURS = [
    [1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)],
    [1 / math.sqrt(2), 0.0, -1 / math.sqrt(2)],
    [1 / math.sqrt(6), -2 / math.sqrt(6), 1 / math.sqrt(6)],
]


def defined_coefficients(image: Array) -> Array:
    """Return the coefficients (3, H, W) of one image by their definition."""
    _, height, width = image.shape
    found = np.zeros(image.shape)
    for a, u, v in np.ndindex(*image.shape):
        for b, i, j in np.ndindex(*image.shape):
            wave = math.cos(math.pi * (2 * i + 1) * u / (2 * height))
            wave *= math.cos(math.pi * (2 * j + 1) * v / (2 * width))
            found[a, u, v] += COLOURS[a][b] * image[b, i, j] * wave
        along = [math.sqrt((1 if k == 0 else 2) / n) for k, n in ((u, height), (v, width))]
        found[a, u, v] *= along[0] * along[1]
    return found


def test_coefficients_match_their_definition() -> None:
    images = RNG.normal(size=(2, 3, 4, 5))
    expected = np.array([defined_coefficients(image) for image in images])
    np.testing.assert_allclose(frequencies(images), expected, atol=1e-12)
    with pytest.raises(AssertionError):  # fails with the colours reversed
        np.testing.assert_allclose(frequencies(images[:, ::-1]), expected, atol=1e-12)


def test_transform_is_orthonormal_and_pixels_inverts_it() -> None:
    units = np.eye(3 * 4 * 4).reshape(-1, 3, 4, 4)
    matrix = frequencies(units).reshape(len(units), -1)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(units)), atol=1e-13)
    np.testing.assert_allclose(pixels(frequencies(units)), units, atol=1e-13)
    np.testing.assert_allclose(frequencies(pixels(units)), units, atol=1e-13)


def test_variance_is_the_mean_square_about_the_given_mean() -> None:
    images = RNG.integers(0, 256, (40, 3, 4, 5), dtype=np.uint8)
    mean = images.mean(axis=0)
    expected = np.var([defined_coefficients(image.astype(float)) for image in images], axis=0)
    np.testing.assert_allclose(variance(images, mean), expected)
    # It is taken about the given mean, not about the mean of the sample.
    np.testing.assert_allclose(
        variance(images, mean + 3.0)[0, 0, 0], expected[0, 0, 0] + 3 * 20 * 9.0
    )


def test_constant_images_have_the_variance_of_rounding() -> None:
    found = variance(np.full((7, 3, 4, 4), 9, np.uint8), np.full((3, 4, 4), 9.0))
    np.testing.assert_array_equal(found, np.full((3, 4, 4), 1 / 12))


@given(
    seed=st.integers(0, 2**32 - 1),
    reg=st.sampled_from([0.0, 1e-3, 1e3, 2.5e4]),
    curvature=st.sampled_from([0.1, 0.5, 2.0]),
)
def test_map_is_linear_with_adjoint_gradient_and_inverse(
    seed: int, reg: float, curvature: float
) -> None:
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(scale=5, size=(3, 4, 6)))
    T = Preconditioner.of(scale, curvature=curvature, reg=reg)
    V, G = rng.normal(size=(2, 5, 3 * 4 * 6 + 1))
    W = T.weights(V)
    near = float(1e-12 * np.linalg.norm(W) * np.linalg.norm(G))
    assert float(np.sum(W * G)) == pytest.approx(float(np.sum(V * T.gradient(G))), abs=near)
    np.testing.assert_allclose(T.inverse(W), V, atol=1e-9)
    np.testing.assert_allclose(T.weights(T.inverse(G)), G, atol=1e-9)
    np.testing.assert_allclose(T.weights(2 * V + G), 2 * W + T.weights(G), atol=1e-9)


def test_scales_follow_the_formula() -> None:
    T = Preconditioner.of(np.full((3, 1, 1), 8.0), curvature=0.5, reg=6.0)
    assert T.scale.ravel().tolist() == [0.25, 0.25, 0.25]  # 1 / sqrt(0.5 * 8 + 2 * 6)
    assert Preconditioner.of(np.full((3, 1, 1), 8.0), curvature=4.0, reg=6.0).bias_scale == 0.25
    V = np.eye(4)[:1] + 0.0  # the brightness of an image of one pixel
    np.testing.assert_allclose(T.weights(V), [[0.25 / math.sqrt(3)] * 3 + [0.0]], atol=1e-15)


@pytest.mark.parametrize(
    ("curvature", "reg"), [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.5, -1.0), (0.5, math.nan)]
)
def test_bad_curvature_or_reg_raises_value_error(curvature: float, reg: float) -> None:
    with pytest.raises(ValueError, match="curvature must be above 0"):
        Preconditioner.of(np.ones((3, 2, 2)), curvature=curvature, reg=reg)


def test_variance_of_no_images_raises_value_error() -> None:
    with pytest.raises(ValueError, match="no images"):
        variance(np.empty((0, 3, 2, 2), np.uint8), np.zeros((3, 2, 2)))
