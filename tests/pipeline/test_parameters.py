"""What a run may be asked for, and where its weights start."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.inputs.errors import PipelineError
from pipeline.inputs.weights import InitialWeights
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
BAD = [
    (GradientDescent, {"steps": None}, "give either a number of steps or a number of epochs"),
    (GradientDescent, {"steps": 1, "epochs": 1},
     "give either a number of steps or a number of epochs"),
    (GradientDescent, {"steps": 0}, "the steps must be at least 1, not 0"),
    (GradientDescent, {"steps": -3}, "the steps must be at least 1, not -3"),
    (GradientDescent, {"epochs": 0}, "the epochs must be at least 1, not 0"),
    (MiniBatches, {"batch_size": 0}, "the batch size must be at least 1, not 0"),
    (GradientDescent, {"step_size": 0.0}, "the step size must be a positive number or `exact`, "
     "not 0.0"),
    (GradientDescent, {"step_size": -1.0}, "the step size must be a positive number or `exact`, "
     "not -1.0"),
    (GradientDescent, {"step_size": math.inf}, "the step size must be a positive number or "
     "`exact`, not inf"),
    (GradientDescent, {"step_size": math.nan}, "the step size must be a positive number or "
     "`exact`, not nan"),
    (GradientDescent, {"reg": -0.5}, "the regulariser must be a number that is not negative, "
     "not -0.5"),
    (MiniBatches, {"epochs": 1, "reg": math.nan}, "the regulariser must be a number that is not "
     "negative, not nan"),
    (LBFGS, {"seed": -1}, "the seed must be from 0 to 2^64 - 1, not -1"),
    (SmoothedHinge, {"seed": 2**64}, "the seed must be from 0 to 2^64 - 1, not "
     "18446744073709551616"),
    (GradientDescent, {"tolerance": -0.1}, "the tolerance must be from 0 to below 1, not -0.1"),
    (LBFGS, {"tolerance": 1.0}, "the tolerance must be from 0 to below 1, not 1.0"),
    (MiniBatches, {"tolerance": math.nan}, "the tolerance must be from 0 to below 1, not nan"),
    (GradientDescent, {"momentum": 1.0}, "the momentum must be from 0 to below 1, not 1.0"),
    (GradientDescent, {"schedule": "linear"}, "no schedule is 'linear'; write constant, "
     "cosine:STEPS, inverse:STEPS or staircase:FACTOR:STEPS, such as cosine:3000"),
    (MiniBatches, {"step_size": "exact"}, "the step size must be a positive number (only gd takes "
     "`exact`), not exact"),
    (GradientDescent, {"step_size": "exact", "momentum": 0.5},
     "the exact step size takes no momentum and no schedule"),
    (GradientDescent, {"step_size": "exact", "schedule": "cosine:5"},
     "the exact step size takes no momentum and no schedule"),
    (SmoothedHinge, {"reg": 1.0, "reg_bias": False}, "a lower bound needs a regulariser that "
     "includes the bias; give --reg above 0 and --reg-bias"),
    (SmoothedHinge, {"reg": 0.0}, "a lower bound needs a regulariser that includes the bias; give "
     "--reg above 0 and --reg-bias"),
    (SmoothedHinge, {"gap": 0.0}, "the gap must be above 0 and below 1, not 0.0"),
    (LBFGS, {"steps": 0}, "the steps must be at least 1, not 0"),
    (LBFGS, {"dtype": "float16"}, "the dtype must be float32 or float64, not float16"),
]
# fmt: on


@pytest.mark.parametrize(("kind", "given", "message"), BAD)
def test_bad_parameters(kind: Any, given: dict[str, Any], message: str) -> None:
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
def test_parameters_at_their_limits(parameters: GradientDescent | MiniBatches) -> None:
    assert parameters.total_steps(1) >= 1


@pytest.mark.parametrize("method", METHODS)
def test_parameters_are_told_apart_by_their_method_in_json(method: str) -> None:
    parameters = METHODS[method]()
    assert parameters.method == method
    union = TypeAdapter[Any](TrainingParameters)
    read = union.validate_json(union.dump_json(parameters), strict=True)
    assert (type(read), read) == (type(parameters), parameters)


# fmt: off
TAKEN_BY = {
    # what only some methods take; all others take every method's
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


def test_a_method_takes_what_is_its_own() -> None:
    names = {field.name for kind in METHODS.values() for field in fields(kind)}
    for name in names:
        assert set(methods_with(name)) == TAKEN_BY.get(name, set(METHODS)), name
    assert methods_with("workers") == []


@pytest.mark.parametrize(
    "given",
    [
        {"method": "gd", "batch_size": 256},
        {"method": "lbfgs", "placement": "auto"},
        {"method": "smoothed", "tolerance": 0.0},
        {"method": "adam"},
    ],
)
def test_json_with_what_a_method_does_not_take_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter[Any](TrainingParameters).validate_python(given)


def test_an_identity_names_everything_that_decides_a_run() -> None:
    """It was written down once: a journal must be found again by a later version."""
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


def test_epochs_take_the_place_of_the_default_steps() -> None:
    """A form fills in the default number of steps; whoever adds epochs wants epochs."""
    assert MiniBatches(epochs=2) == MiniBatches(steps=3000, epochs=2)
    assert MiniBatches(epochs=2).steps is None
    assert (GradientDescent().steps, MiniBatches().steps) == (200, 3000)


BAD_STARTS = [
    "", "one", "zeros:", "zeros:1", "normal", "normal:", "normal:x", "normal:0", "normal:-1",
    "normal:inf", "normal:nan", "Normal:1", "uniform", "uniform:-1", "normal:1:2",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_STARTS)
def test_bad_starts(text: str) -> None:
    message = (
        f"weights cannot start from {text!r}; write `zeros`, or `normal:SCALE` or "
        "`uniform:SCALE` with a positive number, such as `normal:1e-3`"
    )
    with pytest.raises(PipelineError) as caught:
        InitialWeights.parse(text)
    assert str(caught.value) == message
    with pytest.raises(PipelineError):
        GradientDescent(init=text)


def test_starts() -> None:
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
STEPS = [
    # parameters, steps over 1,000 rows
    (GradientDescent(steps=7), 7),
    (GradientDescent(epochs=7), 7),                      # of all rows: one step each
    (MiniBatches(steps=7), 7),
    (MiniBatches(epochs=2, batch_size=100), 20),
    (MiniBatches(epochs=2, batch_size=300), 8),          # the fourth batch has 100
    (MiniBatches(epochs=1, batch_size=1), 1000),
    (MiniBatches(epochs=3, batch_size=1000), 3),
]
# fmt: on


@pytest.mark.parametrize(("parameters", "steps"), STEPS)
def test_the_number_of_steps(parameters: GradientDescent | MiniBatches, steps: int) -> None:
    assert parameters.total_steps(1000) == steps


@pytest.mark.parametrize(
    "parameters", [MiniBatches(steps=5, batch_size=1001), MiniBatches(epochs=5, batch_size=1001)]
)
def test_a_batch_larger_than_the_set_is_refused(parameters: MiniBatches) -> None:
    with pytest.raises(PipelineError, match="a batch of 1001 of 1000 images is not possible"):
        parameters.recipe(1000)


def test_a_recipe_has_the_batches_of_its_method() -> None:
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
def test_bad_schedules(text: str) -> None:
    with pytest.raises(PipelineError, match="no schedule is"):
        parse_schedule(text, 1.0)
