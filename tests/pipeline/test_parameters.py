"""The parameters of training runs, their initial weights and their schedules."""

import math
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.check.parameters import GradientCheck
from pipeline.check.step_study import StepStudy
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Examples
from pipeline.inputs.weights import InitialWeights
from pipeline.sweep.parameters import Sweep
from pipeline.training.parameters import (
    LBFGS,
    METHODS,
    GradientDescent,
    MiniBatches,
    SmoothedHinge,
    TrainingParameters,
    methods_with,
)
from pipeline.training.schedules import parse_schedule
from tests.bits import bits

# fmt: off
INVALID = [
    (GradientDescent, {"steps": None}, "give either a number of steps or a number of epochs"),
    (GradientDescent, {"steps": 1, "epochs": 1},
     "give either a number of steps or a number of epochs"),
    (GradientDescent, {"steps": 0}, "the number of steps must be at least 1, not 0"),
    (GradientDescent, {"steps": -3}, "the number of steps must be at least 1, not -3"),
    (GradientDescent, {"epochs": 0}, "the number of epochs must be at least 1, not 0"),
    (MiniBatches, {"batch_size": 0}, "the batch size must be at least 1, not 0"),
    (GradientDescent, {"step_size": 0.0}, "the step size must be a positive number or `exact`, "
     "not 0.0"),
    (GradientDescent, {"step_size": -1.0}, "the step size must be a positive number or `exact`, "
     "not -1.0"),
    (GradientDescent, {"step_size": math.inf}, "the step size must be a positive number or "
     "`exact`, not inf"),
    (GradientDescent, {"step_size": math.nan}, "the step size must be a positive number or "
     "`exact`, not nan"),
    (GradientDescent, {"reg": -0.5}, "the regulariser must be a non-negative number, not -0.5"),
    (MiniBatches, {"epochs": 1, "reg": math.nan},
     "the regulariser must be a non-negative number, not nan"),
    (LBFGS, {"seed": -1}, "the seed must be from 0 to 2^64 - 1, not -1"),
    (SmoothedHinge, {"seed": 2**64}, "the seed must be from 0 to 2^64 - 1, not "
     "18446744073709551616"),
    (GradientDescent, {"tolerance": -0.1}, "the tolerance must be from 0 to below 1, not -0.1"),
    (LBFGS, {"tolerance": 1.0}, "the tolerance must be from 0 to below 1, not 1.0"),
    (MiniBatches, {"tolerance": math.nan}, "the tolerance must be from 0 to below 1, not nan"),
    (GradientDescent, {"momentum": 1.0}, "the momentum must be from 0 to below 1, not 1.0"),
    (GradientDescent, {"schedule": "linear"}, "the schedule cannot be 'linear'; write constant, "
     "cosine:STEPS, inverse:STEPS or staircase:FACTOR:STEPS, such as cosine:3000"),
    (MiniBatches, {"step_size": "exact"}, "the step size must be a positive number (only gd takes "
     "`exact`), not exact"),
    (GradientDescent, {"step_size": "exact", "momentum": 0.5},
     "the exact step size cannot be combined with momentum or a schedule"),
    (GradientDescent, {"step_size": "exact", "schedule": "cosine:5"},
     "the exact step size cannot be combined with momentum or a schedule"),
    (SmoothedHinge, {"reg": 1.0, "reg_bias": False}, "a lower bound needs a regulariser that "
     "includes the bias; give --reg above 0 and --reg-bias"),
    (SmoothedHinge, {"reg": 0.0}, "a lower bound needs a regulariser that includes the bias; give "
     "--reg above 0 and --reg-bias"),
    (SmoothedHinge, {"gap": 0.0}, "the gap must be above 0 and below 1, not 0.0"),
    (LBFGS, {"steps": 0}, "the number of steps must be at least 1, not 0"),
    (LBFGS, {"dtype": "float16"}, "the dtype must be float32 or float64, not float16"),
]
# fmt: on


