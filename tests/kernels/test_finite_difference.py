"""The numerical gradient of a black box: comparison with SciPy's bit for bit, and errors."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize._numdiff import approx_derivative

from kernels.finite_difference import EvaluationError, Scheme, numerical_gradient
from tests.bits import bits

Floats = NDArray[np.float64]
schemes = pytest.mark.parametrize("scheme", list(Scheme))
METHODS: dict[Scheme, Literal["3-point", "2-point"]] = {
    Scheme.CENTRED: "3-point",
    Scheme.FORWARD: "2-point",
}


def cubes(x: Floats) -> float:
    return math.fsum(v**3 - 2 * v for v in x.flat)


def waves(x: Floats) -> float:
    return math.fsum(k * math.sin(v) for k, v in enumerate(x.flat, 1))


def coupled(x: Floats) -> float:
    return math.sqrt(1 + math.fsum(v * v for v in x.flat)) * math.cos(float(x.flat[0]))


def kinked(x: Floats) -> float:
    return math.fsum(max(0.0, v - 0.5) for v in x.flat)


functions = pytest.mark.parametrize("f", [cubes, waves, coupled, kinked])


def points(elements: st.SearchStrategy[float]) -> st.SearchStrategy[Floats]:
    return st.lists(elements, min_size=1, max_size=9).map(np.array)


@functions
@schemes
@given(x=points(st.floats(-1e3, 1e3)))
def test_default_steps_give_scipys_gradient_bit_for_bit(
    f: Callable[[Floats], float], scheme: Scheme, x: Floats
) -> None:
    expected: Any = approx_derivative(f, x, method=METHODS[scheme])
    assert bits(numerical_gradient(f, x, scheme=scheme)) == bits(np.atleast_1d(expected))


@functions
@schemes
@given(data=st.data())
def test_given_steps_give_scipys_gradient_bit_for_bit(
    f: Callable[[Floats], float], scheme: Scheme, data: st.DataObject
) -> None:
    x = data.draw(points(st.floats(-1e3, 1e3)), label="x")
    size = st.floats(1e-9, 10.0)  # none is lost in rounding when added to 1e3
    steps = np.array(data.draw(st.lists(size, min_size=len(x), max_size=len(x)), label="steps"))
    expected: Any = approx_derivative(f, x, method=METHODS[scheme], abs_step=steps)
    assert bits(numerical_gradient(f, x, scheme=scheme, step=steps)) == bits(expected)
    one: Any = approx_derivative(f, x, method=METHODS[scheme], abs_step=float(steps[0]))
    assert bits(numerical_gradient(f, x, scheme=scheme, step=float(steps[0]))) == bits(one)


@schemes
def test_200_coordinates_give_scipys_gradient_bit_for_bit(scheme: Scheme) -> None:
    x = np.random.default_rng(4).normal(scale=30, size=200)
    expected: Any = approx_derivative(cubes, x, method=METHODS[scheme])
    assert bits(numerical_gradient(cubes, x, scheme=scheme)) == bits(expected)


# f = 3 a^2 + 4 a b - b^2 + 8 b at (2, -1): its slopes are 6 a + 4 b = 8 and 4 a - 2 b + 8 = 18.
# A forward difference of h also contains the second-order terms 3 h^2 and -h^2.
def quadratic(x: Floats) -> float:
    a, b = x.tolist()
    return float(3 * a * a + 4 * a * b - b * b + 8 * b)


@pytest.mark.parametrize("h", [2.0**-10, 0.5, 8.0])
def test_gradient_of_a_quadratic_matches_hand_worked_values(h: float) -> None:
    assert numerical_gradient(quadratic, [2.0, -1.0], step=h).tolist() == [8, 18]
    forward = numerical_gradient(quadratic, [2.0, -1.0], step=h, scheme="forward")
    assert forward.tolist() == [8 + 3 * h, 18 - h]
    each = numerical_gradient(quadratic, [2, -1], step=[h, h / 4], scheme="forward")
    assert each.tolist() == [8 + 3 * h, 18 - h / 4]


@schemes
def test_f_may_overwrite_its_argument(scheme: Scheme) -> None:
    def overwriting(x: Floats) -> float:
        value = cubes(x)
        x[:] = math.nan
        return value

    x = np.linspace(-2, 3, 6)
    untouched = x.copy()
    assert bits(numerical_gradient(overwriting, x, scheme=scheme)) == bits(
        numerical_gradient(cubes, x, scheme=scheme)
    )
    assert bits(x) == bits(untouched)


@schemes
def test_x_is_not_modified_if_f_raises(scheme: Scheme) -> None:
    def raising(x: Floats) -> float:
        x += 1
        if x[2] != 3.0:
            raise RuntimeError("no")
        return 0.0

    x = np.array([0.0, 1.0, 2.0])
    with pytest.raises(EvaluationError):
        numerical_gradient(raising, x, scheme=scheme)
    assert x.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("scheme", "evaluations"), [("forward", 13), ("centred", 24)])
def test_f_is_evaluated_once_per_point(scheme: str, evaluations: int) -> None:
    seen = []

    def counted(x: Floats) -> float:
        seen.append(x.tobytes())
        return 0.0

    numerical_gradient(counted, np.ones((3, 4)), scheme=scheme, block=5)
    assert len(seen) == len(set(seen)) == evaluations


@schemes
def test_coordinates_may_be_in_any_order_and_repeat(scheme: Scheme) -> None:
    x = np.random.default_rng(0).normal(size=(4, 5))
    whole = numerical_gradient(coupled, x, scheme=scheme)
    picked = [7, 0, 19, 7]
    some = numerical_gradient(coupled, x, scheme=scheme, coordinates=picked)
    assert bits(some) == bits(whole.ravel()[picked])


@schemes
def test_empty_selection_of_coordinates_needs_no_evaluation(scheme: Scheme) -> None:
    def never(x: Floats) -> float:
        raise AssertionError("evaluated")

    assert numerical_gradient(never, [1.0], scheme=scheme, coordinates=[]).shape == (0,)
    assert numerical_gradient(never, np.ones((0, 3)), scheme=scheme).shape == (0, 3)


@schemes
@pytest.mark.parametrize("block", [1, 3, 20, 1000])
def test_gradient_is_bit_identical_for_any_blocks_and_threads(scheme: Scheme, block: int) -> None:
    x = np.random.default_rng(1).normal(size=20)
    plain = numerical_gradient(coupled, x, scheme=scheme)
    assert bits(numerical_gradient(coupled, x, scheme=scheme, block=block)) == bits(plain)
    with ThreadPoolExecutor(3) as pool:
        threaded = numerical_gradient(coupled, x, scheme=scheme, block=block, map=pool.map)
    assert bits(threaded) == bits(plain)


@schemes
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 1, 3)])
def test_gradient_has_the_shape_of_x(scheme: Scheme, shape: tuple[int, ...]) -> None:
    x = np.arange(1.0, 1 + math.prod(shape)).reshape(shape)
    seen = set()

    def shaped(moved: Floats) -> float:
        seen.add(moved.shape)
        return cubes(moved)

    flat = numerical_gradient(cubes, x.ravel(), scheme=scheme)
    assert bits(numerical_gradient(shaped, x, scheme=scheme)) == bits(flat.reshape(shape))
    assert seen == {shape}


def test_memory_layout_of_x_does_not_change_the_gradient() -> None:
    x = np.arange(12.0).reshape(3, 4)
    expected = numerical_gradient(waves, x)
    assert bits(numerical_gradient(waves, np.asfortranarray(x))) == bits(expected)
    assert bits(numerical_gradient(waves, x.tolist())) == bits(expected)


def divide_by_zero(x: Floats) -> float:
    raise ZeroDivisionError("by what?")


@schemes
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (divide_by_zero, "raised ZeroDivisionError at {}: by what"),
        (lambda _: math.nan, "is nan at {}"),
        (lambda _: -math.inf, "is -inf at {}"),
        (lambda _: np.zeros(1), r"an array of shape \(1,\) at {}"),
        (lambda _: "much", "returned 'much' at {}"),
        (lambda _: None, "returned None at {}"),
        (lambda _: 1j, "returned 1j at {}"),
    ],
)
def test_bad_value_raises_and_names_its_coordinate(
    scheme: Scheme, answer: Callable[[Floats], Any], message: str
) -> None:
    def f(x: Floats) -> Any:
        return answer(x) if x[1, 1] != 0 else 0.0

    where = r"x\[1, 1\] = -?0.5 \(coordinate 4\)"
    with pytest.raises(EvaluationError, match=message.format(where)):
        numerical_gradient(f, np.zeros((2, 3)), scheme=scheme, step=0.5)


def test_bad_value_at_x_itself_raises() -> None:
    with pytest.raises(EvaluationError, match="inf at x itself"):
        numerical_gradient(lambda _: math.inf, [1.0], scheme="forward")


@schemes
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0.0}, "positive number, not 0"),
        ({"step": -1e-5}, "positive number, not -1e-05"),
        ({"step": math.nan}, "positive number, not nan"),
        ({"step": math.inf}, "positive number, not inf"),
        ({"step": [0.1, 0.1, 0.0]}, "positive number"),
        ({"step": [0.1, 0.1]}, r"steps \(2,\) do not fit x \(3,\)"),
        ({"step": [[0.1, 0.1, 0.1]]}, r"steps \(1, 3\) do not fit"),
        ({"step": 1e-12}, r"when added to 1000000.0, coordinate 2 of x"),
        ({"coordinates": [0, 3]}, "from 0 to 2, not 0 to 3"),
        ({"coordinates": [-1]}, "from 0 to 2, not -1 to -1"),
        ({"coordinates": [0.5]}, "whole numbers"),
        ({"coordinates": [[0, 1]]}, "whole numbers"),
    ],
)
def test_bad_steps_and_coordinates_raise_value_error(
    scheme: Scheme, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        numerical_gradient(cubes, [0.0, 1.0, 1e6], scheme=scheme, **options)


def test_step_may_be_lost_in_rounding_at_unselected_coordinates() -> None:
    x = [0.0, 1e6]
    with pytest.raises(ValueError, match="lost in rounding"):
        numerical_gradient(cubes, x, step=2.0**-40)
    assert numerical_gradient(cubes, x[:1], step=2.0**-40).tolist() == [-2]
    kept = numerical_gradient(lambda x: 8 * x[0], x, step=2.0**-40, coordinates=[0])
    assert kept.tolist() == [8]


def test_unknown_scheme_raises_value_error() -> None:
    with pytest.raises(ValueError, match="backward"):
        numerical_gradient(cubes, [1.0], scheme="backward")
