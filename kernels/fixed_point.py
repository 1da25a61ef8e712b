"""Weights as 16-bit fixed-point numbers: their scores on bytes are exact integers.

A weight is a whole number of units, the unit a power of two. Products with pixels of 0 to
255 and their sums are then integers, twice as quick as float32 on a processor that
multiplies pairs of int16; and the scores of a sum of weights are, to the last bit, the sum
of their scores.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SCALE_BITS = 11
"""A weight's scale is 2^11 to 2^12 units, so that int16 holds 8 times the scale at least."""

_LARGEST = 2**15 - 1


class FixedPoint(NamedTuple):
    """Weights `unit * units`."""

    units: NDArray[np.int16]
    """(..., C, D + 1), the bias last."""
    unit: float
    """A power of two."""

    @property
    def weights(self) -> NDArray[np.float64]:
        """The weights as float64, which holds them exactly."""
        return self.units.astype(np.float64) * self.unit


def unit_of(scale: float) -> float:
    """Return the unit in which weights of standard deviation `scale` are kept.

    >>> unit_of(1.0) == 2.0**-11, unit_of(1.99) == 2.0**-11, unit_of(2.0) == 2.0**-10
    (True, True, True)
    """
    _, exponent = math.frexp(scale)
    return math.ldexp(1.0, exponent - 1 - SCALE_BITS)


def fixed_point(normals: NDArray[np.float64], scale: float) -> FixedPoint:
    """Round `scale * normals` to the unit of `scale`: to some 4,000th part of `scale`.

    Beyond 8 times the scale (one normal in 10^15) they are cut off there.

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
