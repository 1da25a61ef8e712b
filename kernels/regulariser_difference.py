"""Finite differences of `reg ||W||^2`, and bounds on the rounding of the gradient.

A square has no kink, but it is curved: a forward difference of `reg w^2` exceeds the slope by
`reg h` for every w. This term is subtracted here, so that only rounding remains.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.finite_difference import Scheme
from kernels.gradient_verdict import ROUNDOFF_UNIT

Floats = NDArray[np.float64]


class Quotient(NamedTuple):
    """A difference quotient and a bound on its rounding error, both (C, D + 1)."""

    value: Floats
    bound: Floats


def regulariser_quotient(
    W: Floats, reg: float, step: float, scheme: Scheme, *, reg_bias: bool = False
) -> Quotient:
    """Return the slope of `reg ||W||^2` in every weight, from the difference of two squares.

    `step` is the difference step h. Without `reg_bias`, the last column (the bias) is 0.

    Raises ValueError if h is lost in rounding when added to a weight.

    Examples:
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
        raise ValueError(
            f"a step of {step} is lost in rounding when added to weights of {np.abs(w).max()}"
        )
    slope = reg * (ahead * ahead - behind * behind) / apart
    bend = reg * (apart if scheme is Scheme.FORWARD else 0.0)
    value[:, :columns] = slope - bend
    squares = 4 * reg * (ahead * ahead + behind * behind) / apart
    bound[:, :columns] = ROUNDOFF_UNIT * (squares + 5 * np.abs(slope) + 2 * np.abs(bend))
    return Quotient(value, bound)


def gradient_roundoff(gradient: Floats, W: Floats, mean: Floats, reg: float) -> Floats:
    """Return a bound on the rounding error of a gradient from `kernels.partial.finalize`.

    Its data part is an exact sum divided by N, minus the mean image times the bias's gradient.
    """
    regularised = 2 * reg * np.abs(W)
    mean_part = np.append(mean, 0.0) * (np.abs(gradient[:, -1:]) + regularised[:, -1:])
    bound: Floats = ROUNDOFF_UNIT * (4 * np.abs(gradient) + 6 * mean_part + 8 * regularised)
    return bound
