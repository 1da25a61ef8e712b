"""Which training images something is over: all, a sample of them, or the first."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.inputs.errors import PipelineError
from pipeline.inputs.random_streams import Purpose, random_stream

Rows = NDArray[np.int64]
"""Numbers of rows in a split, in any order and as often as they are named."""


@dataclass(frozen=True)
class Examples:
    """A choice of training images."""

    kind: str
    """`all`, `sample` or `first`."""
    number: int = 0
    """How many, unless all."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `all`, a number of images to sample, or `first:N`.

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
                f"examples are `all`, or how many to sample, or `first:N`, and at least 1, "
                f"not {text!r}"
            )
        return cls("first" if first else "sample", int(number))

    def count(self, rows: int) -> int:
        """Return how many of so many training rows they are."""
        return self.number or rows

    def rows(self, rows: int, seed: int) -> Rows | None:
        """Return which of so many training rows they are; None for all.

        Raises PipelineError if there are not so many.
        """
        if self.number > rows:
            raise PipelineError(f"{self.number:,} of {rows:,} examples cannot be taken; take fewer")
        if self.kind == "all":
            return None
        if self.kind == "first":
            return np.arange(self.number)
        return sample_numbers(seed, Purpose.EXAMPLES, rows, self.number)


def sample_numbers(seed: int, purpose: Purpose, size: int, number: int) -> NDArray[np.int64]:
    """Return `number` of the numbers below `size`, rising."""
    return np.sort(
        random_stream(seed, purpose, 0).choice(size, number, replace=False, shuffle=False)
    )
