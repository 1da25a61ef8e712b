"""Synthetic images with CIFAR-10's shapes, with identical bytes on every machine.

An image is the sum of a pattern of its class, a smooth random field and fine noise. The field is a
sum of low-frequency cosines whose amplitudes decrease with frequency, as in photographs. Every
class has several patterns and some labels are wrong, so a linear classifier is clearly better than
chance and clearly worse than perfect: 200 steps of full-batch gradient descent with step size 1e-7
from zeros reach a loss of 3.79 and an accuracy of 52 % on the test split (real CIFAR-10: 4.69 and
37 %).

Rows are generated in blocks of 250. Each block has its own counter-based random stream (Philox
keyed by seed, split and block), so rows do not depend on the order in which they are read or on
the process that reads them. Only raw bits are drawn, and all sums are sums of integers below 2^24,
which are exact in float32. So no result depends on a library's order of summation or on the
processor.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from storage.errors import DataError
from storage.schema import CLASSES, IMAGE_SHAPE, PIXELS, Bytes, Identity, Split, check_range

TRAIN_ROWS = 50_000
TEST_ROWS = 10_000
BLOCK_ROWS = 250
VERSION = 1
"""Increased when the images of a seed change."""

_FREQUENCIES = 6  # cosines along each axis
_WAVES = IMAGE_SHAPE[0] * _FREQUENCIES**2
_WAVE_HEIGHT = 64  # of the constant wave; wave (u, v) is lower by a factor of 1 + u + v
_PATTERNS = 3  # per class
_PATTERN_TENTHS = 4  # amplitudes of a pattern, in tenths of those of the random field
_WRONG_LABELS = 26  # in 256
_STREAM_BITS = 56  # for the block in a key's second word; the higher bits are the purpose
_PURPOSES = {"patterns": 0, "train": 1, "test": 2}


@dataclass(frozen=True)
class Synthetic:
    """A source (see `storage.sources.Source`) of `train_rows` and `test_rows` synthetic images.

    Examples:
        >>> source = Synthetic(train_rows=600, test_rows=100)
        >>> images, labels = source.read("train", 240, 260)
        >>> images.shape, images.dtype, labels.shape
        ((20, 3072), dtype('uint8'), (20,))
    """

    train_rows: int = TRAIN_ROWS
    test_rows: int = TEST_ROWS
    limit: int | None = None
    seed: int = 0

    kind = "synthetic"
    name = "synthetic"

    @classmethod
    def of_size(cls, train_rows: int, limit: int | None = None) -> "Synthetic":
        """Return a source of `train_rows` training images and a fifth as many test images.

        The test split has at least 100 and at most 10,000 images. With 50,000
        or more training images it has 10,000, as in CIFAR-10.

        Raises:
            DataError: `train_rows` is not positive.
        """
        if train_rows < 1:
            raise DataError(f"synthetic:{train_rows}: wanted at least 1 training image")
        return cls(train_rows, min(TEST_ROWS, max(100, train_rows // 5)), limit)

    @property
    def description(self) -> str:
        """A human-readable description of the data."""
        return f"synthetic images (seed {self.seed}), not CIFAR-10"

    @property
    def identity(self) -> Identity:
        """The identity of the data: the parameters on which the images depend."""
        sizes = f"{self.train_rows}+{self.test_rows} images"
        content = f"version {VERSION}, seed {self.seed}, {sizes}"
        return Identity(kind=self.kind, content=content, limit=self.limit)

    def rows(self, split: Split) -> int:
        """Return the number of images of `split`."""
        rows = self.train_rows if split == "train" else self.test_rows
        return rows if self.limit is None else min(rows, self.limit)

    def read(self, split: Split, start: int, stop: int) -> tuple[Bytes, Bytes]:
        """Generate rows `start` to `stop`: images (n, 3072) uint8 and labels (n,) uint8."""
        check_range(start, stop, self.rows(split))
        images = np.empty((stop - start, PIXELS), np.uint8)
        labels = np.empty(stop - start, np.uint8)
        for block in range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS)):
            first = block * BLOCK_ROWS
            low, high = max(start, first), min(stop, first + BLOCK_ROWS)
            made_images, made_labels = _make_block(self.seed, split, block)
            images[low - start : high - start] = made_images[low - first : high - first]
            labels[low - start : high - start] = made_labels[low - first : high - first]
        return images, labels


def _make_block(seed: int, split: Split, block: int) -> tuple[Bytes, Bytes]:
    stream = _stream(seed, split, block)
    draws = _raw_bytes(stream, BLOCK_ROWS, 8)
    shown = (draws[:, 0:2].astype(np.uint16) @ np.array([1, 256], np.uint16)) % len(CLASSES)
    pattern = draws[:, 2] % _PATTERNS
    other = (shown + 1 + draws[:, 3] % (len(CLASSES) - 1)) % len(CLASSES)
    labels = np.where(draws[:, 4] < _WRONG_LABELS, other, shown).astype(np.uint8)
    amplitudes = _bell(stream, BLOCK_ROWS, _WAVES)
    amplitudes += _patterns(seed)[shown, pattern]
    noise = _raw_bytes(stream, BLOCK_ROWS, PIXELS)
    return _draw(amplitudes, noise), labels


def _draw(amplitudes: NDArray[np.float32], noise: Bytes) -> Bytes:
    """Return the images (n, 3072) for integer amplitudes of the waves (n, waves)."""
    field = amplitudes @ _waves()  # |sum| < 108 waves * 765 * 64 < 2^24: exact
    field *= np.float32(2.0**-8)
    np.rint(field, out=field)
    field += (noise & 15) + (noise >> 4)  # two numbers from 0 to 15: a triangular distribution
    field += np.float32(128 - 15)
    np.clip(field, 0, 255, out=field)
    return field.astype(np.uint8)


@cache
def _waves() -> NDArray[np.float32]:
    """Return the waves: (waves, 3072), integers stored as float32.

    Each wave is one of three colour directions (grey, and two of half the strength that sum to
    zero over the channels) times a two-dimensional cosine of a discrete cosine transform.
    """
    index = np.arange(_FREQUENCIES)
    angle = np.pi / 32 * (np.arange(32) + 0.5)
    cosines = np.cos(np.outer(index, angle))
    height = _WAVE_HEIGHT / (1.0 + index[:, None] + index)
    planes = np.einsum("uv,uy,vx->uvyx", height, cosines, cosines)
    colours = np.array([[1, 1, 1], [0.5, 0, -0.5], [0.25, -0.5, 0.25]])
    waves = np.einsum("kc,uvyx->kuvcyx", colours, planes)
    rounded: NDArray[np.float32] = np.rint(waves).reshape(_WAVES, PIXELS).astype(np.float32)
    return rounded


@cache
def _patterns(seed: int) -> NDArray[np.float32]:
    """Return the integer amplitudes of the patterns of the classes: (10, patterns, waves)."""
    drawn = _bell(_stream(seed, "patterns", 0), len(CLASSES) * _PATTERNS, _WAVES)
    patterns = np.trunc(drawn * _PATTERN_TENTHS / 10)
    return patterns.reshape(len(CLASSES), _PATTERNS, _WAVES)


def _bell(stream: np.random.Philox, rows: int, columns: int) -> NDArray[np.float32]:
    """Draw integers with a bell-shaped distribution: |x| <= 510, standard deviation 148.

    Each is a sum of four bytes, minus 510. Returns (rows, columns) float32.
    """
    drawn = _raw_bytes(stream, rows, 4 * columns).reshape(rows, columns, 4)
    bell: NDArray[np.float32] = drawn.sum(axis=2, dtype=np.int16).astype(np.float32)
    bell -= 510
    return bell


def _raw_bytes(stream: np.random.Philox, rows: int, columns: int) -> Bytes:
    words = np.asarray(stream.random_raw(-(-rows * columns // 8)), dtype="<u8")
    return words.view(np.uint8)[: rows * columns].reshape(rows, columns)


def _stream(seed: int, purpose: str, block: int) -> np.random.Philox:
    key = np.array([seed, (_PURPOSES[purpose] << _STREAM_BITS) + block], dtype=np.uint64)
    return np.random.Philox(key=key)
