"""Step study: its steps, and the predicted errors compared with simulations."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.exact_sum import LOSS_UNIT_BITS, LossSum, Sums
from kernels.finite_difference import Scheme
from kernels.gradient_verdict import Comparison
from kernels.structured_difference import Differences
from pipeline.check.step_study import PixelMeans, StepErrors, StepStudy, step_errors
from pipeline.inputs.errors import PipelineError

Floats = NDArray[np.float64]
SCHEMES = pytest.mark.parametrize("scheme", list(Scheme))


@pytest.mark.parametrize(
    ("steps", "points", "expected"),
    [
        ("1e-3:1e-11", 1, [1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11]),
        ("1e-3:1e-4", 2, [1e-3, 10**-3.5, 1e-4]),
        ("1e-5:1e-5", 7, [1e-5]),
        ("100:0.1", 1, [100, 10, 1, 0.1]),
        ("2e-3:1e-3", 10, [0.002 * 2 ** (-i / 3) for i in range(4)]),
    ],
)
def test_steps_fall_evenly_on_a_logarithmic_scale(
    steps: str, points: int, expected: list[float]
) -> None:
    found = StepStudy(steps=steps, points_per_decade=points).step_sizes
    assert found == pytest.approx(expected, rel=1e-13)
    assert (found[0], found[-1]) == (expected[0], expected[-1])


INVALID: list[Any] = [
    *(
        ({"steps": steps}, "LARGEST:SMALLEST, .* such as 1e-3:1e-11, not ")
        for steps in (
            *("", "x", "1e-3", "1e-3:", ":1e-3", "1e-11:1e-3", "1e-3:0", "0:0", "-1:-2"),
            *("1e-3:1e-4:1e-5", "nan:1e-5", "1e-3:nan", "inf:1e-3", "1e-3:-1e-3"),
        )
    ),
    ({"points_per_decade": 0}, "points per decade must be at least 1, not 0"),
    ({"points_per_decade": -3}, "points per decade must be at least 1, not -3"),
    ({"points_per_decade": 25}, "201 steps are too many; take at most 200"),
    ({"steps": "1e99:1e-100", "points_per_decade": 2}, "399 steps are too many"),
    # too many to be stored in a list
    ({"points_per_decade": 10**15}, "too many"),
    ({"steps": "1e308:1e-308"}, "two positive numbers in falling order"),  # out of bounds
]


@pytest.mark.parametrize(("given", "message"), INVALID)
def test_invalid_steps_raise_pipeline_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        StepStudy(**given)


def test_number_of_steps_below_the_limit_is_allowed() -> None:
    assert len(StepStudy(steps="1e-3:1e-11", points_per_decade=24).step_sizes) == 193


ROWS, SLOPE, COORDINATES, REACH = 2_000, 30.0, 3_000, 1.0


def make_sums(
    errors: Floats, crossings: NDArray[np.int64], active: LossSum
) -> tuple[Comparison, Differences]:
    """Return the comparison and sums of coordinates with these errors."""
    none = np.zeros(0, np.int64)
    sums = Differences(none, none, none, none, Sums([active]), ROWS)
    zeros = np.zeros_like(errors)
    return Comparison(errors, zeros, -errors / 2, crossings, zeros + 1e-9), sums


def simulated(scheme: Scheme, step: float) -> tuple[StepErrors, float]:
    """Return the predicted errors, and the error of simulated hinges.

    Margins are uniform around 0, and all pixels have the same size. In each coordinate, 2,000 rows
    have a margin within 1 of 0, which moves by 30 times the step.
    """
    random = np.random.default_rng(0)
    errors, crossings = np.empty(COORDINATES), np.empty(COORDINATES, np.int64)
    x = SLOPE * np.where(np.arange(COORDINATES) % 2, 1, -1)
    for i in range(COORDINATES):
        m = random.uniform(-REACH, REACH, ROWS)
        ahead = m + step * x[i]
        behind = m - step * x[i] if scheme is Scheme.CENTRED else m
        quotient = (np.maximum(ahead, 0) - np.maximum(behind, 0)) / (step * scheme.width)
        errors[i] = (quotient - x[i] * (m > 0)).sum() / ROWS
        crossings[i] = np.count_nonzero((ahead > 0) != (behind > 0))
    squares, crossed = float((errors**2).mean()), int(crossings.sum())
    # crossings per unit of a centred step: ROWS margins are spread over a length of 2 REACH
    kappa = ROWS / (2 * REACH) * 2 * SLOPE
    comparison, sums = make_sums(errors, crossings, LossSum(0, 0, 1))
    found = step_errors(step, scheme, comparison, sums, kappa, PixelMeans(SLOPE, SLOPE**2))
    assert found.crossings == crossed
    return found, float(np.sqrt(squares))


@SCHEMES
@pytest.mark.parametrize("step", [1e-5, 1e-4, 1e-3, 1e-2])
def test_predicted_truncation_matches_a_simulation(scheme: Scheme, step: float) -> None:
    found, simulated_error = simulated(scheme, step)
    assert found.truncation == pytest.approx(simulated_error, rel=0.2)
    assert found.error == pytest.approx(simulated_error, rel=1e-12)


def test_truncation_grows_as_sqrt_h_if_centred_and_as_h_if_forward() -> None:
    comparison, sums = make_sums(np.zeros(3), np.zeros(3, np.int64), LossSum(0, 0, 1))
    growth = {}
    for scheme in Scheme:
        small, large = (
            step_errors(step, scheme, comparison, sums, 1e9, PixelMeans(30.0, 900.0)).truncation
            for step in (1e-3, 1e-1)
        )
        growth[scheme] = large / small
    assert growth[Scheme.CENTRED] == pytest.approx(10)
    assert growth[Scheme.FORWARD] == pytest.approx(100, rel=0.01)


def test_pixel_means_match_pixels_drawn_by_their_size() -> None:
    """Pixels cross kinks in proportion to their size, so they are drawn in that proportion here."""
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (40, 3072)).astype(np.uint8)
    mean = random.uniform(0, 255, 3072)
    x = np.abs(images - mean).ravel()
    drawn = random.choice(x, 1_000_000, p=x / x.sum())
    found = PixelMeans.of(images, mean)
    assert found.x1 == pytest.approx(drawn.mean(), rel=0.01)
    assert found.x2 == pytest.approx((drawn**2).mean(), rel=0.01)


def test_errors_are_root_mean_squares_and_rounding_is_predicted() -> None:
    """There are 100 margins of size 2.5, each with a rounding error of up to one unit roundoff.

    A uniform rounding error has a variance of a third of the squared unit roundoff. The mean over
    the margins of a binade halves it.
    """
    comparison, sums = make_sums(
        np.array([3.0, -4.0, 0.0]), np.array([2, 0, 5]), LossSum(250 << LOSS_UNIT_BITS, 0, 100)
    )
    found = step_errors(1e-6, Scheme.CENTRED, comparison, sums, 0.0, PixelMeans(1.0, 1.0))
    assert (found.step, found.scheme, found.crossings) == (1e-6, "centred", 7)
    assert found.error == pytest.approx(np.sqrt(25 / 3))
    assert found.error_after_kinks == pytest.approx(np.sqrt(25 / 3) / 2)  # kinks account for half
    assert (found.max_error, found.truncation) == (4.0, 0.0)
    assert found.rounding_bound == pytest.approx(1e-9)
    assert found.rounding == pytest.approx(simulated_rounding(2.5, 100, 1e-6), rel=0.5)


def simulated_rounding(size: float, margins: int, step: float) -> float:
    """Return the simulated error of a centred quotient over ROWS rows.

    The error is caused by rounding of the moved margins.
    """
    random = np.random.default_rng(2)
    m = random.uniform(size * 0.8, size * 1.2, (4_000, margins))
    x = random.uniform(-100, 100, m.shape)
    exact = np.longdouble(step) * x
    ahead, behind = (m + step * x), (m - step * x)
    off = (ahead - behind) - 2 * exact
    return float(np.sqrt((off.sum(axis=1).astype(np.float64) ** 2).mean())) / (2 * step * ROWS)