@pytest.mark.parametrize(("kind", "given", "message"), INVALID)
def test_invalid_parameters_raise_pipeline_error(
    kind: Any, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(PipelineError) as caught:
        kind(**given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "parameters",
    [
        GradientDescent(steps=1),
        MiniBatches(epochs=1, batch_size=1, reg=0.0, seed=0, tolerance=0.0),
        GradientDescent(steps=10**9, step_size=5e-324, seed=2**64 - 1, tolerance=0.999),
    ],
)
def test_parameters_at_their_limits_are_accepted(parameters: GradientDescent | MiniBatches) -> None:
    assert parameters.total_steps(1) >= 1


@pytest.mark.parametrize("method", METHODS)
def test_json_round_trip_keeps_the_class_and_the_values(method: str) -> None:
    parameters = METHODS[method]()
    assert parameters.method == method
    union = TypeAdapter[Any](TrainingParameters)
    read = union.validate_json(union.dump_json(parameters), strict=True)
    assert (type(read), read) == (type(parameters), parameters)


# fmt: off
METHODS_WITH = {
    # parameters that only some methods have; all methods have every other parameter
    "epochs": {"gd", "minibatch"},
    "batch_size": {"minibatch"},
    "step_size": {"gd", "minibatch"},
    "schedule": {"gd", "minibatch"},
    "momentum": {"gd", "minibatch"},
    "nesterov": {"gd", "minibatch"},
    "placement": {"gd", "minibatch"},
    "gap": {"smoothed"},
    "tolerance": {"gd", "minibatch", "lbfgs"},
}
# fmt: on


def test_methods_with_returns_the_methods_that_have_a_parameter() -> None:
    names = {field.name for kind in METHODS.values() for field in fields(kind)}
    for name in names:
        assert set(methods_with(name)) == METHODS_WITH.get(name, set(METHODS)), name
    assert methods_with("workers") == []


@pytest.mark.parametrize(
    "given",
    [
        {"method": "gd", "batch_size": 256},
        {"method": "lbfgs", "placement": "auto"},
        {"method": "smoothed", "tolerance": 0.0},
        {"method": "adam"},  # no such method
    ],
)
def test_parameter_that_a_method_lacks_raises_validation_error(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter[Any](TrainingParameters).validate_python(given)


def test_identity_is_the_recorded_json_and_differs_between_runs() -> None:
    """The JSON must not change: later versions must recognise the journals of earlier ones."""
    assert MiniBatches(epochs=2, reg=1e3, init="normal:1e-3").identity == (
        '{"batch_size": 256, "dtype": "float32", "epochs": 2, "init": "normal:1e-3", '
        '"method": "minibatch", "momentum": 0.0, "nesterov": false, "placement": "auto", '
        '"reg": 1000.0, "reg_bias": false, "schedule": "constant", "seed": 0, '
        '"step_size": 1e-07, "steps": null, "tolerance": 0.0}'
    )
    assert LBFGS(reg=1.0, seed=3).identity == (
        '{"dtype": "float32", "init": "zeros", "method": "lbfgs", "reg": 1.0, "reg_bias": false, '
        '"seed": 3, "steps": 30, "tolerance": 0.0}'
    )
    every = [METHODS[method](seed=seed).identity for method in METHODS for seed in (0, 1)]
    assert len(set(every)) == len(every)


def test_epochs_replace_the_default_number_of_steps() -> None:
    """Prefect's form fills in the default number of steps. A user who adds epochs wants epochs."""
    assert MiniBatches(epochs=2) == MiniBatches(steps=3000, epochs=2)
    assert MiniBatches(epochs=2).steps is None
    assert (GradientDescent().steps, MiniBatches().steps) == (200, 3000)


INVALID_INITIAL_WEIGHTS = [
    "", "one", "zeros:", "zeros:1", "normal", "normal:", "normal:x", "normal:0", "normal:-1",
    "normal:inf", "normal:nan", "Normal:1", "uniform", "uniform:-1", "normal:1:2",
]  # fmt: skip


@pytest.mark.parametrize("text", INVALID_INITIAL_WEIGHTS)
def test_invalid_initial_weights_raise_pipeline_error(text: str) -> None:
    message = (
        f"the initial weights cannot be {text!r}; write `zeros`, or `normal:SCALE` or "
        "`uniform:SCALE` with a positive number, such as `normal:1e-3`"
    )
    with pytest.raises(PipelineError) as caught:
        InitialWeights.parse(text)
    assert str(caught.value) == message
    with pytest.raises(PipelineError):
        GradientDescent(init=text)


def test_initial_weights_have_the_requested_distribution() -> None:
    zeros = InitialWeights.parse("zeros").weights(10, seed=3)
    assert zeros.dtype == np.float64
    np.testing.assert_array_equal(zeros, np.zeros((10, 3073)))
    one, other = (InitialWeights.parse("normal:1e-3").weights(10, seed) for seed in (1, 2))
    assert one.shape == (10, 3073)
    assert one.std() == pytest.approx(1e-3, rel=0.02)
    assert abs(one.mean()) < 3e-5  # 5 standard errors
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03
    assert bits(one) == bits(InitialWeights.parse("normal:0.001").weights(10, seed=1))
    uniform = InitialWeights.parse("uniform:1e-3").weights(10, seed=1)
    assert 0 <= uniform.min() < 1e-6
    assert 0.999e-3 < uniform.max() < 1e-3
    assert uniform.mean() == pytest.approx(0.5e-3, rel=0.02)
    np.testing.assert_array_equal(InitialWeights.parse("normal:2e-3").weights(10, seed=1), 2 * one)


# fmt: off
TOTAL_STEPS = [
    # parameters, steps over 1,000 rows
    (GradientDescent(steps=7), 7),
    (GradientDescent(epochs=7), 7),                      # an epoch over all rows is one step
    (MiniBatches(steps=7), 7),
    (MiniBatches(epochs=2, batch_size=100), 20),
    (MiniBatches(epochs=2, batch_size=300), 8),          # the fourth batch has 100 rows
    (MiniBatches(epochs=1, batch_size=1), 1000),
    (MiniBatches(epochs=3, batch_size=1000), 3),
]
# fmt: on


@pytest.mark.parametrize(("parameters", "steps"), TOTAL_STEPS)
def test_total_steps_are_computed_from_steps_or_epochs(
    parameters: GradientDescent | MiniBatches, steps: int
) -> None:
    assert parameters.total_steps(1000) == steps


@pytest.mark.parametrize(
    "parameters", [MiniBatches(steps=5, batch_size=1001), MiniBatches(epochs=5, batch_size=1001)]
)
def test_batch_larger_than_the_data_set_raises_pipeline_error(parameters: MiniBatches) -> None:
    with pytest.raises(PipelineError, match=r"batch size must be from 1 to 1000, .*, not 1001$"):
        parameters.recipe(1000)


def test_recipe_has_the_batches_of_its_method() -> None:
    assert GradientDescent(steps=5).recipe(10).batches(3) is None
    sampled = MiniBatches(steps=5, batch_size=4).recipe(10)
    shuffled = MiniBatches(epochs=5, batch_size=4).recipe(10)
    for recipe, sizes in ((sampled, [4, 4, 4]), (shuffled, [4, 4, 2])):
        batches = [recipe.batches(step) for step in range(3)]
        assert [batch is not None and len(batch) for batch in batches] == sizes


@pytest.mark.parametrize(
    "text",
    ["", "cosine", "cosine:0", "cosine:1.5", "cosine:x", "constant:1", "inverse:-3", "inverse:inf",
     "staircase:0.1", "staircase:0:5", "staircase:0.1:5:6", "staircase:nan:5", "cosine:nan"],
)  # fmt: skip
def test_invalid_schedule_raises_pipeline_error(text: str) -> None:
    with pytest.raises(PipelineError, match="the schedule cannot be"):
        parse_schedule(text, 1.0)


TEXTS: dict[str, tuple[Any, str, list[str], Callable[[str], Any]]] = {
    # a class, its field that is a text, the words it may begin with, and what raises if it is wrong
    "initial weights": (
        GradientDescent, "init", ["zeros", "normal", "uniform"], InitialWeights.parse
    ),
    "schedule": (
        GradientDescent, "schedule", ["constant", "cosine", "inverse", "staircase"],
        lambda text: parse_schedule(text, 1.0),
    ),
    "examples": (GradientCheck, "examples", ["", "all", "first"], Examples.parse),
    "exponents": (Sweep, "exponents", [""], lambda text: Sweep(exponents=text)),
    "steps": (StepStudy, "steps", [""], lambda text: StepStudy(steps=text)),
}  # fmt: skip
NUMBERS = ["-10", "+3", "1", "7", "0.1", "1e-3", "1E+2", ".5", "5.", " 8 ", "1_0", "inf", "nan"]


@pytest.mark.parametrize("kind", TEXTS)
@given(data=st.data(), numbers=st.lists(st.sampled_from(NUMBERS), max_size=2))
def test_schema_accepts_every_text_that_its_parser_accepts(
    kind: str, data: st.DataObject, numbers: list[str]
) -> None:
    """The schema is what a Prefect server checks. It may be less strict than the parser."""
    parameters, field, words, parse = TEXTS[kind]
    pattern = TypeAdapter(parameters).json_schema()["properties"][field]["pattern"]
    word = data.draw(st.sampled_from(words))
    text = ":".join([word, *numbers] if word else numbers)
    try:
        parse(text)
    except PipelineError:
        return
    assert re.search(pattern, text), text
