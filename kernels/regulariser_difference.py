"""Finite differences of `reg ||W||^2`, and what rounds in the gradient that they are held against.

A square has no kink, but it bends: a forward difference of `reg w^2` is off by `reg h`, whatever
w is. That is taken away here, so that what is returned is the slope itself, but for rounding.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.finite_difference import Scheme
from kernels.gradient_verdict import ROUNDOFF_UNIT

Floats = NDArray[np.float64]


class Quotient(NamedTuple):
    """A difference quotient, and what rounding can make of it at most; both (C, D + 1)."""

    value: Floats
    bound: Floats


def regulariser_quotient(
    W: Floats, reg: float, step: float, scheme: Scheme, *, reg_bias: bool = False
) -> Quotient:
    """Return the slope of `reg ||W||^2` in every weight, by its two squares' difference.

    Without `reg_bias` the last column, the bias, is 0.

    Raises ValueError if the step is lost beside a weight.

    >>> regulariser_quotient(np.array([[1.5, 9.0]]), 2.0, 2.0**-20, Scheme.FORWARD).value
    array([[6., 0.]])
    """
    value, bound = np.zeros((2, *W.shape))
    columns = W.shape[1] if reg_bias else W.shape[1] - 1
    if not reg:
        return Quotient(value, bound)
    w = W[:, :columns]
    ahead, behind = w + step, w - step if scheme is Scheme.CENTRED else w
    apart = ahead - behind
    if (apart == 0).any():
        raise ValueError(f"a step of {step} is lost beside weights of {np.abs(w).max()}")
    slope = reg * (ahead * ahead - behind * behind) / apart
    bend = reg * (apart if scheme is Scheme.FORWARD else 0.0)
    value[:, :columns] = slope - bend
    squares = 4 * reg * (ahead * ahead + behind * behind) / apart
    bound[:, :columns] = ROUNDOFF_UNIT * (squares + 5 * np.abs(slope) + 2 * np.abs(bend))
    return Quotient(value, bound)


def gradient_roundoff(gradient: Floats, W: Floats, mean: Floats, reg: float) -> Floats:
    """Return what rounding can make of a gradient that `kernels.partial.finalize` took, at most.

    Its data part is an exact sum, divided by N, less the mean image times the bias's part.
    """
    regularised = 2 * reg * np.abs(W)
    mean_part = np.append(mean, 0.0) * (np.abs(gradient[:, -1:]) + regularised[:, -1:])
    bound: Floats = ROUNDOFF_UNIT * (4 * np.abs(gradient) + 6 * mean_part + 8 * regularised)
    return bound
