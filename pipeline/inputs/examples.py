"""The choice of training images: all, a random sample, or the first ones."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.inputs.errors import PipelineError
from pipeline.inputs.random_streams import Purpose, random_stream

Rows = NDArray[np.int64]
"""Row numbers in a split. They may be in any order, and a repeated row counts each time."""


@dataclass(frozen=True)
class Examples:
    """A choice of training images."""

    kind: str
    """`all`, `sample` or `first`."""
    number: int = 0
    """How many images; 0 for all."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `all`, a number of images to sample, or `first:N`.

        Examples:
            >>> Examples.parse("first:100")
            Examples(kind='first', number=100)
        """
        if text == "all":
            return cls(text)
        kind, _, number = f"sample:{text}".rpartition(":")
        first = kind == "sample:first"
        if not (
            number.isdecimal()
            and len(number) < 10
            and int(number) >= 1
            and (first or kind == "sample")
        ):
            raise PipelineError(
                f"examples must be `all`, a number of images to sample, or `first:N`, with "
                f"numbers of at least 1, not {text!r}"
            )
        return cls("first" if first else "sample", int(number))

    def count(self, rows: int) -> int:
        """Return how many of `rows` training rows are chosen."""
        return self.number or rows

    def rows(self, rows: int, seed: int) -> Rows | None:
        """Return the numbers of the chosen rows, out of `rows` training rows, or None for all.

        Raises PipelineError if there are fewer rows than the choice needs.
        """
        if self.number > rows:
            raise PipelineError(
                f"cannot take {self.number:,} of {rows:,} examples; take at most {rows:,}"
            )
        if self.kind == "all":
            return None
        if self.kind == "first":
            return np.arange(self.number)
        return sample_numbers(seed, Purpose.EXAMPLES, rows, self.number)


def sample_numbers(seed: int, purpose: Purpose, size: int, number: int) -> NDArray[np.int64]:
    """Return `number` distinct random numbers below `size`, in increasing order."""
    return np.sort(
        random_stream(seed, purpose, 0).choice(size, number, replace=False, shuffle=False)
    )
