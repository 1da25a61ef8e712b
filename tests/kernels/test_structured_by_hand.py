"""Differences in every weight at once, worked out by hand."""

from typing import NamedTuple

import numpy as np
import pytest

from kernels.finite_difference import Scheme
from kernels.hinge import fold
from kernels.structured_difference import Probe, differences, kink_part, quotient
from tests.kernels.differences import in_units


class Hand(NamedTuple):
    """What is expected of one row: of its class 1, then of class 0, which is its own."""

    scheme: Scheme
    margin: float
    differences: list[list[float]]
    departures: list[list[float]]
    crossings: list[list[int]]


C, F = Scheme.CENTRED, Scheme.FORWARD

# The pixel is 2 and h = 1/4: the margin moves by 1/2 with the pixel's weight, by 1/4 with the bias.
# A difference is of the hinge at both ends, the departure what it has more than both ends
# themselves (or than 0 if the margin is not positive).
HANDS = [
    Hand(C, 1.0, [[1, 0.5], [-1, -0.5]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    Hand(C, -1.0, [[0, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    # -1/2 to 1/2 and -1/4 to 1/4, and backwards: half of each is on the far side
    Hand(C, 0.0, [[0.5, 0.25], [-0.5, -0.25]], [[0.5, 0.25], [-0.5, -0.25]], [[1, 1], [1, 1]]),
    # -1/8 to 7/8; 1/8 to 5/8
    Hand(C, 0.375, [[0.875, 0.5], [-0.875, -0.5]], [[-0.125, 0], [0.125, 0]], [[1, 0], [1, 0]]),
    # -7/8 to 1/8; -5/8 to -1/8
    Hand(C, -0.375, [[0.125, 0], [-0.125, 0]], [[0.125, 0], [-0.125, 0]], [[1, 0], [1, 0]]),
    Hand(F, 1.0, [[0.5, 0.25], [-0.5, -0.25]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    Hand(F, -1.0, [[0, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    # only class 1 moves the margin up: to 1/2 and 1/4
    Hand(F, 0.0, [[0.5, 0.25], [0, 0]], [[0.5, 0.25], [0, 0]], [[1, 1], [0, 0]]),
    # class 0 moves it from 3/8 to -1/8, the bias to 1/8
    Hand(F, 0.375, [[0.5, 0.25], [-0.375, -0.25]], [[0, 0], [0.125, 0]], [[0, 0], [1, 0]]),
    # class 1 moves it from -3/8 to 1/8
    Hand(F, -0.375, [[0.125, 0], [0, 0]], [[0.125, 0], [0, 0]], [[1, 0], [0, 0]]),
]


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("hand", HANDS)
def test_a_hand_worked_row(hand: Hand, tiles: bool) -> None:
    # s_1 - s_0 = (1/2 - 1) 2 + b, so that with delta 1 the margin is b itself
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
    # what is left is the subgradient, (2, 1) for class 1 where the margin is positive
    slope = np.array([[2, 1], [-2, -1]]) * (hand.margin > 0)
    np.testing.assert_array_equal((quotient(total, probe) - kink_part(total, probe))[::-1], slope)


def test_two_hand_worked_rows_of_three_classes() -> None:
    # The mean is 4, so that x is (-2, 1) and (6, 1), of classes 2 and 0; h = 1/8.
    # Scores of row 0: 2, -2, 1 -> margins of classes 0 and 1: 2 - 1 + 1 = 2 and -2 - 1 + 1 = -2.
    # Scores of row 1: -6, 6, 1 -> margins of classes 1 and 2: 6 + 6 + 1 = 13 and 1 + 6 + 1 = 8.
    # None is within 6/8 of its kink. Gains of 2 h for each class by (x, 1) where positive:
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
    # A pixel of 255 could move the margin of -2 past 0: it counts, too.
    assert [each.rows for each in total.active] == [3, 2, 3]
    assert [each.loss / 2**80 for each in total.active] == [2 + 13 + 8, 2 + 13, 2 + 2 + 8]
    # By h = 1 row 0's second margin goes from -4 to 0, its first from 4 to 0: to the kink itself.
    far = probe._replace(step=1.0)
    moved = differences(far, images, labels)
    assert quotient(moved, far).tolist() == [[-7, -0.5], [3, 0.5], [4, 0]]
    assert moved.crossings.tolist() == [[1, 0], [0, 0], [1, 0]]
    assert not moved.departures.any()


def test_thousands_of_departures_to_one_side() -> None:
    """All rows white, of one class, and their margins at the kink: nothing cancels."""
    rows = 8_000
    probe = Probe(fold(np.zeros((10, 2)), None, np.float64), np.zeros(1), 1.0, delta=0.0)
    images, labels = np.full((rows, 1), 255, np.uint8), np.zeros(rows, np.uint8)
    one = differences(probe, images, labels)
    two = one.combine(one)
    for total in (one, two):
        # each margin goes from -255 to 255: half of what a slope of 255 gains by 2 h
        assert kink_part(total, probe)[1:].tolist() == [[127.5, 0.5]] * 9
        assert kink_part(total, probe)[0].tolist() == [-9 * 127.5, -9 * 0.5]
