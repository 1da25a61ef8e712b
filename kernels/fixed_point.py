"""Weights as 16-bit fixed-point numbers, whose scores on bytes are exact integers.

A weight is a whole number of units, and the unit is a power of two. In units, its products with
pixels of 0 to 255 and the sums of these products are integers. A processor that multiplies pairs of
int16 computes them twice as fast as in float32. The scores of a sum of weights are exactly the sum
of their scores.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SCALE_BITS = 11
"""The scale (standard deviation) is 2^11 to 2^12 units, so int16 covers at least 8 times it."""

_LARGEST = 2**15 - 1


class FixedPoint(NamedTuple):
    """Fixed-point weights: the product `unit * units`."""

    units: NDArray[np.int16]
    """(..., C, D + 1), the bias last."""
    unit: float
    """A power of two."""

    @property
    def weights(self) -> NDArray[np.float64]:
        """The weights as float64, without rounding."""
        return self.units.astype(np.float64) * self.unit


def unit_of(scale: float) -> float:
    """Return the unit in which weights of standard deviation `scale` are stored.

    Examples:
        >>> unit_of(1.0) == 2.0**-11, unit_of(1.99) == 2.0**-11, unit_of(2.0) == 2.0**-10
        (True, True, True)
    """
    _, exponent = math.frexp(scale)
    return math.ldexp(1.0, exponent - 1 - SCALE_BITS)


def fixed_point(normals: NDArray[np.float64], scale: float) -> FixedPoint:
    """Round `scale * normals` to the unit of `scale`, which is 1/4096 to 1/2048 of `scale`.

    Values beyond 8 times the scale (one normal in 10^15) are clipped.

    Examples:
        >>> fixed_point(np.array([[1.0, -0.5], [0.3, 99.0]]), 1.0)
        FixedPoint(units=array([[ 2048, -1024],
               [  614, 32767]], dtype=int16), unit=0.00048828125)
    """
    unit = unit_of(scale)
    units = np.rint(normals * (scale / unit))
    return FixedPoint(np.clip(units, -_LARGEST, _LARGEST).astype(np.int16), unit)


def rounded(W: NDArray[np.float64], unit: float) -> NDArray[np.float64]:
    """Return `W` rounded to whole units."""
    return np.rint(W / unit) * unit
