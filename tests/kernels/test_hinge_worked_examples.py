"""The hinge loss, its gradient and predictions in small examples, worked by hand."""

import numpy as np
import pytest

from kernels.exact_sum import LossSum
from kernels.hinge import data_gradient, fold, loss_and_gradient, scores, sum_rows
from kernels.partial import finalize

# Three classes, two pixels, two images; the bias is the last column.
W = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 1.0], [-1.0, 1.0, 0.0]])
IMAGES = np.array([[2, 4], [3, 0]], np.uint8)
LABELS = np.array([0, 2], np.uint8)
# Scores of (2, 4, 1): 1*2 = 2;   0.5*4 + 1 = 3;   -2 + 4 = 2.
# Scores of (3, 0, 1): 3;         1;               -3.
# Margins of image 0, of class 0: class 1: 3 - 2 + 1 = 2;   class 2: 2 - 2 + 1 = 1.   Loss 3.
# Margins of image 1, of class 2: class 0: 3 + 3 + 1 = 7;   class 1: 1 + 3 + 1 = 5.   Loss 12.
# Loss: (3 + 12) / 2 = 7.5.
# Factors k: image 0: (-2, 1, 1);   image 1: (1, 1, -2).
# Gradient, twice: class 0: -2 (2, 4, 1) +   (3, 0, 1) = (-1, -8, -1)
#                  class 1:    (2, 4, 1) +   (3, 0, 1) = ( 5,  4,  2)
#                  class 2:    (2, 4, 1) - 2 (3, 0, 1) = (-4,  4, -1)
GRADIENT = np.array([[-1, -8, -1], [5, 4, 2], [-4, 4, -1]]) / 2


@pytest.mark.parametrize("image_type", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loss_and_gradient_of_two_images_match_hand_worked_values(
    image_type: type, dtype: type
) -> None:
    loss, gradient = loss_and_gradient(W, IMAGES.astype(image_type), LABELS, dtype=dtype)
    assert loss == 7.5
    np.testing.assert_array_equal(gradient, GRADIENT)


@pytest.mark.parametrize("image_type", [np.uint8, np.float64])
def test_mean_regulariser_and_delta_match_hand_worked_values(image_type: type) -> None:
    # Mean (2, 2): the rows become (0, 2, 1) and (1, -2, 1).
    # Scores of (0, 2, 1):  0;   0.5*2 + 1 = 2;        2.
    # Scores of (1, -2, 1): 1;   0.5*-2 + 1 = 0;      -1 - 2 = -3.
    # Margins with delta 2: image 0: 2 - 0 + 2 = 4 and 2 - 0 + 2 = 4;   loss 8.
    #                       image 1: 1 + 3 + 2 = 6 and 0 + 3 + 2 = 5;   loss 11.
    # Squares without the bias: 1 + 0.25 + 2 = 3.25, times 4: 13. Loss: 19 / 2 + 13 = 22.5.
    # Factors: (-2, 1, 1) and (1, 1, -2) again. Gradient, twice, without the regulariser:
    #   class 0: -2 (0, 2, 1) + (1, -2, 1) = ( 1, -6, -1)
    #   class 1:    (0, 2, 1) + (1, -2, 1) = ( 1,  0,  2)
    #   class 2:    (0, 2, 1) - 2 (1, -2, 1) = (-2, 6, -1)
    # The regulariser adds 2 * 4 * W, but nothing to the bias.
    expected = np.array([[0.5 + 8, -3, -0.5], [0.5, 4, 1], [-1 - 8, 3 + 8, -0.5]])
    loss, gradient = loss_and_gradient(
        W, IMAGES.astype(image_type), LABELS, mean=[2, 2], delta=2, reg=4
    )
    assert loss == 22.5
    np.testing.assert_array_equal(gradient, expected)


def test_subgradient_at_a_kink_is_zero() -> None:
    # With zero weights and delta 0 every margin is 0. The loss and all indicators are 0.
    loss, gradient = loss_and_gradient(np.zeros((3, 3)), IMAGES, LABELS, delta=0)
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


def test_zero_weights_have_a_loss_of_delta_per_wrong_class() -> None:
    # Every margin is 1, so the loss of each row is C - 1 = 2. All margins are positive, as above,
    # so the factors are the same.
    loss, gradient = loss_and_gradient(np.zeros((3, 3)), IMAGES, LABELS)
    assert loss == 2
    np.testing.assert_array_equal(gradient, GRADIENT)


def test_sum_rows_returns_exact_integers_and_predictions() -> None:
    predictions = np.zeros(2, np.uint8)
    total = sum_rows(fold(W), IMAGES, LABELS, predictions=predictions)
    np.testing.assert_array_equal(total.gradient, 2 * GRADIENT[:, :2])
    np.testing.assert_array_equal(total.indicators, [-1, 2, -1])
    assert total.losses == LossSum(15 << 80, overflows=0, rows=2)
    # The prediction for image 0 is class 1 (score 3), for image 1 class 0. Both are incorrect.
    assert total.correct == 0
    np.testing.assert_array_equal(predictions, [1, 0])


def test_rows_may_be_in_any_order_and_repeat() -> None:
    # Rows 1, 0, 1: loss 12 + 3 + 12 = 27; class 0: -2 (2, 4) + 2 (3, 0) = (2, -8); ...
    predictions = np.zeros(3, np.uint8)
    rows = np.array([1, 0, 1])
    total = sum_rows(fold(W), IMAGES, LABELS, rows=rows, predictions=predictions)
    assert total.losses == LossSum(27 << 80, 0, 3)
    np.testing.assert_array_equal(total.gradient, [[2, -8], [8, 4], [-10, 4]])
    np.testing.assert_array_equal(total.indicators, [0, 3, -3])
    np.testing.assert_array_equal(predictions, [0, 1, 0])


def test_first_of_equal_scores_is_predicted() -> None:
    # All scores are 1, so class 0 is predicted. That is correct for the row of class 0.
    W_tied = np.array([[0.0, 0.0, 1.0]] * 3)
    total = sum_rows(fold(W_tied), IMAGES, LABELS)
    assert total.correct == 1
    assert finalize(total, W_tied, np.zeros(2)).accuracy == 0.5


def test_fold_subtracts_the_scores_of_the_mean() -> None:
    scorer = fold(W, np.array([2.0, 2.0]))  # W mean = (2, 1, 0)
    np.testing.assert_array_equal(scorer.offset, [-2, 0, 0])
    np.testing.assert_array_equal(scores(scorer, IMAGES), [[0, 2, 2], [1, 0, -3]])


def test_data_gradient_of_two_images_matches_hand_worked_values() -> None:
    # Image 0: W_1 + W_2 - 2 W_0 = (-3, 1.5).   Image 1: W_0 + W_1 - 2 W_2 = (3, -1.5).
    np.testing.assert_array_equal(data_gradient(W, IMAGES, LABELS), [[-3, 1.5], [3, -1.5]])


def test_images_and_mean_may_have_three_axes() -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    weights = np.arange(26.0).reshape(2, 13)
    mean = np.ones((3, 2, 2))
    flat = loss_and_gradient(weights, images.reshape(2, 12), [0, 1], mean=mean.ravel())
    whole = loss_and_gradient(weights, images, [0, 1], mean=mean)
    assert whole[0] == flat[0]
    np.testing.assert_array_equal(whole[1], flat[1])
    # In row 0 the score of its own class is lower by 13 * (0 - 1 + ... + 11 - 1) + 13 = 715, so
    # its loss is 716. In row 1 the score of its own class is higher, so its loss is 0.
    assert whole[0] == 716 / 2
