"""Differences in every weight at once, worked by hand."""

from typing import NamedTuple

import numpy as np
import pytest

from kernels.finite_difference import Scheme
from kernels.hinge import fold
from kernels.structured_difference import Probe, differences, kink_part, quotient
from tests.kernels.differences import in_units


class Hand(NamedTuple):
    """The expected sums of one row of class 0: for class 1, then for class 0."""

    scheme: Scheme
    margin: float
    differences: list[list[float]]
    departures: list[list[float]]
    crossings: list[list[int]]


C, F = Scheme.CENTRED, Scheme.FORWARD

# The pixel is 2 and h = 1/4: the margin moves by 1/2 with the pixel's weight, by 1/4 with the bias.
# A difference is taken between the hinges at both ends of the move. The departure is the difference
# minus the move itself if the margin is positive, and the difference itself if not.
HANDS = [
    # no crossing: from 1/2 to 3/2 and from 3/4 to 5/4
    Hand(C, 1.0, [[1, 0.5], [-1, -0.5]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    # no crossing: both ends are negative
    Hand(C, -1.0, [[0, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    # from -1/2 to 1/2 and from -1/4 to 1/4, and back: half of each move is beyond the kink
    Hand(C, 0.0, [[0.5, 0.25], [-0.5, -0.25]], [[0.5, 0.25], [-0.5, -0.25]], [[1, 1], [1, 1]]),
    # from -1/8 to 7/8, and with the bias from 1/8 to 5/8
    Hand(C, 0.375, [[0.875, 0.5], [-0.875, -0.5]], [[-0.125, 0], [0.125, 0]], [[1, 0], [1, 0]]),
    # from -7/8 to 1/8, and with the bias from -5/8 to -1/8
    Hand(C, -0.375, [[0.125, 0], [-0.125, 0]], [[0.125, 0], [-0.125, 0]], [[1, 0], [1, 0]]),
    # no crossing
    Hand(F, 1.0, [[0.5, 0.25], [-0.5, -0.25]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    # no crossing
    Hand(F, -1.0, [[0, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    # only class 1 moves the margin up: from 0 to 1/2, and with the bias to 1/4
    Hand(F, 0.0, [[0.5, 0.25], [0, 0]], [[0.5, 0.25], [0, 0]], [[1, 1], [0, 0]]),
    # class 0 moves the margin from 3/8 to -1/8, and with the bias to 1/8
    Hand(F, 0.375, [[0.5, 0.25], [-0.375, -0.25]], [[0, 0], [0.125, 0]], [[0, 0], [1, 0]]),
    # class 1 moves the margin from -3/8 to 1/8
    Hand(F, -0.375, [[0.125, 0], [0, 0]], [[0.125, 0], [0, 0]], [[1, 0], [0, 0]]),
]


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("hand", HANDS)
def test_sums_of_one_row_match_hand_worked_values(hand: Hand, tiles: bool) -> None:
    # s_1 - s_0 = (1/2 - 1) 2 + b = b - 1, so with delta 1 the margin is b.
    W = np.array([[1.0, 0.0], [0.5, hand.margin]])
    probe = Probe(fold(W, None, np.float64), np.zeros(1), 0.25, hand.scheme)
    images, labels = np.array([[2]], np.uint8), np.array([0], np.uint8)
    total = differences(probe, images, labels, tiles=tiles)
    assert (in_units(total.differences)[::-1] * probe.unit).tolist() == hand.differences
    assert (in_units(total.departures)[::-1] * probe.unit).tolist() == hand.departures
    assert total.crossings[::-1].tolist() == hand.crossings
    width = 0.5 if hand.scheme is C else 0.25
    np.testing.assert_array_equal(quotient(total, probe)[::-1], np.array(hand.differences) / width)
    np.testing.assert_array_equal(kink_part(total, probe)[::-1], np.array(hand.departures) / width)
    # The remainder is the subgradient: (2, 1) for class 1 if the margin is positive.
    slope = np.array([[2, 1], [-2, -1]]) * (hand.margin > 0)
    np.testing.assert_array_equal((quotient(total, probe) - kink_part(total, probe))[::-1], slope)


def test_sums_of_two_rows_and_three_classes_match_hand_worked_values() -> None:
    # The mean is 4, so that x is (-2, 1) and (6, 1), of classes 2 and 0; h = 1/8.
    # Scores of row 0: 2, -2, 1 -> margins of classes 0 and 1: 2 - 1 + 1 = 2 and -2 - 1 + 1 = -2.
    # Scores of row 1: -6, 6, 1 -> margins of classes 1 and 2: 6 + 6 + 1 = 13 and 1 + 6 + 1 = 8.
    # None is within 6/8 of its kink. The differences per class, in units of 2 h, are sums of (x, 1)
    # over positive margins, negative for the row's own class:
    #   class 0: (-2, 1) - 2 (6, 1) = (-14, -1);   class 1: (6, 1);
    #   class 2: (6, 1) - (-2, 1) = (8, 0)
    W = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    images, labels, mean = (
        np.array([[2], [10]], np.uint8),
        np.array([2, 0], np.uint8),
        np.array([4.0]),
    )
    probe = Probe(fold(W, mean, np.float64), mean, 0.125)
    total = differences(probe, images, labels)
    assert quotient(total, probe).tolist() == [[-7, -0.5], [3, 0.5], [4, 0]]
    assert not total.crossings.any()
    assert not total.departures.any()
    # A pixel of 255 could move the margin of -2 past 0, so it counts as active.
    assert [each.rows for each in total.active] == [3, 2, 3]
    assert [each.loss / 2**80 for each in total.active] == [2 + 13 + 8, 2 + 13, 2 + 2 + 8]
    # With h = 1, row 0's second margin moves from -4 to 0 and its first from 4 to 0, the kink.
    far = probe._replace(step=1.0)
    moved = differences(far, images, labels)
    assert quotient(moved, far).tolist() == [[-7, -0.5], [3, 0.5], [4, 0]]
    assert moved.crossings.tolist() == [[1, 0], [0, 0], [1, 0]]
    assert not moved.departures.any()


def test_thousands_of_departures_of_one_sign_add_up_exactly() -> None:
    # All rows are white, of one class, with margins at the kink, so no departures cancel.
    rows = 8_000
    probe = Probe(fold(np.zeros((10, 2)), None, np.float64), np.zeros(1), 1.0, delta=0.0)
    images, labels = np.full((rows, 1), 255, np.uint8), np.zeros(rows, np.uint8)
    one = differences(probe, images, labels)
    two = one.combine(one)
    for total in (one, two):
        # Each margin moves from -255 to 255. The quotient is half of the slope 255.
        assert kink_part(total, probe)[1:].tolist() == [[127.5, 0.5]] * 9
        assert kink_part(total, probe)[0].tolist() == [-9 * 127.5, -9 * 0.5]
