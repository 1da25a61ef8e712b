"""Synthetic images: reproducible, and as hard to classify as intended."""

import hashlib
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from storage.schema import SPLITS, Split
from storage.synthetic import Synthetic

SOURCE = Synthetic.of_size(2000)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    split=st.sampled_from(SPLITS),
    cuts=st.lists(st.integers(0, 400), min_size=2, max_size=5).map(sorted),
)
def test_read_range_equals_slice_of_a_longer_read(split: Split, cuts: list[int]) -> None:
    images, labels = SOURCE.read(split, 0, 400)
    for start, stop in pairwise(cuts):
        piece_images, piece_labels = SOURCE.read(split, start, stop)
        np.testing.assert_array_equal(piece_images, images[start:stop])
        np.testing.assert_array_equal(piece_labels, labels[start:stop])


def test_images_have_the_digest_of_version_1() -> None:
    """If the images change on purpose, increase the version too."""
    images, labels = Synthetic().read("train", 0, 500)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert digest == "02b293eac4f27cf463a9382f6f50704734f682d5cc45a60d4e3d5cf0e1c5a53b"


def test_images_differ_between_seeds_and_splits() -> None:
    train, _ = SOURCE.read("train", 0, 250)
    test, _ = SOURCE.read("test", 0, 250)
    other, _ = Synthetic(seed=1).read("train", 0, 250)
    assert not np.array_equal(train, test)
    assert not np.array_equal(train, other)


@pytest.mark.parametrize(
    ("size", "rows"),
    [
        (1, (1, 100)),
        (600, (600, 120)),
        (50_000, (50_000, 10_000)),
        (1_200_000, (1_200_000, 10_000)),
    ],
)
def test_test_split_has_a_fifth_of_the_rows_within_bounds(size: int, rows: tuple[int, int]) -> None:
    source = Synthetic.of_size(size)
    assert (source.rows("train"), source.rows("test")) == rows
    assert pickle.loads(pickle.dumps(source)) == source


@pytest.mark.slow
def test_images_have_the_statistics_of_photographs() -> None:
    images, labels = SOURCE.read("train", 0, 1000)
    assert 100 < images.mean() < 155
    assert 45 < images.std() < 75
    assert np.mean((images == 0) | (images == 255)) < 0.05
    planes = images.reshape(-1, 3, 32, 32).astype(float)
    neighbours = np.corrcoef(planes[..., 1:].ravel(), planes[..., :-1].ravel())[0, 1]
    assert neighbours > 0.9
    assert np.bincount(labels, minlength=10).min() > 70


def _descend(
    images: NDArray[np.float32], labels: NDArray[np.uint8], steps: int
) -> NDArray[np.float32]:
    """Run full-batch gradient descent on the Weston-Watkins hinge loss.

    It starts from zeros and has step size 1e-7.
    """
    rows = np.arange(len(images))
    W = np.zeros((10, images.shape[1]), np.float32)
    for _ in range(steps):
        scores = images @ W.T
        active = (scores - scores[rows, labels][:, None] + 1 > 0).astype(np.float32)
        active[rows, labels] = 0
        active[rows, labels] = -active.sum(axis=1)
        W -= np.float32(1e-7 / len(images)) * (active.T @ images)
    return W


@pytest.mark.slow
def test_linear_classifier_beats_chance_but_is_not_perfect() -> None:
    train, train_labels = SOURCE.read("train", 0, 1000)
    test, test_labels = SOURCE.read("test", 0, 400)
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)

    def centred(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.column_stack([images - mean, np.ones(len(images), np.float32)])

    W = _descend(centred(train), train_labels, steps=200)
    accuracy = np.mean((centred(test) @ W.T).argmax(axis=1) == test_labels)
    assert 0.35 < accuracy < 0.65
