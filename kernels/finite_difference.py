"""The numerical gradient of any function: one coordinate after another, as a black box.

    centred   (f(x + h e) - f(x - h e)) / 2h        two evaluations a coordinate
    forward   (f(x + h e) - f(x)) / h               one, and one of f(x) for all

It is the notes' `eval_numerical_gradient`, in float64. Nothing is known of f: it is only called.
What is divided by is the distance as floating point has it, `(x + h) - (x - h)` or
`(x + h) - x`. Steps that are not given are those of SciPy's `approx_derivative`: the cube root
of the machine epsilon, or its square root where forward and in the direction of the sign of x,
times `max(1, |x|)`.

The coordinates are cut into blocks, and `map` may take these wherever it likes.
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
"""Takes an array like x, to which it may do what it likes, and returns one number."""


class Map(Protocol):
    """Python's `map` of one iterable, or another that keeps the order."""

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterable[Any]:
        """Return what `function` makes of each of the items."""
        ...


class Scheme(StrEnum):
    """Which points a difference is taken between."""

    CENTRED = "centred"
    FORWARD = "forward"

    @property
    def width(self) -> int:
        """How many steps they are apart."""
        return 2 if self is Scheme.CENTRED else 1


class EvaluationError(ValueError):
    """What a function did instead of returning a finite number, and at which coordinate."""


def numerical_gradient(
    f: Function,
    x: ArrayLike,
    *,
    scheme: str = Scheme.CENTRED,
    step: ArrayLike | None = None,
    coordinates: ArrayLike | None = None,
    map: Map = map,  # noqa: A002 (as in SciPy's neighbours, a map-like callable)
    block: int = 64,
) -> Floats:
    """Return the numerical gradient of f at x, of the shape of x.

    `step` is one number, or one for every element of x. `coordinates` (k,) picks some of the
    flattened x, in any order: the result is then (k,). f is given an array of its own each
    time, so that x stays as it is. `map` takes `block` coordinates at a time.

    >>> numerical_gradient(lambda x: (x**2).sum(), [[1.0, -2.0], [0.5, 0.0]], step=2.0**-10)
    array([[ 2., -4.],
           [ 1.,  0.]])

    Raises EvaluationError, which names the coordinate, if f raises or returns what is no finite
    number, and ValueError for steps that are not positive, or lost beside x, or coordinates that
    are none.
    """
    x = np.array(x, np.float64)
    if not np.isfinite(x).all():
        raise ValueError("x must be finite numbers: there is no difference beside another")
    if block < 1:
        raise ValueError(f"a block has at least 1 coordinate, not {block}")
    chosen = _chosen(coordinates, x.size)
    points = _Points(f, x, Scheme(scheme), _steps(step, x, Scheme(scheme), chosen))
    if points.scheme is Scheme.FORWARD and len(chosen):
        points = points.with_value_at_x()
    blocks = (chosen[start : start + block] for start in range(0, len(chosen), block))
    quotients = np.fromiter(chain.from_iterable(map(points.quotients, blocks)), np.float64)
    return quotients if coordinates is not None else quotients.reshape(x.shape)


@dataclass(frozen=True, eq=False)
class _Points:
    """What is evaluated, and where: sent whole to wherever a block is taken."""

    f: Function
    x: Floats
    scheme: Scheme
    steps: Floats
    """(n,): one for each element of the flattened x."""
    at_x: float = math.nan
    """f(x), which all forward differences share."""

    def with_value_at_x(self) -> "_Points":
        """Return the same, with f(x) known."""
        value = _number(self.f, self.x.copy(), "x itself")
        return _Points(self.f, self.x, self.scheme, self.steps, value)

    def quotients(self, coordinates: Integers) -> list[float]:
        """Return the difference quotients of some coordinates."""
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
        """Return f where one element of x is another."""
        x = self.x.copy()
        x.flat[coordinate] = element
        place = ", ".join(map(str, np.unravel_index(coordinate, x.shape)))
        return _number(self.f, x, f"x[{place}] = {element!r} (coordinate {coordinate})")


def _number(f: Function, x: Floats, where: str) -> float:
    """Return f(x), which has to be one finite number; `where` says which x it is."""
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
            f"the function returned {_described(value)} at {where}; it is to return one number"
        ) from error
    if not math.isfinite(number):
        raise EvaluationError(f"the function is {number} at {where}, and has no gradient there")
    return number


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}"
    return repr(value)


def default_steps(x: Floats, scheme: Scheme) -> Floats:
    """Return SciPy's step for every element of x (n,).

    >>> default_steps(np.array([0.0, -8.0]), Scheme.FORWARD) * 2.0**26
    array([ 1., -8.])
    """
    size = np.maximum(1.0, np.abs(x))
    epsilon = np.finfo(np.float64).eps
    if scheme is Scheme.CENTRED:
        return np.asarray(epsilon ** (1 / 3) * size)
    return np.asarray(epsilon**0.5 * np.where(x >= 0, 1.0, -1.0) * size)


def _steps(step: ArrayLike | None, x: Floats, scheme: Scheme, chosen: Integers) -> Floats:
    """Return a step for every element of the flattened x, each of which moves it if chosen."""
    flat = x.ravel()
    if step is None:
        return default_steps(flat, scheme)
    given = np.asarray(step, np.float64)
    if given.ndim and given.shape != x.shape:
        raise ValueError(f"steps {given.shape} do not fit x {x.shape}; give one, or one for each")
    if not (np.isfinite(given).all() and (given > 0).all()):
        raise ValueError(f"the step of a difference must be a positive number, not {step}")
    steps = np.broadcast_to(given, x.shape).ravel()
    lost = chosen[flat[chosen] + steps[chosen] == flat[chosen]]
    if len(lost):
        raise ValueError(
            f"a step of {steps[lost[0]]} is lost beside {flat[lost[0]]}, coordinate {lost[0]} of "
            "x; take a larger one"
        )
    return steps


def _chosen(coordinates: ArrayLike | None, size: int) -> Integers:
    """Return the coordinates (k,), checked."""
    if coordinates is None:
        return np.arange(size)
    chosen = np.asarray(coordinates)
    if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
        raise ValueError(f"coordinates must be (k,) whole numbers, not {coordinates!r}")
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < size):
        raise ValueError(
            f"coordinates must be from 0 to {size - 1}, not {chosen.min()} to {chosen.max()}"
        )
    return chosen.astype(np.int64)
