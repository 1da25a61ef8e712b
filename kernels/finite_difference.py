"""The numerical gradient of any function, one coordinate at a time.

    centred   (f(x + h e) - f(x - h e)) / 2h        two evaluations per coordinate
    forward   (f(x + h e) - f(x)) / h               one per coordinate, plus one of f(x)

This is `eval_numerical_gradient` of the CS231n notes, in float64. The function is a black box: it
is only called. The divisor is the distance after rounding, `(x + h) - (x - h)` or `(x + h) - x`.

The default difference steps are those of SciPy's `approx_derivative`, relative to `max(1, |x|)`:
the cube root of the machine epsilon if centred, its square root with the sign of x if forward.

The coordinates are split into blocks. `map` decides where the blocks are computed.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

Function = Callable[[Floats], Any]
"""A function that returns one number for an array of the shape of x. It may overwrite the array."""


class Map(Protocol):
    """Python's `map` over one iterable, or a replacement that keeps the order."""

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterable[Any]:
        """Return `function(item)` for each item, in order."""
        ...


class Scheme(StrEnum):
    """The points between which a difference is taken."""

    CENTRED = "centred"
    FORWARD = "forward"

    @property
    def width(self) -> int:
        """The distance between the points, in difference steps h."""
        return 2 if self is Scheme.CENTRED else 1


class EvaluationError(ValueError):
    """A failed evaluation: the function raised, or did not return one finite number."""


def numerical_gradient(
    f: Function,
    x: ArrayLike,
    *,
    scheme: str = Scheme.CENTRED,
    step: ArrayLike | None = None,
    coordinates: ArrayLike | None = None,
    map: Map = map,  # noqa: A002 (a map-like callable)
    block: int = 64,
) -> Floats:
    """Return the numerical gradient of f at x, in the shape of x.

    `step` is the difference step h: one number, or one per element of x. `coordinates` (k,)
    selects elements of the flattened x, in any order; the result then has shape (k,). Every call
    of f gets its own copy of x, so x is never modified. Each item passed to `map` is a block of up
    to `block` coordinates.

    Examples:
        >>> numerical_gradient(lambda x: (x**2).sum(), [[1.0, -2.0], [0.5, 0.0]], step=2.0**-10)
        array([[ 2., -4.],
               [ 1.,  0.]])

    Raises EvaluationError, which names the coordinate (or x itself), if f raises or does not return
    one finite number. Raises ValueError if x is non-finite, if a step is not positive or is lost in
    rounding when added to x, or if a coordinate does not exist.
    """
    x = np.array(x, np.float64)
    if not np.isfinite(x).all():
        raise ValueError("x must contain only finite numbers, not inf or nan")
    if block < 1:
        raise ValueError(f"a block must have at least 1 coordinate, not {block}")
    chosen = _chosen(coordinates, x.size)
    points = _Points(f, x, Scheme(scheme), _steps(step, x, Scheme(scheme), chosen))
    if points.scheme is Scheme.FORWARD and len(chosen):
        points = points.with_value_at_x()
    blocks = (chosen[start : start + block] for start in range(0, len(chosen), block))
    quotients = np.fromiter(chain.from_iterable(map(points.quotients, blocks)), np.float64)
    return quotients if coordinates is not None else quotients.reshape(x.shape)


@dataclass(frozen=True, eq=False)
class _Points:
    """A function, a point and the difference steps. They are sent along with each block."""

    f: Function
    x: Floats
    scheme: Scheme
    steps: Floats
    """(n,): one per element of the flattened x."""
    at_x: float = math.nan
    """f(x), which all forward differences share."""

    def with_value_at_x(self) -> "_Points":
        """Return a copy with f(x) evaluated."""
        value = _number(self.f, self.x.copy(), "x itself")
        return _Points(self.f, self.x, self.scheme, self.steps, value)

    def quotients(self, coordinates: Integers) -> list[float]:
        """Return the difference quotients of these coordinates."""
        return [self._quotient(coordinate) for coordinate in coordinates.tolist()]

    def _quotient(self, coordinate: int) -> float:
        here, h = float(self.x.flat[coordinate]), float(self.steps[coordinate])
        if self.scheme is Scheme.FORWARD:
            ahead = here + h
            return (self._value(coordinate, ahead) - self.at_x) / (ahead - here)
        behind, ahead = here - h, here + h
        difference = -self._value(coordinate, behind) + self._value(coordinate, ahead)
        return difference / (ahead - behind)

    def _value(self, coordinate: int, element: float) -> float:
        """Return f at x with one element replaced."""
        x = self.x.copy()
        x.flat[coordinate] = element
        place = ", ".join(map(str, np.unravel_index(coordinate, x.shape)))
        return _number(self.f, x, f"x[{place}] = {element!r} (coordinate {coordinate})")


def _number(f: Function, x: Floats, where: str) -> float:
    """Return f(x), which must be one finite number; `where` describes x in error messages."""
    try:
        value = f(x)
    except Exception as error:
        raise EvaluationError(
            f"the function raised {type(error).__name__} at {where}: {error}"
        ) from error
    try:
        if isinstance(value, str | bytes) or np.ndim(value):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise EvaluationError(
            f"the function returned {_described(value)} at {where}; it must return one number"
        ) from error
    if not math.isfinite(number):
        raise EvaluationError(f"the function is {number} at {where}, so it has no gradient there")
    return number


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}"
    return repr(value)


def default_steps(x: Floats, scheme: Scheme) -> Floats:
    """Return SciPy's default difference step for every element of x (n,).

    Examples:
        >>> default_steps(np.array([0.0, -8.0]), Scheme.FORWARD) * 2.0**26
        array([ 1., -8.])
    """
    size = np.maximum(1.0, np.abs(x))
    epsilon = np.finfo(np.float64).eps
    if scheme is Scheme.CENTRED:
        return np.asarray(epsilon ** (1 / 3) * size)
    return np.asarray(epsilon**0.5 * np.where(x >= 0, 1.0, -1.0) * size)


def _steps(step: ArrayLike | None, x: Floats, scheme: Scheme, chosen: Integers) -> Floats:
    """Return one difference step per element of the flattened x.

    Raises ValueError if a step is not positive, or adding it changes nothing at a chosen element.
    """
    flat = x.ravel()
    if step is None:
        return default_steps(flat, scheme)
    given = np.asarray(step, np.float64)
    if given.ndim and given.shape != x.shape:
        raise ValueError(
            f"steps {given.shape} do not fit x {x.shape}; give one step, or one per element"
        )
    if not (np.isfinite(given).all() and (given > 0).all()):
        raise ValueError(f"the step of a difference must be a positive number, not {step}")
    steps = np.broadcast_to(given, x.shape).ravel()
    lost = chosen[flat[chosen] + steps[chosen] == flat[chosen]]
    if len(lost):
        raise ValueError(
            f"a step of {steps[lost[0]]} is lost in rounding when added to {flat[lost[0]]}, "
            f"coordinate {lost[0]} of x; use a larger step"
        )
    return steps


def _chosen(coordinates: ArrayLike | None, size: int) -> Integers:
    """Return the coordinates (k,); raise ValueError if one does not exist."""
    if coordinates is None:
        return np.arange(size)
    chosen = np.asarray(coordinates)
    if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
        raise ValueError(f"coordinates must be whole numbers of shape (k,), not {coordinates!r}")
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < size):
        raise ValueError(
            f"coordinates must be from 0 to {size - 1}, not {chosen.min()} to {chosen.max()}"
        )
    return chosen.astype(np.int64)
