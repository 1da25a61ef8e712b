"""Synthetic images with CIFAR-10's shapes, the same bytes on every machine.

An image is a smooth random field: a sum of low-frequency cosines whose amplitudes fall with
frequency, as in photographs, around a pattern of its class, plus fine noise. Every class has
several patterns and some labels are wrong, so a linear classifier does clearly better than
chance and clearly worse than perfect: 200 full-batch steps of 1e-7
from zeros reach a loss of 3.79 and 52 % on the test split (real CIFAR-10: 4.69 and 37 %).

Rows come in blocks of 250, each from its own counter-based stream (Philox keyed by seed, split
and block), so a range of rows is the same whoever asks and in whatever order. Only raw bits
are drawn, and all sums are of integers below 2^24, hence exact in float32: no result depends
on a library's order of summation or on the processor.
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
"""Raised when the images that a seed gives change."""

_FREQUENCIES = 6  # cosines along each axis
_WAVES = IMAGE_SHAPE[0] * _FREQUENCIES**2
_WAVE_HEIGHT = 64  # of the constant wave; a wave of frequencies (u, v) is 1 + u + v times lower
_PATTERNS = 3  # a class
_PATTERN_TENTHS = 4  # a pattern's amplitudes, in tenths of the field's around it
_WRONG_LABELS = 26  # of 256
_STREAM_BITS = 56  # of a key's second word; the bits above name what the stream is for
_PURPOSES = {"patterns": 0, "train": 1, "test": 2}


@dataclass(frozen=True)
class Synthetic:
    """A source (see `storage.sources.Source`) of `train_rows` and `test_rows` made images.

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
        """Make a source of `train_rows` training images and a fifth as many for the test.

        The test split has at least 100 and at most 10,000 images: as many as CIFAR-10's for
        any size from CIFAR-10's up.

        Raises:
            DataError: `train_rows` is not positive.
        """
        if train_rows < 1:
            raise DataError(f"synthetic:{train_rows}: wanted at least 1 training image")
        return cls(train_rows, min(TEST_ROWS, max(100, train_rows // 5)), limit)

    @property
    def description(self) -> str:
        """What the data is, in words."""
        return f"synthetic images (seed {self.seed}), not CIFAR-10"

    @property
    def identity(self) -> Identity:
        """Which data this is: the parameters that the images depend on."""
        sizes = f"{self.train_rows}+{self.test_rows} images"
        content = f"version {VERSION}, seed {self.seed}, {sizes}"
        return Identity(kind=self.kind, content=content, limit=self.limit)

    def rows(self, split: Split) -> int:
        """Return the number of images of `split`."""
        rows = self.train_rows if split == "train" else self.test_rows
        return rows if self.limit is None else min(rows, self.limit)

    def read(self, split: Split, start: int, stop: int) -> tuple[Bytes, Bytes]:
        """Make rows `start` to `stop`: images (n, 3072) uint8 and labels (n,) uint8."""
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
    """Turn whole-numbered amplitudes of the waves (n, waves) into images (n, 3072)."""
    field = amplitudes @ _waves()  # |sum| < 108 waves * 765 * 64 < 2^24: exact
    field *= np.float32(2.0**-8)
    np.rint(field, out=field)
    field += (noise & 15) + (noise >> 4)  # two dice of 16: a triangle about 15
    field += np.float32(128 - 15)
    np.clip(field, 0, 255, out=field)
    return field.astype(np.uint8)


@cache
def _waves() -> NDArray[np.float32]:
    """Return the waves, whole numbers: (waves, 3072).

    Three colour directions (grey, and two that sum to zero over the channels, half as strong)
    times the cosines of a discrete cosine transform.
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
    """Return the classes' patterns as whole-numbered amplitudes: (10, patterns, waves)."""
    drawn = _bell(_stream(seed, "patterns", 0), len(CLASSES) * _PATTERNS, _WAVES)
    patterns = np.trunc(drawn * _PATTERN_TENTHS / 10)
    return patterns.reshape(len(CLASSES), _PATTERNS, _WAVES)


def _bell(stream: np.random.Philox, rows: int, columns: int) -> NDArray[np.float32]:
    """Draw whole numbers of a bell shape, |x| <= 510 and deviation 148: four bytes' sum."""
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
